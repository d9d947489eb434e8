"""Nonnegative least squares, and the shortest vector under linear constraints (float64).

After Lawson and Hanson (1974), chapter 23.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-10


def nonnegative(
    matrix: Float[Tensor, "row column"], right: Float[Tensor, " row"], max_steps: int = 3000
) -> Float[Tensor, " column"]:
    """Return the x of 0 or more that minimises the length of ``matrix @ x - right``.

    Args:
        matrix: float64, columns of about equal length.
        right: right-hand side.
        max_steps: bound on the number of least-squares problems.
    """
    x = matrix.new_zeros(matrix.shape[1])
    active = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(max_steps):
        gain = (matrix.T @ (right - matrix @ x)).masked_fill(active, -torch.inf)
        if bool(active.all()) or float(gain.max()) <= _TINY:
            break
        active[int(gain.argmax())] = True
        while True:
            own = torch.zeros_like(x)
            own[active] = torch.linalg.lstsq(matrix[:, active], right[:, None]).solution[:, 0]
            low = active & (own <= 0)
            if not bool(low.any()):
                break
            step = (x[low] / (x[low] - own[low])).min()
            x = x + step * (own - x)
            gone = active & (x <= _TINY * x.max().clamp_min(_TINY))
            if not bool(gone.any()):
                gone = low
            active &= ~gone
            x = x.masked_fill(~active, 0.0)
        x = own
    return x


def least_distance(
    below: Float[Tensor, "row dim"],
    limits: Float[Tensor, " row"],
    on: Float[Tensor, " dim"],
    level: float,
) -> Float[Tensor, " dim"] | None:
    """Return the shortest k with ``on @ k == level`` and ``below @ k <= limits``; None if none.

    Args:
        below: rows of the inequalities.
        limits: their right-hand sides.
        on: row of the equality, not 0.
        level: its right-hand side.
    """
    length = on.norm()
    unit = on / length
    start = unit * (level / length)  # the shortest with on @ k == level; the rest is orthogonal
    rows = below - torch.outer(below @ unit, unit)
    want = below @ start - limits.to(below)  # -rows @ y >= want
    # In units of about its length, the shortest y is the residual of a least-squares problem.
    reach = rows.norm(dim=1).max() if len(rows) else rows.new_zeros(())
    unit_y = 30 * want.abs().max() / reach if float(reach) > 0 else rows.new_ones(())
    rows = rows * unit_y
    size = (rows.norm(dim=1).square() + want.square()).sqrt().clamp_min(1e-300)
    system = torch.cat([-rows.T, want[None]]) / size
    right = torch.zeros(len(system), dtype=system.dtype)
    right[-1] = 1.0
    residual = system @ nonnegative(system, right) - right
    if float(residual.norm()) <= 1e-7:
        return None
    y = -residual[:-1] / residual[-1] * unit_y
    key = start + y - unit * (unit @ y)
    slack = (below @ key - limits).max() if len(below) else torch.tensor(0.0)
    return key if float(slack) <= 1e-6 * (1 + float(key.norm())) else None
