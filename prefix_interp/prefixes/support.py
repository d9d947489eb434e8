"""Which models a prefix fits, and what its slots hold there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.hook_points import HookPoint

from prefix_interp.errors import PrefixInterpError

KeysValues = list[tuple[Tensor, Tensor]]

# What would make a prefix's slots something else than a few more keys and values in the same
# softmax, with the reason a user is told.
_REFUSED = {
    "use_attention_sinks": "its softmax has a learned sink beside the keys",
    "use_logn_attn": "it scales queries by their position",
    "use_dynamic_ntk_rope": "its rotation depends on the length of the sequence",
    "load_in_4bit": "its key and value weights are packed",
}
# TransformerLens keeps its ALiBi bias from one length to the next, which shifts every score.
_POSITIONS = ("standard", "rotary")
_PROJECTED_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")


def check_supported(model: HookedTransformer) -> None:
    """Raise unless leading slots are plain keys and values in every layer of `model`.

    Accepted are all combinations of LN, RMS or no norm, learned or rotary positions,
    grouped queries, query-key norm, score caps, parallel blocks and attention-only models.

    Raises:
        PrefixInterpError: no HookedTransformer, or an attention that breaks the layout.
    """
    if not isinstance(model, HookedTransformer):
        raise PrefixInterpError(
            f"model={type(model).__name__} is not supported; give a transformer_lens "
            "HookedTransformer (build_toy, load_toy)"
        )
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


@contextmanager
def without_hooks(module: torch.nn.Module) -> Iterator[None]:
    """Let `module` compute without the hooks on it, which are meant for the content.

    Caches would hold the slots in place of the content, and a frozen scale would not fit.
    """
    points = [m for m in module.modules() if isinstance(m, HookPoint)]
    saved = [(m, m._forward_hooks, m._backward_hooks) for m in points]
    try:
        for point in points:
            point._forward_hooks, point._backward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for point, forward, backward in saved:
            point._forward_hooks, point._backward_hooks = forward, backward


def kv_heads(model: HookedTransformer) -> int:
    """Return the number of key-value heads (that of all heads without grouped queries)."""
    return model.cfg.n_key_value_heads or model.cfg.n_heads


def to_keys_values(model: HookedTransformer, tensors: Mapping[str, Tensor]) -> KeysValues:
    """Return each layer's slot keys and values, as they stand at `hook_k` and `hook_v`.

    Residual vectors pass through the layer's norm and its key and value projections, biases
    included; free keys and values are taken as they are. Gradients flow to `tensors`, which
    may have axes in front of the layer axis (a stack of prefixes).

    Args:
        model: a supported model.
        tensors: ``vectors``, or ``keys`` and ``values``.
    """
    if "keys" in tensors:
        keys, values = tensors["keys"], tensors["values"]
        return [(keys[..., i, :, :, :], values[..., i, :, :, :]) for i in range(model.cfg.n_layers)]
    return [
        project_keys_values(model, layer, tensors["vectors"][..., layer, :, :])
        for layer in range(model.cfg.n_layers)
    ]


def project_keys_values(
    model: HookedTransformer, layer: int, x: Float[Tensor, "*stack slot d_model"]
) -> tuple[
    Float[Tensor, "*stack slot kv_head d_head"], Float[Tensor, "*stack slot kv_head d_head"]
]:
    """Return keys and values that `layer` makes of attention inputs `x` (before its norm)."""
    return project(model, layer, x, "K"), project(model, layer, x, "V")


def project(
    model: HookedTransformer, layer: int, x: Float[Tensor, "*stack slot d_model"], what: str
) -> Float[Tensor, "*stack slot any_head d_head"]:
    """Return the queries, keys or values that `layer` makes of attention inputs (before its norm).

    Args:
        model: a supported model.
        layer: 0-based.
        x: attention inputs.
        what: ``"Q"``, ``"K"`` or ``"V"``; queries have all heads, the others key-value heads.
    """
    block = model.blocks[layer]
    with without_hooks(block.ln1):
        normed = block.ln1(x)
    # With grouped queries the plain name is expanded to all heads; the underscored is not.
    w, b = (
        own if (own := getattr(block.attn, f"_{name}", None)) is not None
        else getattr(block.attn, name)
        for name in (f"W_{what}", f"b_{what}")
    )  # fmt: skip
    return torch.einsum("...sd,hdk->...shk", normed, w) + b
