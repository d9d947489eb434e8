import json

import pytest

import prefix_interp as pi
from prefix_interp.experiments.table1 import (
    NEW,
    OLD,
    SWEEPS,
    table1_seed,
)
from prefix_interp.results import committed_result


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def smoke(work):
    return table1_seed(0, "smoke", str(work))


def test_every_row_says_what_it_is(smoke):
    rows = smoke["records"]
    swept = sum(len(s.lrs) for s in SWEEPS["smoke"])
    assert len(rows) == 2 * (2 + swept + 3 * len(SWEEPS["smoke"]))
    for row in rows:
        assert row["task"] in (OLD, NEW)
        assert (row["parameterization"] is None) == row["method"].endswith(("trained", "tuned"))
        assert row["baseline"] == ("masked" if row["parameterization"] is None else "prefix")
    json.dumps(rows, allow_nan=False)


def test_the_chosen_rate_has_the_lowest_training_loss(smoke):
    for sweep in SWEEPS["smoke"]:
        own = [
            r for r in smoke["records"]
            if r["method"] == "prefix" and r["task"] == NEW and r["n_slots"] == sweep.n_slots
            and r["parameterization"] == sweep.parameterization
        ]  # fmt: skip
        (chosen,) = [r for r in own if r["chosen"]]
        assert chosen["train_loss"] == min(r["train_loss"] for r in own)


def test_a_finished_seed_is_taken_from_the_work_folder(smoke, work):
    assert table1_seed(0, "smoke", str(work)) == smoke | {"from_work": True}
    # Without the final file the checkpoints of each stage give the same rows again.
    (work / "seed-0" / "records.json").unlink()
    again = table1_seed(0, "smoke", str(work))
    assert again["records"] == smoke["records"] and again["seconds"] != smoke["seconds"]


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_the_committed_table_reaches_what_was_asked(preset):
    result = committed_result("table1", preset)
    table = result.to_dataframe()
    value = "evaluation.exact_match.value"

    def mean(method, task):
        own = table[(table["method"] == method) & (table["task"] == task)]
        assert sorted(own["seed"]) == list(result.seeds)
        return own[value].mean()

    assert len(result.seeds) >= (10 if preset == "fast" else 3)
    if preset == "fast":
        assert mean("pretrained", OLD) >= 0.91 and mean("fine-tuned", NEW) >= 0.85
        assert result.timing["wall_s"] < 40 * 60
    prefixes = table[(table["method"] == "prefix") & (table["task"] == NEW)]
    residual = prefixes[prefixes["parameterization"] == "residual"]
    one_slot = residual[residual["n_slots"] == 1]
    assert (one_slot[value] == 0).all(), "the paper's own setting: 0 +- 0 at every rate"


def test_the_zoo_is_seed_0_of_the_committed_table():
    model = pi.load_toy("sort-ascending-1l1h")
    rows = committed_result("table1", "fast").records
    first = [r for r in rows if r["seed"] == 0]
    (row,) = [r for r in first if r["method"] == "pretrained" and r["task"] == OLD]
    score = pi.evaluate(model, OLD, seed=0)
    assert score.exact_match == pytest.approx(row["evaluation"]["exact_match"]["value"], abs=1e-3)
    for key, prefix in pi.load_prefixes("sort-ascending-1l1h").items():
        (row,) = [
            r for r in rows
            if r["seed"] == 0 and r["method"] == "prefix" and r["task"] == NEW and r["chosen"]
            and r["parameterization"] == prefix.parameterization
            and r["n_slots"] == prefix.n_slots
        ]  # fmt: skip
        got = pi.evaluate(model, NEW, prefix, seed=0)
        assert got.exact_match == pytest.approx(
            row["evaluation"]["exact_match"]["value"], abs=5e-3
        ), key
        assert got.loss == pytest.approx(row["evaluation"]["loss"]["value"], rel=1e-3)
