import math
import pickle
import statistics

import pytest
import torch

import prefix_interp as pi
from prefix_interp.estimates import (
    Estimate,
    bootstrap_interval,
    combined_interval,
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


def coverage(interval, mean, draw, trials=800):
    """The share of simulated studies whose interval holds the true mean."""
    rng = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(trials):
        found = interval([wilson(int(row.sum()), len(row)) for row in draw(rng)])
        held += found.low <= mean <= found.high
    return held / trials


def hits(rng, spread, shared, n_seeds=10, n=200):
    """Hits of each seed: three inputs of ten are easy; a seed gets its own share of them."""
    share = 1 - spread * torch.rand(n_seeds, 1, generator=rng)
    easy = torch.rand(1 if shared else n_seeds, n, generator=rng) < 0.3
    return easy & (torch.rand(n_seeds, n, generator=rng) < share)


@pytest.mark.parametrize(("spread", "most"), [(0.05, 0.97), (0.2, 0.98), (0.5, 0.99)])
def test_combined_interval_covers_where_the_t_interval_misses_the_common_inputs(spread, most):
    # The error of the inputs is common to all seeds. The more inputs a seed fails on that others
    # do not, the wider the interval is than it must be.
    mean = 0.3 * (1 - spread / 2)
    covered = coverage(combined_interval, mean, lambda rng: hits(rng, spread, shared=True))
    assert 0.93 <= covered <= most
    alone = coverage(seed_interval, mean, lambda rng: hits(rng, spread, shared=True))
    assert alone < 0.8


@pytest.mark.parametrize("spread", [0.2, 0.9])
def test_with_inputs_of_its_own_for_each_seed_the_t_interval_is_enough(spread):
    mean = 0.3 * (1 - spread / 2)

    def fresh(scores):
        return combined_interval(scores, shared=False)

    def draw(rng):
        return hits(rng, spread, shared=False)

    assert 0.93 <= coverage(fresh, mean, draw) <= 0.985
    assert coverage(combined_interval, mean, draw) > 0.985, "safe, but wider than it must be"


def test_combined_interval_by_hand():
    scores = [Estimate(0.2, 0.1, 0.4), Estimate(0.4, 0.2, 0.5)]
    half = 12.7062 * (0.02**0.5) / 2**0.5  # of the two seeds
    got = combined_interval(scores)
    assert got.value == pytest.approx(0.3)
    assert got.low == pytest.approx(0.3 - math.hypot(half, 0.15))
    assert got.high == pytest.approx(0.3 + math.hypot(half, 0.15))
    cut = combined_interval(scores, low=0.0, high=1.0)
    assert (cut.low, cut.high) == (0.0, 1.0)
    fresh = combined_interval([Estimate(0.3, 0.1, 0.4)] * 4, shared=False)
    assert (fresh.low, fresh.high) == pytest.approx((0.2, 0.35))


def test_combined_interval_of_seeds_that_agree_is_that_of_the_test_set():
    for k in (0, 37, 800):
        own, got = wilson(k, 800), combined_interval([wilson(k, 800)] * 10, 0.0, 1.0)
        assert (got, got.low, got.high) == pytest.approx((own, own.low, own.high))
    alone = combined_interval([wilson(3, 10)])
    assert (alone.low, alone.high) == pytest.approx((wilson(3, 10).low, wilson(3, 10).high))
