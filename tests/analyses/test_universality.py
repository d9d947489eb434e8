import pytest
import torch

from analyses.universality import STUDY
from analyses.universality.kernel_head import kernel_head, slots_for
from analyses.universality.measure import METHODS, identities, log_slope
from analyses.universality.sphere import random_points, sphere_functions
from prefix_interp.seeds import derive_generator

SIZES = STUDY.protocols["smoke"]


@pytest.fixture(scope="module")
def tables(smoke):
    return smoke("universality").tables


def chosen(rows, **keys):
    return [r for r in rows if all(r[k] == v for k, v in keys.items())]


def test_every_row_is_there_and_theory_holds_in_each(tables):
    fits = [r for r in tables["fit"] if r["n_slots"]]
    assert [(r["method"], r["n_slots"]) for r in fits] == [
        (m, n) for m in METHODS for n in SIZES.n_slots
    ]
    for row in fits:
        assert row["eq6"] < 1e-14 and row["eq7"] < 1e-13
        assert row["rank"] == min(row["n_slots"], 6) <= row["bound"] == min(row["n_slots"], 13)
        assert 0.9 < row["gate_in_company"] < row["gate"] < 1
        for name, error in row["rmse"].items():
            assert error <= row["max_error"][name]
            assert row["rmse_float32"][name] == pytest.approx(error, rel=1e-3)
    assert len(tables["sharpness"]) == 2 * len(SIZES.sharpnesses)
    assert len(tables["gate"]) == 2 * len(SIZES.gates)


def test_error_falls_and_controls_do_not_fit(tables):
    (floor,) = chosen(tables["fit"], method="constant")
    for method in METHODS:
        first, *_, last = chosen(tables["fit"], method=method)
        (order,) = chosen(tables["order"], method=method)
        for name, constant in floor["rmse"].items():
            if method == "random values":
                assert last["rmse"][name] > constant
                assert order["rmse"][name] < 0.3
            else:
                assert last["rmse"][name] < 0.5 * first["rmse"][name]
                assert last["rmse"][name] < 0.5 * constant
                assert order["rmse"][name] > 0.3


def test_a_row_is_that_of_its_prefix_computed_again(tables):
    points = random_points(2, SIZES.n_test, derive_generator(0, "universality", "test", 2))

    def function(x):
        return torch.cat(list(sphere_functions(x).values()), dim=1)

    head = kernel_head(2, 6)
    prefix = slots_for(head, function, 64, "least_squares", gate=SIZES.gate, sharpness=0.25, seed=0)
    misses = (head.outputs(prefix, points[:, None])[:, 0] - function(points)).abs()
    (row,) = chosen(tables["fit"], method="least squares, flat", n_slots=64)
    assert row["rmse"]["kink"] == pytest.approx(float(misses[:, 2].square().mean().sqrt()))
    assert row["max_error"]["waves"] == pytest.approx(float(misses[:, 3:].max()))
    assert row["largest_value"] == pytest.approx(float(prefix.vectors[0, :, 7:].abs().max()))


def test_company_costs_what_the_gate_leaves_to_content(tables):
    low, high = chosen(tables["gate"], method="least squares, flat")
    assert (low["gate"], high["gate"]) == (0.5, 0.99)
    for name in low["rmse"]:
        assert low["rmse"][name] == pytest.approx(high["rmse"][name], rel=0.2)  # alone
        assert low["rmse_in_company"][name] > high["rmse_in_company"][name]


@pytest.mark.parametrize("n_slots", [1, 3, 40])
@pytest.mark.parametrize("gate", [0.3, 0.99])
def test_eq_6_eq_7_and_rank_hold(n_slots, gate):
    def two_outputs(x):
        return torch.stack([x[:, 0] * x[:, 1], x[:, -1].abs()], dim=1)

    head = kernel_head(2, 2, n_content=3)
    prefix = slots_for(head, two_outputs, n_slots, gate=gate, seed=1)
    points = random_points(2, 60, derive_generator(0, "test", "points")).unflatten(0, (20, 3))
    found = identities(head, prefix, points)
    assert found["eq6"] < 1e-14 and found["eq7"] < 1e-13
    assert found["rank"] == min(n_slots, 2) <= found["bound"] == min(n_slots, 9)
    assert found["gate"] == pytest.approx(gate, abs=0.12 if n_slots < 4 else 0.01)
    assert found["gate_in_company"] < found["gate"]


def test_slope_of_a_power_law():
    counts = [4, 8, 32, 100]
    assert log_slope(counts, [3 * n**-1.5 for n in counts]) == pytest.approx(-1.5)
