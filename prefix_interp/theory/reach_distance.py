"""How far given head outputs are from what a gate and a bias of low rank can reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.figure_files import Size, Width
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRADIENT_STEPS = 200
_SAME = 1e-9  # relative change of the error at which a start has converged


@dataclass(frozen=True, eq=False, repr=False)
class ReachDistance(ResultObject):
    """How much of a target of head outputs no gate and no bias of rank n_slots were found to reach.

    A prefix of n_slots slots gives (1 - g) t + b with a gate of 0 to 1 at each row and a bias b of
    rank at most n_slots. Here gates and bias are free of each other, so a prefix can be further
    away. The search is not convex: the distance is the smallest found.

    Attributes:
        n_slots: the ranks.
        error: mean squared distance of a row, by rank.
        without: that of the outputs without a prefix.
        gates: the gates found, by rank.
        n_starts: starts for each rank, besides the best gates of the rank before.

    Example:
        >>> t = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> found = reach_distance(t, 0.5 * t + torch.ones(4), n_slots=(1,))
        >>> float(found.share[0]) < 1e-6  # a gate and one direction are enough
        True
    """

    n_slots: tuple[int, ...]
    error: Float[Tensor, " rank"]
    without: float
    gates: Float[Tensor, "rank row"]
    n_starts: int

    @property
    def share(self) -> Float[Tensor, " rank"]:
        """Return the error as a share of that without a prefix, 0 to 1."""
        return self.error / self.without if self.without else torch.zeros_like(self.error)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per rank: ``n_slots``, ``error``, ``share`` and the mean ``gate``."""
        return pd.DataFrame(
            {
                "n_slots": list(self.n_slots), "error": self.error.tolist(),
                "share": self.share.tolist(), "gate": self.gates.mean(dim=1).tolist(),
            }
        )  # fmt: skip

    def caption(self) -> str:
        """Return what is left of the way to the target, by rank."""
        left = ", ".join(
            f"{100 * x:.3g} % with {n}"
            for n, x in zip(self.n_slots, self.share.tolist(), strict=True)
        )
        return f"left of the squared distance to the target, by number of slots: {left}"

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the share that is left against the number of slots."""
        return drawing("reachability.distance_figure")(self, figsize=figsize, width=width)


def reach_distance(
    base: Float[Tensor, "row dim"],
    targets: Float[Tensor, "row dim"],
    n_slots: int | Sequence[int],
    *,
    starts: int = 3,
    steps: int = 200,
    seed: int = 0,
) -> ReachDistance:
    """Return the distance of a head's target outputs to a gate and a bias of rank n_slots.

    For given gates the best bias is a truncated singular value decomposition; for the bias's
    subspace the best gates have a closed form. The two take turns, after a gradient search on the
    gates, from gates of 0, of 1/2 and of
    noise, and from those of the next lower rank, so that more slots never seem worse.

    Args:
        base: t, the head's output without a prefix.
        targets: what it should put out, e.g. a fine-tuned head's output.
        n_slots: one rank or several in rising order, at least 1.
        starts: starts for each rank, at least 1.
        steps: turns at most.
        seed: of the random gates.

    Raises:
        PrefixInterpError: shapes that do not fit, numbers that are not finite, or ranks that are
            not in rising order.

    Example:
        >>> t = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> far = reach_distance(t, t.roll(1, 0), n_slots=(1, 2, 4))
        >>> bool(far.share[0] > far.share[1] > far.share[2])
        True
    """
    ranks = (n_slots,) if isinstance(n_slots, int) else tuple(n_slots)
    for n in ranks:
        check_positive("n_slots", n)
    check_positive("starts", starts)
    check_positive("steps", steps)
    if not ranks or sorted(set(ranks)) != list(ranks):
        raise PrefixInterpError(f"n_slots={ranks} must be ranks in rising order, at least one")
    if base.ndim != 2 or base.shape != targets.shape or not len(base):
        raise PrefixInterpError(
            f"base {tuple(base.shape)} and targets {tuple(targets.shape)} must have the same two "
            "axes, row and dimension, and at least one row"
        )
    t, y = (x.detach().double().cpu() for x in (base, targets))
    if not bool(torch.isfinite(t).all() and torch.isfinite(y).all()):
        raise PrefixInterpError("base and targets must be finite")
    found: list[tuple[float, Tensor]] = []
    for rank in ranks:
        begins = [gates for _, gates in found[-1:]]
        for i in range(starts):
            rng = derive_generator(seed, "reach-distance", rank, i)
            noise = torch.rand(len(t), generator=rng, dtype=torch.float64)
            begins.append(noise if i > 1 else torch.full_like(noise, i / 2))
        found.append(min((_turns(t, y, g, rank, steps) for g in begins), key=lambda x: x[0]))
    return ReachDistance(
        n_slots=ranks,
        error=torch.tensor([error for error, _ in found]),
        without=float((y - t).square().sum(dim=1).mean()),
        gates=torch.stack([gates for _, gates in found]).float(),
        n_starts=starts,
    )


def _turns(
    t: Float[Tensor, "row dim"],
    y: Float[Tensor, "row dim"],
    gates: Float[Tensor, " row"],
    rank: int,
    steps: int,
) -> tuple[float, Float[Tensor, " row"]]:
    """Return the error at the end of one start, and its gates.

    The turns creep along valleys, so a gradient search on the gates, with the best subspace at
    every step, goes before them.
    """
    gates = gates.clone()
    adam = torch.optim.Adam([gates], lr=0.05)
    for step in range(_GRADIENT_STEPS):
        a, b = _outside(t, y, gates, rank)
        gates.grad = 2 * (a * (b - (1 - gates)[:, None] * a)).sum(1)
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / _GRADIENT_STEPS)
        adam.step()
        gates.clamp_(0, 1)
    before = error = float("inf")
    for _ in range(steps):
        a, b = _outside(t, y, gates, rank)
        kept = ((a * b).sum(1) / a.square().sum(1).clamp_min(1e-300)).clamp(0, 1)
        gates = 1 - kept
        error = float((b - kept[:, None] * a).square().sum(1).mean())
        if before - error <= _SAME * before:
            break
        before = error
    return error, gates


def _outside(
    t: Float[Tensor, "row dim"],
    y: Float[Tensor, "row dim"],
    gates: Float[Tensor, " row"],
    rank: int,
) -> tuple[Float[Tensor, "row out"], Float[Tensor, "row out"]]:
    """Return both outside the best subspace of this rank for these gates."""
    rest = y - (1 - gates)[:, None] * t
    outside = torch.linalg.eigh(rest.T @ rest)[1][:, : max(0, t.shape[1] - rank)]
    return t @ outside, y @ outside
