"""Which models support a prefix."""

from __future__ import annotations

from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

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
    if isinstance(model, TransformerBridge):
        _check_hub(model)
        return
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
        PrefixInterpError: neither a HookedTransformer nor a TransformerBridge.
    """
    if not isinstance(model, (HookedTransformer, TransformerBridge)):
        what = ""
        if isinstance(model, PreTrainedModel) or type(model).__module__.startswith("peft"):
            what = "; a Hugging Face model goes in through load_pretrained(model)"
        raise PrefixInterpError(
            f"model={type(model).__name__} is not supported; give a transformer_lens "
            "HookedTransformer (build_toy, load_toy) or a language model from load_pretrained"
            f"{what}"
        )


def _check_hub(model: TransformerBridge) -> None:
    """Raise unless a Hugging Face model is of a kind whose slots are plain keys and values.

    What cannot be told from a configuration is found out by `prefixes.exact`.
    """
    config = model.original_model.config
    kind = type(model.original_model).__name__
    rope = getattr(config, "rope_parameters", None) or {}
    first = (
        getattr(model.blocks[0].attn, "original_component", None)
        if hasattr(model, "blocks")
        else None
    )
    reasons = {
        "it has an encoder and a decoder": bool(getattr(config, "is_encoder_decoder", False)),
        "its softmax has a learned sink beside the keys": getattr(first, "sinks", None) is not None,
        "its positions are biases on the scores (ALiBi)": bool(getattr(config, "alibi", False))
        or model.cfg.positional_embedding_type == "alibi",
        "its last layers reuse the keys and values of others": bool(
            getattr(config, "num_kv_shared_layers", 0)
        ),
        "it clips keys and values after the hook that shows them": getattr(config, "clip_qkv", None)
        is not None,
        "its rotation depends on the length of the sequence": rope.get("rope_type", "default")
        in ("dynamic", "longrope"),
        "it is no causal language model": not hasattr(model, "unembed") or first is None,
        "its attention is not eager, so that hooks do not see it; load it with load_pretrained, "
        "or call set_attn_implementation('eager') before it is wrapped": getattr(
            config, "_attn_implementation", "eager"
        )
        != "eager",
        "its weights were processed (enable_compatibility_mode); wrap it again": bool(
            getattr(model, "compatibility_mode", False)
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise PrefixInterpError(f"model={kind} is not supported: {reason}")
