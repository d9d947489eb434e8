"""Points and functions on the sphere S^m, and how sharp a kernel may be for its points."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.seeds import derive_generator, derive_seed

N_NORMALISE = 2**16  # points to estimate a function's mean and variance


def random_points(dim: int, n: int, rng: torch.Generator) -> Float[Tensor, "batch coordinate"]:
    """Return `n` independent uniform points on S^dim, as unit vectors in dim + 1 coordinates.

    Args:
        dim: m, at least 1.
        n: at least 1.
        rng: what to draw from.

    Raises:
        PrefixInterpError: `dim` or `n` below 1.
    """
    _check_sizes(dim, n)
    return _unit(torch.randn(n, dim + 1, generator=rng, dtype=torch.float64))


def even_points(dim: int, n: int, seed: int = 0) -> Float[Tensor, "slot coordinate"]:
    """Return `n` points spread evenly over S^dim, randomly rotated.

    On the circle they are equally spaced, on S^2 they form a Fibonacci lattice. In higher
    dimensions they are a normalised scrambled Sobol sequence of normal vectors, which is the least
    even.

    Args:
        dim: m, at least 1.
        n: at least 1.
        seed: decides rotation and scrambling.

    Raises:
        PrefixInterpError: `dim` or `n` below 1.
    """
    _check_sizes(dim, n)
    index = torch.arange(n, dtype=torch.float64)
    if dim == 1:
        angle = 2 * math.pi * index / n
        points = torch.stack([angle.cos(), angle.sin()], dim=-1)
    elif dim == 2:
        height = 1 - (2 * index + 1) / n  # bands of equal area, one point in each
        angle, radius = math.pi * (1 + math.sqrt(5)) * index, (1 - height**2).sqrt()
        points = torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)
    else:
        scramble = derive_seed(seed, "sphere", "scramble", dim) % 2**31
        sobol = torch.quasirandom.SobolEngine(dim + 1, scramble=True, seed=scramble)
        uniform = sobol.draw(n, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        points = _unit(torch.special.ndtri(uniform))
    rng = derive_generator(seed, "sphere", "rotation", dim)
    normal = torch.randn(dim + 1, dim + 1, generator=rng, dtype=torch.float64)
    return points @ torch.linalg.qr(normal)[0]


def spacing(dim: int, n: int) -> float:
    """Return the side of a cube with the volume per point of `n` even points on S^dim."""
    _check_sizes(dim, n)
    area = 2 * math.pi ** ((dim + 1) / 2) / math.gamma((dim + 1) / 2)
    return (area / n) ** (1 / dim)


def concentration(dim: int, n: int) -> float:
    """Return kappa of a kernel exp(kappa <x, p>) that suits `n` even points p on S^dim.

    Near p the kernel is a Gaussian of variance 1 / kappa. Two errors compete. Smoothing changes a
    function by about its Laplacian over 2 kappa. And a sum over points at distance h differs from
    the integral: by Poisson's formula the largest wave of the difference has size exp(-2 pi^2 /
    (kappa h^2)). With smaller kappa the second error falls far faster than the first rises, so
    kappa is set to make it 1 / (1 + n^(2 / dim)), the order of the first. Hence

        kappa = 2 pi^2 / (h^2 ln(1 + n^(2 / dim)))

    and an error of order ln(n) n^(-2 / dim) for functions with two derivatives.

    Args:
        dim: m, at least 1.
        n: points, at least 1.

    Raises:
        PrefixInterpError: `dim` or `n` below 1.
    """
    return 2 * math.pi**2 / (spacing(dim, n) ** 2 * math.log(1 + n ** (2 / dim)))


def sphere_functions(
    points: Float[Tensor, "batch coordinate"],
) -> dict[str, Float[Tensor, "batch out"]]:
    """Return continuous functions on the sphere by name, each of mean 0 and variance 1.

    - ``"harmonic"``: x_1 x_2, of degree 2.
    - ``"bumps"``: three bumps exp(6 (<x, c> - 1)) of either sign.
    - ``"kink"``: |x_1|, continuous with a kink on a great circle.
    - ``"waves"``: sin(4 x_i) for every coordinate i, a function with dim + 1 outputs.

    Args:
        points: unit vectors with at least 2 coordinates.

    Raises:
        PrefixInterpError: too few coordinates.
    """
    if points.shape[1] < 2:
        raise PrefixInterpError(
            f"points have {points.shape[1]} coordinate; give unit vectors with at least 2"
        )
    moments = _moments(points.shape[1] - 1)
    return {
        name: (values - moments[name][0]) / moments[name][1]
        for name, values in _raw_functions(points).items()
    }


def _raw_functions(x: Tensor) -> dict[str, Tensor]:
    first, second, last = x[:, 0], x[:, 1], x[:, -1]
    centres = (first, 0.8 * second - 0.6 * first, -0.8 * last - 0.6 * first)
    heights = (1.0, -1.0, 0.7)
    bumps = [h * (6 * (c - 1)).exp() for h, c in zip(heights, centres, strict=True)]
    return {
        "harmonic": (first * second)[:, None],
        "bumps": torch.stack(bumps).sum(dim=0)[:, None],
        "kink": first.abs()[:, None],
        "waves": (4 * x).sin(),
    }


@lru_cache
def _moments(dim: int) -> dict[str, tuple[Tensor, Tensor]]:
    points = random_points(dim, N_NORMALISE, derive_generator(0, "sphere", "normalise", dim))
    return {k: (v.mean(dim=0), v.std(dim=0)) for k, v in _raw_functions(points).items()}


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _check_sizes(dim: int, n: int) -> None:
    check_positive("dim", dim)
    check_positive("n", n)
