"""Numbers with their intervals: proportions, means over examples, means over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_number, check_positive
from prefix_interp.seeds import derive_generator

_Z95 = 1.959963984540054
# Two-sided 95% quantiles of Student's t for 1 to 10 degrees of freedom.
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class Estimate(float):
    """A measured number with its 95% interval; it computes and compares like a float.

    Example:
        >>> from prefix_interp.estimates import Estimate
        >>> score = Estimate(0.9, low=0.8, high=0.95)
        >>> score > 0.5, score.low
        (True, 0.8)
    """

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> Estimate:
        """Return the number `value` together with its interval."""
        self = super().__new__(cls, value)
        self.low, self.high = float(low), float(high)
        return self

    @property
    def value(self) -> float:
        """Return the number alone."""
        return float(self)

    def __repr__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return Estimate, (self.value, self.low, self.high)

    def to_dict(self) -> dict[str, float]:
        """Return value, low and high as plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def wilson(successes: float | int, n: int) -> Estimate:
    """Return a proportion with its 95% Wilson score interval (Wilson 1927).

    Args:
        successes: between 0 and `n`; may be fractional.
        n: trials, at least 1.

    Raises:
        PrefixInterpError: `n` below 1 or `successes` outside 0..n.
    """
    check_positive("n", n)
    if not 0 <= successes <= n:
        raise PrefixInterpError(f"successes={successes!r} must lie between 0 and n={n}")
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Rounding would move the interval of 0 or n successes slightly off the end it touches.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(p, low, high)


def mean_interval(values: Float[Tensor, "n"]) -> Estimate:
    """Return the mean of independent `values` with its 95% normal interval."""
    x = values.double()
    mean = float(x.mean())
    half = _Z95 * float(x.std(unbiased=True)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return Estimate(mean, mean - half, mean + half)


def bootstrap_interval(
    values: Float[Tensor, "*grid example"], *, level: float = 0.95, resamples: int = 2000,
    seed: int = 0,
) -> tuple[Float[Tensor, "*grid"], Float[Tensor, "*grid"]]:  # fmt: skip
    """Return the lower and upper end of a percentile bootstrap interval of each mean.

    All means, and so their differences, are resampled with the same draws (Efron and Tibshirani
    1993, chapter 13).

    Args:
        values: independent examples along the last axis, at least 2.
        level: share of resamples between the ends, 0 to 1.
        resamples: bootstrap samples.
        seed: determines the draws.

    Raises:
        PrefixInterpError: fewer than 2 examples, or a level outside 0..1.
    """
    n = values.shape[-1]
    if n < 2:
        raise PrefixInterpError(f"values have {n} example, but a bootstrap needs at least 2")
    check_number("level", level, 0.0, 1.0, low_open=True)
    check_positive("resamples", resamples)
    rng = derive_generator(seed, "bootstrap", n)
    drawn = torch.randint(n, (resamples, n), generator=rng)
    counts = torch.zeros(resamples, n, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    means = values.detach().cpu().double() @ counts.T / n
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=-1)
    return low, high


def t_quantile(degrees: int) -> float:
    """Return the two-sided 95% quantile of Student's t.

    Exact to four digits: a table up to 10 degrees of freedom, beyond it the expansion of Fisher
    and Cornish in 1 / degrees.
    """
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = _Z95
    first = (z**3 + z) / 4 / degrees
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96 / degrees**2
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / degrees**3
    return z + first + second + third


def seed_interval(
    values: Sequence[float], low: float = -math.inf, high: float = math.inf
) -> Estimate:
    """Return the mean over seeds with its 95% t interval, cut off at what is possible.

    If all seeds agree the interval has width 0: it describes the spread between seeds, not the
    finite test set of each (`combined_interval` describes both). A single seed has no interval,
    which is represented by width 0.

    Args:
        values: one per seed.
        low: smallest possible value, e.g. 0 for a share.
        high: largest possible value.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, mean, mean)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, max(low, mean - half), min(high, mean + half))


def combined_interval(
    scores: Sequence[Estimate],
    low: float = -math.inf,
    high: float = math.inf,
    *,
    shared: bool = True,
) -> Estimate:
    """Return the mean over seeds with a 95% interval for new seeds *and* new test inputs.

    Let m be the mean of the S scores, s their standard deviation, d_i the distance from score i to
    the lower end of its own interval (over its test inputs), and t the quantile of Student's t.

    - One test set for all seeds (`shared`): seeds and inputs are crossed. The spread between seeds
      contains no error that the common inputs make in all of them, so both are added as squares
      (Newcombe 1998; Zou and Donner 2008): low = m - sqrt(t^2 s^2 / S + mean(d_i)^2). A mean over
      seeds varies over inputs at most as much as single seeds do on average, so this is on the
      safe side if different seeds fail on different inputs.
    - Inputs of its own for each seed: s contains both errors, and the t interval is enough. It is
      widened to mean(d_i) / sqrt(S) if seeds that agree make it narrower.

    The upper end is alike. With no hit among n inputs at any seed the upper end is that of `wilson`
    if the inputs are shared. A single seed has the interval of its test set alone.

    Args:
        scores: one per seed, each with the interval over its test inputs.
        low: smallest possible value, e.g. 0 for a share.
        high: largest possible value.
        shared: whether all seeds were tested on the same inputs.

    Example:
        >>> combined_interval([wilson(0, 800)] * 10, low=0.0)
        0 [0, 0.004779]
    """
    n, values = len(scores), [score.value for score in scores]
    mean = statistics.fmean(values)
    ends = [statistics.fmean(score - score.low for score in scores)]
    ends.append(statistics.fmean(score.high - score for score in scores))
    seeds = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    down, up = (math.hypot(seeds, e) if shared else max(seeds, e / math.sqrt(n)) for e in ends)
    return Estimate(mean, max(low, mean - down), min(high, mean + up))
