"""Rows and words that the studies of single tokens share, on toys and a language model."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor


def distinct_row(
    kind: str, tried: int, distinct: int | float, n_out: int, **more: Any
) -> dict[str, Any]:
    """Return how many continuations one kind of token calls up.

    Args:
        kind: kind of token, e.g. ``"hard"``.
        tried: how many tokens.
        distinct: how many different continuations.
        n_out: tokens of each continuation.
        more: further keys that identify the kind.
    """
    return {"kind": kind, **more, "n_out": n_out, "tried": tried, "distinct": distinct}


def length_row(
    targets: Int[Tensor, "target n_out"],
    emitted: Int[Tensor, "target n_out"],
    losses: Float[Tensor, " target"],
) -> dict[str, Any]:
    """Return the results of the searches for one length.

    Args:
        targets: what the soft tokens should make the model emit.
        emitted: what they make the model emit.
        losses: loss of each search, mean over its tokens in nats.
    """
    right = emitted == targets
    return {
        "length": targets.shape[1], "tried": len(targets),
        "reached": int(right.all(dim=1).sum()),
        "tokens_right": float(right.double().mean()),
        "loss": float(losses.mean()),
    }  # fmt: skip


def counted(n: int | float, word: str, digits: int = 0) -> str:
    """Return a number with its noun: ``1 token``, ``3.7 tokens``.

    Args:
        n: how many.
        word: singular.
        digits: number of decimals.
    """
    return f"{n:.{digits}f} {word}{'' if n == 1 else 's'}"
