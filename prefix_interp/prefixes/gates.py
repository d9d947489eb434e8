"""Exact removal of a prefix at some heads and slots, while others keep it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of


def check_gates(
    model: Model, n_slots: int, gates: Float[Tensor, "*axes"] | None
) -> Float[Tensor, "layer head slot"] | None:
    """Return gates for every layer, head and slot, on the device of `model`; None stays None.

    Args:
        model: defines layers and heads.
        n_slots: number of slots.
        gates: ``layer head`` (for all slots alike) or ``layer head slot``, 0 to 1.

    Raises:
        PrefixInterpError: another shape, or a value outside 0..1.
    """
    if gates is None:
        return None
    host = host_of(model)
    heads = (host.n_layers, host.n_heads)
    if not isinstance(gates, Tensor):
        raise PrefixInterpError(f"gates={gates!r} must be a tensor with axes layer, head[, slot]")
    if tuple(gates.shape) not in (heads, (*heads, n_slots)):
        raise PrefixInterpError(
            f"gates have shape {tuple(gates.shape)}; give {heads} (layer, head) or "
            f"{(*heads, n_slots)} (layer, head, slot)"
        )
    gates = host.cast(gates)
    if not bool(((gates >= 0) & (gates <= 1)).all()):
        raise PrefixInterpError("gates must lie between 0 (dropped) and 1 (kept)")
    return gates[..., None].expand(*heads, n_slots) if gates.ndim == 2 else gates


def gate_scores(gates: Float[Tensor, "head slot"]) -> Callable[..., Tensor]:
    """Return a hook for `hook_attn_scores` that scales the content's mass on leading slots."""
    n_slots = gates.shape[-1]

    def scale(scores: Float[Tensor, "batch head query key"], hook: object) -> Tensor:
        scores = scores.clone()
        # The slots' own rows stay: a row with nothing to attend to would be NaN.
        scores[:, :, n_slots:, :n_slots] += gates[:, None, :].log()
        return scores

    return scale


def shared_softmax(
    content: Float[Tensor, "*batch query"],
    scores: Float[Tensor, "*batch query slot"],
    gates: Float[Tensor, "*gated slot"] | None = None,
) -> tuple[
    Float[Tensor, "*batch query slot"],
    Float[Tensor, "*batch query"],
    Float[Tensor, "*batch query"],
]:
    """Return the attention to each slot, the rest for the content, and the largest score.

    All are of one softmax, which exists if the largest score is finite.

    Differentiable in the gates down to 0, where the slot's mass is 0 but its slope is not.

    Args:
        content: log of the content's summed exponentials.
        scores: of the slots.
        gates: factors of the slots' exponentials, 0 to 1, broadcast; None is 1.
    """
    seen = scores if gates is None else scores.masked_fill(gates == 0, -torch.inf)
    top = torch.maximum(content, seen.amax(-1)).detach()
    # A dropped slot may score far above the rest: clamp it, or 0 times infinity would be NaN.
    mass = (scores - top[..., None]).clamp(max=80.0).exp()
    mass = mass if gates is None else mass * gates
    keep = (content - top).exp()
    total = keep + mass.sum(-1)
    return mass / total[..., None], keep / total, top
