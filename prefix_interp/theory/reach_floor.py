"""The common-numerator certificate: a floor under the squared error of every prefix.

Inputs that share a query differ in their content alone. Let C_i be the content's summed
exponentials for input i and t_i the head's output without a prefix. All slots together add one
mass m >= 0 to the softmax's denominator and one vector N to its numerator, the same for all of
these inputs, so that the head's outputs are

    z_i = (C_i t_i + N) / (C_i + m).

Any number of slots gives such an m and N, and m and N with m > 0 are those of a single slot.
`docs/theory.md` proves the bound that is computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_number
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.tasks import Batch
from prefix_interp.theory.reach_tables import check_one_layer, head_rows
from prefix_interp.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPAN = 300.0  # nats between contents, beyond which squares would overflow
_ROUNDING = 1e-12  # of the size of the problem, taken off each floor


@dataclass(frozen=True, eq=False)
class Floor:
    """The floor under one cell.

    Attributes:
        floor: no prefix has a smaller mean squared error; 0 or more.
        best: the error of the best mass found, which one slot reaches (or comes as near to as
            wanted, if its mass is 0 or infinite).
        log_mass: log mass of that slot; minus or plus infinity at the ends.
    """

    floor: float
    best: float
    log_mass: float


def common_numerator_floor(
    base: Float[Tensor, "row dim"],
    log_content: Float[Tensor, " row"],
    targets: Float[Tensor, "row dim"],
    weights: Float[Tensor, " row"] | None = None,
    *,
    tol: float = 1e-3,
) -> Floor:
    """Return a floor under the mean squared error of every prefix on inputs that share a query.

    It is 0 only if all targets can be had at once, up to rounding and `tol`: then the lines from
    t_i through the targets meet in one point, at shares that one mass gives.

    Args:
        base: t_i, the head's output without a prefix, for each input.
        log_content: log C_i.
        targets: what the head should put out.
        weights: of the inputs, above 0; None for equal ones.
        tol: `floor` and `best` differ by at most this share of `best`.

    Raises:
        PrefixInterpError: shapes that do not fit, numbers that are not finite, contents more than
            300 nats apart, or a tolerance outside 0 to 1.

    Example:
        >>> t = torch.tensor([[0.0], [1.0]])
        >>> found = common_numerator_floor(t, torch.zeros(2), 1 - t)  # no prefix swaps two outputs
        >>> 0.249 < found.floor <= found.best <= 0.25
        True
    """
    check_number("tol", tol, 0.0, 1.0, low_open=True)
    _check(base, log_content, targets, weights)
    t, y, logs = (x.detach().double().cpu() for x in (base, targets, log_content))
    w = torch.ones(len(t)).double() if weights is None else weights.detach().double().cpu()
    w = w / w.sum()
    top = logs.max()
    c = (logs - top).exp()
    p = c[:, None] * (t - y)
    # m from 0 to the largest C as it is, larger ones through 1 / m (see docs/theory.md).
    pieces = (_Piece(p, y, c, torch.ones_like(c), w), _Piece(y, p, torch.ones_like(c), c, w))
    scale = float((w * (t.square().sum(1) + y.square().sum(1))).sum())
    low = torch.tensor([[0.0], [0.0]]).double()
    intervals = [(piece, ends, ends + 1) for piece, ends in zip(pieces, low, strict=True)]
    best, at, floor = float("inf"), (0, 0.0), float("inf")
    for _ in range(200):
        left = [(piece, lo[:0], hi[:0]) for piece, lo, hi in intervals]
        seen: list[tuple[int, Tensor]] = []
        for i, (piece, lo, hi) in enumerate(intervals):
            if not len(lo):
                continue
            bound, point = piece.lower(lo, hi)
            error = piece.error(point)
            k = int(error.argmin())
            if float(error[k]) < best:
                best, at = float(error[k]), (i, float(point[k]))
            seen.append((i, bound))
        enough = min((1 - tol) * best, best - _ROUNDING * scale)
        for i, bound in seen:
            piece, lo, hi = intervals[i]
            done = (bound >= enough) | (hi - lo <= 1e-14 * hi)
            floor = min([floor, *bound[done].tolist()])
            mid = piece.middle(lo[~done], hi[~done])
            left[i] = piece, torch.cat([lo[~done], mid]), torch.cat([mid, hi[~done]])
        intervals = left
        if not any(len(lo) for _, lo, _ in intervals):
            break
    else:
        rest = [float(piece.lower(lo, hi)[0].min()) for piece, lo, hi in intervals if len(lo)]
        floor = min([floor, *rest])
    which, s = at
    mass = s if which == 0 else (1 / s if s else float("inf"))
    log_mass = float(torch.tensor(mass).double().log() + top)
    return Floor(max(0.0, min(floor, best) - _ROUNDING * scale), best, log_mass)


@dataclass(frozen=True, eq=False)
class _Piece:
    """The error as a function of s in 0..1: the mean of |a_i - s b_i + N|^2 / (c_i + d_i s)^2.

    With N best for each s. The bound: over an interval the denominators are at most those at its
    upper end; with these fixed, what is left is a convex parabola in s.
    """

    a: Float[Tensor, "row dim"]
    b: Float[Tensor, "row dim"]
    c: Float[Tensor, " row"]
    d: Float[Tensor, " row"]
    w: Float[Tensor, " row"]

    def _centred(self, s: Float[Tensor, " s"]) -> tuple[Tensor, Tensor, Tensor]:
        v = self.w / (self.c + self.d * s[:, None]).square()
        share = v / v.sum(dim=1, keepdim=True)
        a, b = (x - torch.einsum("sr,rd->sd", share, x)[:, None] for x in (self.a, self.b))
        return v, a, b

    def error(self, s: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
        """Return the error at s."""
        v, a, b = self._centred(s)
        return (v * (a - s[:, None, None] * b).square().sum(-1)).sum(-1)

    def lower(
        self, lo: Float[Tensor, " s"], hi: Float[Tensor, " s"]
    ) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
        """Return a lower bound over each interval, and the s at which its parabola is lowest."""
        v, a, b = self._centred(hi)
        slope = (v * (a * b).sum(-1)).sum(-1)
        bend = (v * b.square().sum(-1)).sum(-1)
        s = (slope / bend.clamp_min(1e-300)).clamp(lo, hi)
        return (v * (a - s[:, None, None] * b).square().sum(-1)).sum(-1), s

    def middle(self, lo: Float[Tensor, " s"], hi: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
        """Return where to halve intervals: there the denominators' ratio is halved in logs."""
        edge = (self.c / self.d).min()
        return ((edge + lo) * (edge + hi)).sqrt() - edge


@dataclass(frozen=True, eq=False, repr=False)
class Floors(ResultObject):
    """A floor under the squared error of every prefix, cell by cell.

    Attributes:
        cells: columns head, pos (0-based), token, n (inputs that share this query), floor, best,
            log_mass (see `Floor`), without (mean squared error without a prefix).
    """

    cells: pd.DataFrame

    @property
    def floor(self) -> float:
        """Return the floor under the mean squared error of a row and head."""
        return self._mean("floor")

    @property
    def share(self) -> float:
        """Return the floor as a share of the error without a prefix."""
        return self.floor / without if (without := self._mean("without")) else 0.0

    def _mean(self, column: str) -> float:
        n, values = self.cells["n"].tolist(), self.cells[column].tolist()
        return sum(x * y for x, y in zip(n, values, strict=True)) / sum(n)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head and cell."""
        return self.cells

    def caption(self) -> str:
        """Return the floor, and how much of the error it is."""
        return (
            f"{counted(len(self.cells), 'cell')}: no prefix has a "
            f"mean squared error below {self.floor:.4g}, {100 * self.share:.3g} % of that without "
            f"a prefix; a table reaches {self._mean('best'):.4g}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the floor of each cell against its error without a prefix."""
        return drawing("reachability.floors_figure")(self.cells, figsize=figsize, width=width)


def unreachable(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    targets: Float[Tensor, "batch pos head d_head"],
    *,
    tol: float = 1e-3,
) -> Floors:
    """Return how far head outputs stay from given targets under every prefix of any length.

    Rows with equal token and position share a query; see `common_numerator_floor`. The floor is
    certified up to rounding, for prefixes of both parameterizations.

    Args:
        model: a toy with one layer.
        tokens: content, without slots.
        targets: what the heads should put out, as at `hook_z`, e.g. a fine-tuned model's
            (`outputs_without_prefix`).
        tol: see `common_numerator_floor`.

    Raises:
        PrefixInterpError: more than one layer, no toy, or shapes that do not fit.

    Example:
        >>> from prefix_interp.theory.reach_tables import outputs_without_prefix
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> tuned = pi.load_toy("sort-descending-1l1h-fine-tuned")
        >>> floors = unreachable(toy, tokens, outputs_without_prefix(tuned, tokens))
        >>> bool((floors.cells.floor <= floors.cells.best).all())
        True
    """
    check_one_layer(model)
    host = host_of(model)
    want = (*tokens.shape, host.n_heads, host.d_head)
    if tuple(targets.shape) != want:
        raise PrefixInterpError(
            f"targets have shape {tuple(targets.shape)}; give {want}: batch, pos, head, d_head"
        )
    with torch.no_grad():
        rows = head_rows(model, Batch(tokens, tokens).to(host.device))
    cell, found = rows.cell.flatten(), []
    base, goal = rows.base.flatten(0, 1), targets.flatten(0, 1).to(rows.base.device)
    logs = rows.log_content.flatten(0, 1)
    for head in range(host.n_heads):
        for one in cell.unique().tolist():
            own = cell == one
            t, y = base[own, head], goal[own, head]
            at = common_numerator_floor(t, logs[own, head], y, tol=tol)
            found.append(
                {
                    "head": head, "pos": one // host.d_vocab, "token": one % host.d_vocab,
                    "n": int(own.sum()), "floor": at.floor, "best": at.best,
                    "log_mass": at.log_mass,
                    "without": float((t - y).double().square().sum(-1).mean()),
                }
            )  # fmt: skip
    return Floors(pd.DataFrame(found))


def _check(base: Tensor, log_content: Tensor, targets: Tensor, weights: Tensor | None) -> None:
    if base.ndim != 2 or base.shape != targets.shape or not len(base):
        raise PrefixInterpError(
            f"base {tuple(base.shape)} and targets {tuple(targets.shape)} must have the same two "
            "axes, input and dimension, and at least one input"
        )
    given = {"log_content": log_content} | ({} if weights is None else {"weights": weights})
    for name, x in given.items():
        if tuple(x.shape) != (len(base),):
            raise PrefixInterpError(
                f"{name} has shape {tuple(x.shape)}; give ({len(base)},), one number per input"
            )
    for name, x in {"base": base, "targets": targets, **given}.items():
        if not bool(torch.isfinite(x).all()):
            raise PrefixInterpError(f"{name} holds NaN or infinity; give finite numbers")
    if weights is not None and not bool((weights > 0).all()):
        raise PrefixInterpError("weights must be above 0; leave inputs without weight out")
    span = float(log_content.max() - log_content.min())
    if span > _SPAN:
        raise PrefixInterpError(
            f"log_content spans {span:.0f} nats; give inputs at most {_SPAN:.0f} nats apart"
        )
