import math
import statistics

import pytest

from analyses.report.tables import share
from analyses.summaries import over_seeds, spread, summarise
from prefix_interp.estimates import wilson

RECORDS = [
    {"seed": 0, "task": "a", "kind": "x", "exact": 0.1, "loss": {"value": 3.0}},
    {"seed": 0, "task": "b", "kind": "x", "exact": 0.3, "loss": {"value": 1.0}},
    {"seed": 1, "task": "a", "kind": "x", "exact": 0.5, "loss": {"value": 2.0}},
    {"seed": 1, "task": "b", "kind": "y", "exact": 0.7, "loss": {"value": 9.0}},
]


def test_values_are_averaged_within_each_seed_before_they_are_spread():
    found = over_seeds(RECORDS, "exact", 1.0)
    means = [0.2, 0.6]
    assert found["mean"] == pytest.approx(0.4) and found["sd"] == pytest.approx(
        statistics.stdev(means)
    )
    assert (found["min"], found["max"]) == pytest.approx((0.2, 0.6))
    assert found["low"] == 0.0 and found["high"] == 1.0  # cut off, as two seeds say little
    assert (
        over_seeds(RECORDS, "loss")["high"] > 9 and over_seeds(RECORDS[:2], "exact")["sd"] is None
    )


def test_one_row_per_group_and_one_over_all_tasks():
    rows = summarise(RECORDS, ("kind", "task"), {"exact": 1.0, "loss": math.inf})
    groups = {(r["kind"], r["task"]): r for r in rows}
    assert list(groups) == [("x", "a"), ("x", "b"), ("y", "b"), ("x", None), ("y", None)]
    assert groups["x", "a"]["n_seeds"] == 2 and groups["x", "b"]["n_seeds"] == 1
    assert groups["x", "a"]["exact"]["mean"] == pytest.approx(0.3)
    assert groups["x", None]["exact"]["mean"] == pytest.approx((0.2 + 0.5) / 2)
    assert groups["x", "a"]["loss"]["mean"] == 2.5


def test_spread_of_evaluations_counts_every_record():
    records = [{"evaluation": {"loss": {"value": x}}} for x in (1.0, 2.0, 6.0)]
    found = spread(records, "loss")
    assert (found["mean"], found["min"], found["max"]) == (3.0, 1.0, 6.0)
    assert found["sd"] == statistics.stdev([1.0, 2.0, 6.0]) and found["high"] > 6


def evaluations(hits, n, **more):
    score = {"exact_match": wilson(hits, n).to_dict()}
    return [
        {"seed": i, "evaluation": score, **{k: v[i] for k, v in more.items()}} for i in range(10)
    ]


def test_no_hit_at_any_seed_leaves_open_what_the_test_set_leaves_open():
    found = spread(evaluations(0, 800), "exact_match")
    assert (found["mean"], found["sd"], found["low"]) == (0.0, 0.0, 0.0)
    assert found["high"] == pytest.approx(wilson(0, 800).high) and found["high"] > 0.0047
    assert "[0.0, 0.5]" in share(found), "and so it is printed"
    every = spread(evaluations(800, 800), "exact_match")
    assert every["low"] == pytest.approx(wilson(800, 800).low) and every["high"] == 1.0


def test_inputs_of_its_own_for_each_seed_leave_less_open():
    own = spread(evaluations(0, 800, test_seed=list(range(10))), "exact_match")
    assert own["high"] == pytest.approx(wilson(0, 800).high / 10**0.5)
    common = spread(evaluations(0, 800, test_seed=[3] * 10), "exact_match")
    assert common["high"] == pytest.approx(wilson(0, 800).high)


def test_several_draws_of_one_seed_count_as_one_test():
    score = {"value": 0.5, "low": 0.4, "high": 0.7}
    rows = [{"seed": seed, "x": score} for seed in (0, 1) for _ in range(3)]
    assert over_seeds(rows, "x", 1.0)["low"] == pytest.approx(0.4)
    assert over_seeds(rows, "x", 1.0)["high"] == pytest.approx(0.7)
