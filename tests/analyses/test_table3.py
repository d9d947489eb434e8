import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from analyses.kept import Kept
from analyses.registry import evidence_of
from analyses.study import Job
from analyses.table3 import STUDY
from analyses.table3.measure import (
    COMBINED,
    NEW,
    PREFIXES,
    PROTOCOLS,
    TASKS,
    Trial,
    export_zoo,
    measure,
    toy,
    toy_name,
)
from analyses.table3.section import section, table3_figure
from analyses.table3.tables import PAPER, findings_block, own_rows, tables
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.prefix import load_prefixes
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS, get_task

SMALL = replace(toy(2, 2), d_model=16, n_heads=2)
TINY = replace(
    PROTOCOLS["smoke"], model=SMALL, pretrain_steps=4, n_test=40,
    trials=(Trial("residual", (1e-2, 1e-1), 2, 3, 2), Trial("kv", (1e-2,), 2, 3)),
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return Kept(tmp_path_factory.mktemp("table3"))


@pytest.fixture(scope="module")
def tiny(kept):
    return measure(Job(0, "smoke", TINY, keeps=kept))["rows"]


@pytest.fixture(scope="module")
def result(tiny):
    other = [row | {"seed": 1} for row in tiny]
    settings = {"protocol": {"n_test": 40, "n_slots": 2, "model": {"n_layers": 2}}}
    return Result("table3", "fast", [0, 1], settings, {"rows": [*tiny, *other]})


def test_every_row_says_what_it_is(tiny):
    # The bare model and the blind rule; per task four and one runs, the best of each scored on all
    # tasks, and two controls of each kind; a longer run of each kind for the two unseen tasks.
    assert len(tiny) == 2 * 6 + 6 * ((4 + 1) + 2 * 5 + 2 * 2) + 2 * 2
    assert {row["n_layers"] for row in tiny} == {2}
    for row in tiny:
        assert (row["tuned_on"] is None) == (row["method"] in ("pretrained", "content-blind"))
        if row["method"] == "prefix":
            assert row["steps"] in ((2,) if row["tuned_on"] in FOUR_SKILLS else (2, 3))
    json.dumps(tiny, allow_nan=False)


def test_the_lowest_training_loss_is_chosen_and_kept(tiny, kept):
    for task in TASKS:
        own = [
            r for r in tiny
            if (r["method"], r["tuned_on"], r["task"], r["parameterization"])
            == ("prefix", task, task, "residual")
        ]  # fmt: skip
        assert {(r["start"], r["lr"]) for r in own} == {(s, x) for s in (0, 1) for x in (0.01, 0.1)}
        for longer in (r for r in own if r["steps"] == 3):  # of the best of the shorter runs
            best = min((r for r in own if r["steps"] == 2), key=lambda r: r["train_loss"])
            assert (longer["start"], longer["lr"]) == (best["start"], best["lr"])
        assert sum(r["steps"] == 3 for r in own) == (task not in FOUR_SKILLS)
        (chosen,) = [r for r in own if r["chosen"]]
        assert chosen["train_loss"] == min(r["train_loss"] for r in own)
        prefix = kept.context(PREFIXES, f"{task}-residual")
        assert prefix.n_slots == 2 and prefix.n_parameters == 2 * 2 * 16
        assert prefix.metadata["start"] == chosen["start"]


def test_the_blind_rule_is_that_of_counting(tiny):
    (row,) = [r for r in tiny if (r["method"], r["task"]) == ("content-blind", NEW)]
    task = get_task(NEW)
    train, test = task.sample(TINY.n_count, "train", 0), task.sample(40, "test", 0)

    def before(batch):
        return batch.tokens[:, -10:]

    right = torch.zeros(40, 10, dtype=torch.bool)
    for i in range(10):
        for token in before(test)[:, i].unique():
            here = train.answers[before(train)[:, i] == token, i]
            best = here.bincount().argmax()
            own = before(test)[:, i] == token
            right[own, i] = test.answers[own, i] == best
    assert row["evaluation"]["token_accuracy"]["value"] == pytest.approx(
        float(right.double().mean())
    )


def test_a_killed_seed_ends_with_the_same_rows(tiny, kept, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("tuned again")

    monkeypatch.setattr(import_module("analyses.table3.measure"), "sweep", refuse)
    assert measure(Job(0, "smoke", TINY, keeps=kept))["rows"] == tiny


def test_rows_stand_beside_the_paper_where_it_has_a_number(result):
    rows = own_rows(result)
    assert all(row["paper"] is None for row in rows)  # it has no model of two layers
    deep = replace_layers(result, 4)
    found = {(r["method"], r["parameterization"], r["task"]): r["paper"] for r in own_rows(deep)}
    assert found["prefix", "residual", COMBINED] == PAPER[4]["prefix"][COMBINED] == 71.59
    assert found["prefix", "kv", COMBINED] is None
    assert found["pretrained", None, "add_one"] == 39.66
    assert found["random prefix", "residual", NEW] is None


def replace_layers(result, n):
    rows = [row | {"n_layers": n} for row in result.rows()]
    return Result("table3", "fast", result.seeds, result.settings, {"rows": rows})


def test_tables_count_every_run(result):
    found = tables(result)
    rates = [r for r in found["rates"] if r["parameterization"] == "residual"]
    assert len(rates) == 6 * 2 + 2
    assert all(r["runs"] == (4 if r["steps"] == 2 else 2) for r in rates)
    assert sum(r["chosen"] for r in rates) == 6 * 2  # one of each seed
    assert {(r["parameterization"], r["tuned_on"]) for r in found["others"]} == {
        (kind, task) for kind in ("residual", "kv") for task in TASKS
    }
    assert all(row["task"] != row["tuned_on"] for row in found["others"])
    json.dumps(found, allow_nan=False)


def test_the_section_the_figure_and_the_findings(result):
    evidence = evidence_of([replace_layers(result, 4)])
    found = section(evidence)
    assert found.id == "table3" and found.numbers["table3"]
    assert "(71.59)" in findings_block(evidence)
    figure = table3_figure(own_rows(replace_layers(result, 4)))
    (ax,) = figure.axes
    assert ax.get_legend_handles_labels()[1] == [
        "pretrained", "content-blind", "prefix, residual", "prefix, kv",
    ]  # fmt: skip
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert len(crosses) == 12


def test_the_zoo_gets_the_model_and_its_prefixes(kept, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "fast", TINY)
    copies = export_zoo(kept, tmp_path)
    assert len(copies) == 1 + 12
    name = toy_name(SMALL)
    assert name == "four-skills-2l2h"
    model = load_toy(tmp_path / name)
    prefixes = load_prefixes(tmp_path / name)
    assert model.cfg.n_layers == 2 and len(prefixes) == 12
    assert prefixes[f"{COMBINED}-kv"].parameterization == "kv"


def test_the_study_has_five_seeds_of_the_papers_model():
    assert STUDY.seeds == 5
    config = PROTOCOLS["fast"].model
    assert (config.n_layers, config.n_heads, config.d_model) == (4, 4, 256)
    assert PROTOCOLS["fast"].n_slots == config.n_prefix == 10
