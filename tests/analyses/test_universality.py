import json

import pytest
import torch

import prefix_interp as pi
from prefix_interp.experiments.universality import (
    METHODS,
    PROTOCOLS,
    log_slope,
    universality,
    universality_seed,
)
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.sphere import random_points, sphere_functions
from prefix_interp.theory.universality import kernel_head, slots_for


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def records(work):
    return universality_seed(0, "smoke", work)["records"]


def chosen(records, part, **keys):
    return [r for r in records if r["part"] == part and all(r[k] == v for k, v in keys.items())]


def test_every_row_is_there_and_theory_holds_in_each(records):
    json.dumps(records, allow_nan=False)
    size = PROTOCOLS["smoke"]
    fits = [r for r in chosen(records, "fit") if r["n_slots"]]
    assert [(r["method"], r["n_slots"]) for r in fits] == [
        (m, n) for m in METHODS for n in size.n_prefixes
    ]
    for row in fits:
        assert row["eq6"] < 1e-14 and row["eq7"] < 1e-13
        assert row["rank"] == min(row["n_slots"], 6) <= row["bound"] == min(row["n_slots"], 13)
        assert 0.9 < row["gate_in_company"] < row["gate"] < 1
        for name, error in row["rmse"].items():
            assert error <= row["max_error"][name]
            assert row["rmse_float32"][name] == pytest.approx(error, rel=1e-3)
    assert len(chosen(records, "sharpness")) == 2 * len(size.sharpnesses)
    assert len(chosen(records, "gate")) == 2 * len(size.gates)


def test_error_falls_and_controls_do_not_fit(records):
    (floor,) = chosen(records, "fit", method="constant")
    for method in METHODS:
        first, *_, last = chosen(records, "fit", method=method)
        (order,) = chosen(records, "order", method=method)
        for name, constant in floor["rmse"].items():
            if method == "random values":
                assert last["rmse"][name] > constant
                assert order["rmse"][name] < 0.3
            else:
                assert last["rmse"][name] < 0.5 * first["rmse"][name]
                assert last["rmse"][name] < 0.5 * constant
                assert order["rmse"][name] > 0.3


def test_a_row_is_that_of_its_prefix_computed_again(records):
    size = PROTOCOLS["smoke"]
    points = random_points(2, size.n_test, derive_generator(0, "universality", "test", 2))

    def function(x):
        return torch.cat(list(sphere_functions(x).values()), dim=1)

    head = kernel_head(2, 6)
    prefix = slots_for(head, function, 64, "least_squares", gate=size.gate, sharpness=0.25, seed=0)
    misses = (head.outputs(prefix, points[:, None])[:, 0] - function(points)).abs()
    (row,) = chosen(records, "fit", method="least squares, flat", n_slots=64)
    assert row["rmse"]["kink"] == pytest.approx(float(misses[:, 2].square().mean().sqrt()))
    assert row["max_error"]["waves"] == pytest.approx(float(misses[:, 3:].max()))
    assert row["largest_value"] == pytest.approx(float(prefix.vectors[0, :, 7:].abs().max()))


def test_company_costs_what_the_gate_leaves_to_content(records):
    low, high = chosen(records, "gate", method="least squares, flat")
    assert (low["gate"], high["gate"]) == (0.5, 0.99)
    for name in low["rmse"]:
        assert low["rmse"][name] == pytest.approx(high["rmse"][name], rel=0.2)  # alone
        assert low["rmse_in_company"][name] > high["rmse_in_company"][name]


def test_slope_of_a_power_law():
    counts = [4, 8, 32, 100]
    assert log_slope(counts, [3 * n**-1.5 for n in counts]) == pytest.approx(-1.5)


def test_a_finished_seed_is_taken_from_the_work_folder(records, work):
    again = universality_seed(0, "smoke", work)
    assert again["from_work"] and again["records"] == records
    result = universality("smoke", (0,), work=work, n_jobs=1, progress=False)
    assert result.records == records and result.settings["protocol"]["gate"] == 0.99


def test_an_unknown_preset_is_one_line():
    with pytest.raises(pi.PrefixInterpError, match="preset='paper' is unknown"):
        universality("paper", (0,))
