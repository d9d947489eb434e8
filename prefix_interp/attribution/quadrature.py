"""The integral of a derivative along a path, checked piece by piece against the function."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

Evaluate = Callable[
    [Float[Tensor, " stack"]],
    tuple[Float[Tensor, "stack batch"], Float[Tensor, "stack *axes batch"]],
]
NODES = 8
FIRST_PIECES = 4
# If a prefix takes most attention, nearly all of the change happens close to gate 0. Cubing the
# quadrature's variable puts most nodes there and changes neither path nor integral.
_POWER = 3


class PathIntegral(NamedTuple):
    """An integral along a path from 0 to 1.

    Attributes:
        values: integral of each share of the derivative.
        error: bound on the error of their sum, per example: the sum of the errors of all pieces.
        steps: number of points at which the derivative was taken.
    """

    values: Float[Tensor, "*axes batch"]
    error: Float[Tensor, " batch"]
    steps: int


class _Piece(NamedTuple):
    start: float
    end: float
    values: Float[Tensor, "*axes batch"]
    error: Float[Tensor, " batch"]


def integrate_path(
    evaluate: Evaluate, allowed: float, max_steps: int, pass_size: int
) -> PathIntegral:
    """Return the integral of a derivative whose shares must add up to the change of a function.

    Gauss-Lobatto quadrature in pieces. Each piece has nodes on both ends, so its integral can be
    compared with the change of the function across it. Pieces with too large an error are halved.
    At `max_steps` it stops with the error that is left.

    Args:
        evaluate: returns the function and its derivative at points between 0 and 1. The derivative
            is split into shares along any axes between the points and the examples.
        allowed: largest error of the sum of any example.
        max_steps: largest number of points.
        pass_size: number of points passed to `evaluate` at once.
    """
    nodes, weights = lobatto(NODES)
    ends = [i / FIRST_PIECES for i in range(FIRST_PIECES + 1)]
    todo, done, steps = list(pairwise(ends)), list[_Piece](), 0
    while True:
        u = torch.tensor(todo, dtype=torch.float64)
        u = u[:, :1] + (u[:, 1:] - u[:, :1]) * nodes
        found = [evaluate(at) for at in (u**_POWER).flatten().split(pass_size)]
        value, slope = (torch.cat(x).unflatten(0, u.shape) for x in zip(*found, strict=True))
        steps += u.numel()
        width = u[:, -1:] - u[:, :1]
        w = (weights * width * _POWER * u ** (_POWER - 1)).to(slope)
        shares = einsum(w, slope, "piece point, piece point ... -> piece ...")
        change = value[:, -1] - value[:, 0]
        error = (shares.flatten(1, -2).sum(1) - change).abs()
        done += [_Piece(*todo[i], shares[i], error[i]) for i in range(len(todo))]
        total = torch.stack([piece.error for piece in done]).sum(0)
        worst = [piece for piece in done if not piece.error.max() <= allowed / len(done)]
        if total.max() <= allowed or steps + 2 * NODES * len(worst) > max_steps:
            return PathIntegral(torch.stack([p.values for p in done]).sum(0), total, steps)
        bad = {(piece.start, piece.end) for piece in worst}
        done = [piece for piece in done if (piece.start, piece.end) not in bad]
        todo = []
        for a, b in sorted(bad):
            todo += [(a, (a + b) / 2), ((a + b) / 2, b)]


def lobatto(n: int) -> tuple[Float[Tensor, " {n}"], Float[Tensor, " {n}"]]:
    """Return nodes from 0 to 1, ends included, and weights exact up to degree 2 n - 3.

    Abramowitz and Stegun 25.4.32.

    Args:
        n: nodes, at least 2.
    """
    p = np.polynomial.legendre.Legendre.basis(n - 1)
    x = np.concatenate([[-1.0], np.sort(p.deriv().roots().real), [1.0]])
    w = 2 / (n * (n - 1) * p(x) ** 2)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)
