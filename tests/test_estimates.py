import math
import pickle
import statistics

import pytest
import torch

import prefix_interp as pi
from prefix_interp.estimates import (
    Estimate,
    bootstrap_interval,
    mean_interval,
    seed_interval,
    t_quantile,
    wilson,
)


def test_wilson_solves_its_quadratic():
    # The interval's ends are where |p - x| = z sqrt(x (1 - x) / n), by definition.
    for k, n in [(0, 10), (3, 10), (50, 100), (3199, 3200), (7, 7)]:
        got = wilson(k, n)
        z = 1.959963984540054
        for end in (got.low, got.high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n))
        assert got.low <= got <= got.high
    assert wilson(0, 10).low == 0 and wilson(7, 7).high == 1


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_nonsense(k, n):
    with pytest.raises(pi.PrefixInterpError):
        wilson(k, n)


def test_mean_interval_is_the_normal_one():
    x = torch.tensor([1.0, 2.0, 4.0, 9.0])
    got = mean_interval(x)
    half = 1.959963984540054 * (x.double().var().item() / 4) ** 0.5
    assert got.value == 4.0 and got.high - got.low == pytest.approx(2 * half)


def test_estimate_is_a_float_that_remembers():
    x = Estimate(0.5, 0.4, 0.6)
    assert x + 1 == 1.5 and x.value == 0.5 and "0.4" in repr(x)


def test_estimate_survives_a_pickle_and_becomes_json():
    x = pickle.loads(pickle.dumps(Estimate(0.5, 0.4, 0.6)))
    assert (x, x.low, x.high) == (0.5, 0.4, 0.6)
    assert x.to_dict() == {"value": 0.5, "low": 0.4, "high": 0.6}


def test_bootstrap_interval_covers_like_the_normal_one():
    """For a mean of many values the percentile interval is the normal one."""
    x = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)).double() + 3
    low, high = bootstrap_interval(x)
    for row in range(2):
        half = 1.959963984540054 * float(x[row].std()) / 20
        mean = float(x[row].mean())
        assert float(low[row]) == pytest.approx(mean - half, abs=0.15 * half)
        assert float(high[row]) == pytest.approx(mean + half, abs=0.15 * half)
    narrow = bootstrap_interval(x, level=0.5)
    assert (narrow[0] > low).all() and (narrow[1] < high).all()


def test_bootstrap_resamples_all_means_alike():
    """A constant shift shifts the interval, and the same seed gives the same draws."""
    x = torch.rand(7, generator=torch.Generator().manual_seed(0)).double()
    low, high = bootstrap_interval(torch.stack([x, x + 5, -x]))
    assert torch.allclose(low[1] - low[0], torch.tensor(5.0).double())
    assert torch.allclose(high[1] - high[0], torch.tensor(5.0).double())
    assert torch.allclose(low[2], -high[0]) and torch.allclose(high[2], -low[0])
    again = bootstrap_interval(x)
    assert float(again[0]) == float(low[0]) and again[0].ndim == 0
    assert not torch.equal(bootstrap_interval(x, seed=1)[0], again[0])


def test_bootstrap_of_two_values_against_all_four_resamples():
    # Means 0, 1/2, 1/2, 1, each as likely: a quarter of the mass lies at each end.
    low, high = bootstrap_interval(torch.tensor([0.0, 1.0]), level=0.3)
    assert (float(low), float(high)) == (0.5, 0.5)
    low, high = bootstrap_interval(torch.tensor([0.0, 1.0]), level=0.9)
    assert (float(low), float(high)) == (0.0, 1.0)


def test_bootstrap_refuses_nonsense():
    with pytest.raises(pi.PrefixInterpError, match="needs at least 2"):
        bootstrap_interval(torch.ones(3, 1))
    for level in (0.0, 1.5, float("nan")):
        with pytest.raises(pi.PrefixInterpError, match="level"):
            bootstrap_interval(torch.ones(3), level=level)
    with pytest.raises(pi.PrefixInterpError, match="resamples=0"):
        bootstrap_interval(torch.ones(3), resamples=0)


@pytest.mark.parametrize(
    ("degrees", "known"),
    [(1, 12.7062), (9, 2.2622), (11, 2.2010), (15, 2.1314), (30, 2.0423), (120, 1.9799)],
)
def test_t_quantile_against_printed_tables(degrees, known):
    assert t_quantile(degrees) == pytest.approx(known, abs=2e-4)


def test_seed_interval_is_cut_off_at_what_is_possible():
    found = seed_interval([0.0, 0.0, 0.3], low=0.0, high=1.0)
    assert found == pytest.approx(0.1) and found.low == 0.0
    assert found.high == pytest.approx(0.5303, abs=1e-3)
    alone = seed_interval([0.4])
    assert alone.low == alone.high == 0.4


def test_seed_interval_is_that_of_students_t():
    values = [0.2, 0.5, 0.35, 0.1]
    found = seed_interval(values)
    half = 3.1824 * statistics.stdev(values) / 2
    assert found == pytest.approx(statistics.fmean(values))
    assert (found.low, found.high) == pytest.approx((found - half, found + half))
    same = seed_interval([0.7, 0.7, 0.7])
    assert same.low == same.high == pytest.approx(0.7)
