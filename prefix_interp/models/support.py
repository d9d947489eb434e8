"""Which models support a prefix."""

from __future__ import annotations

from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.model import Model

# Settings under which slots would not simply be more keys and values in the same softmax, with the
# reason given to the user.
_REFUSED = {
    "use_attention_sinks": "its softmax has a learned sink beside the keys",
    "use_logn_attn": "it scales queries by their position",
    "use_dynamic_ntk_rope": "its rotation depends on the length of the sequence",
    "load_in_4bit": "its key and value weights are packed",
}
# TransformerLens reuses its ALiBi bias at other lengths, which shifts every score.
_POSITIONS = ("standard", "rotary")
_PROJECTED_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")


def check_supported(model: Model) -> None:
    """Raise unless leading slots are plain keys and values in every layer of `model`.

    Accepted are all combinations of LN, RMS or no norm, learned or rotary positions,
    grouped queries, query-key norm, score caps, parallel blocks and attention-only models.

    Raises:
        PrefixInterpError: not a HookedTransformer, or an attention that breaks the layout.
    """
    check_kind(model)
    cfg = model.cfg
    for name, reason in _REFUSED.items():
        if getattr(cfg, name, False):
            raise PrefixInterpError(
                f"model.cfg.{name}=True is not supported: {reason}; use a model without it"
            )
    if cfg.use_local_attn and "local" in (cfg.attn_types or []):
        raise PrefixInterpError(
            f"model.cfg.window_size={cfg.window_size} is not supported: later queries would not "
            "see the slots; use a model with global attention"
        )
    if cfg.positional_embedding_type not in _POSITIONS:
        raise PrefixInterpError(
            f"model.cfg.positional_embedding_type={cfg.positional_embedding_type!r} is not "
            f"supported; use one of {', '.join(map(repr, _POSITIONS))}"
        )
    if cfg.original_architecture in _PROJECTED_QK_NORM:
        raise PrefixInterpError(
            f"model.cfg.original_architecture={cfg.original_architecture!r} is not supported: it "
            "has no norm before attention, or norms keys across heads; use another model"
        )


def check_kind(model: object) -> None:
    """Raise unless `model` is of a kind that the library knows.

    Raises:
        PrefixInterpError: not a HookedTransformer.
    """
    if not isinstance(model, HookedTransformer):
        raise PrefixInterpError(
            f"model={type(model).__name__} is not supported; give a transformer_lens "
            "HookedTransformer (build_toy, load_toy)"
        )
