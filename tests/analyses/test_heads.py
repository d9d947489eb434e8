import json
import math
from collections import Counter
from importlib import import_module

import pandas as pd
import pytest
import torch

import prefix_interp as pi
from analyses.heads import STUDY
from analyses.heads.measure import Protocol, controls, copy_attention, measure
from analyses.heads.section import copying_figure
from analyses.heads.tables import agreement_rows, calibration_rows, tables
from analyses.study import Job
from analyses.table2.models import NAME, PREFIXES, variant
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import masked_hooks
from prefix_interp.results import Result
from tests.analyses.made_up_table2 import zoo_table2

TINY = Protocol(n=4, n_random=2, n_random_circuits=2)
TASKS = ("sort_descending", "add_two")  # two of four, to save time


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return zoo_table2(tmp_path_factory.mktemp("table2"))


def job(kept, seed, alone=False):
    following = {} if alone else {"table2": kept[1 - seed]}
    return Job(seed, "smoke", TINY, needs={"table2": kept[seed]}, next_needs=following)


@pytest.fixture(scope="module")
def result(kept):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("analyses.heads.measure"), "FOUR_SKILLS", TASKS)
        both = [measure(job(kept, seed)) for seed in (0, 1)]
    found = {name: both[0][name] + both[1][name] for name in both[0]}
    return Result("heads", "smoke", [0, 1], {}, found)


def test_tables_are_json_and_have_a_row_for_everything(result):
    json.dumps(result.tables, allow_nan=False)
    # seeds x kinds x tasks x directions x heads
    assert len(result.rows("head")) == 2 * 2 * 2 * 2 * 4
    assert len(result.rows("gating")) == 2 * 2 * 2 * 2 * 4 * 2  # two metrics
    assert len(result.rows("circuit")) == 2 * 2
    assert len(result.rows("agreement")) == 2 * 2 * 2 * 3
    per_head = Counter(r["control"] for r in result.rows("control"))
    assert per_head["another task"] == per_head["another seed"] == 2 * 2 * 2 * 2 * 4
    assert per_head["another start"] == 2 * 1 * 2 * 2 * 4  # residual prefixes alone


def test_controls_are_of_another_task_start_and_seed(kept):
    model, name = kept[0].toy(NAME), variant("add_one", "residual")
    prefix = kept[0].context(PREFIXES, name)
    found = controls(job(kept, 0), "add_one", "residual", prefix, model)
    before = kept[0].context(PREFIXES, variant("sort_descending", "residual"))
    assert torch.equal(found["another task"].vectors, before.vectors)
    assert torch.equal(found["another seed"].vectors, kept[1].context(PREFIXES, name).vectors)
    assert found["another start"].metadata["start"] == 0 != prefix.metadata["start"]
    alone = controls(job(kept, 0, alone=True), "add_one", "residual", prefix, model)
    assert set(alone) == {"another task", "another start"}


def by_head(rows):
    """Rows of one kind follow each other by effect; controls by head."""
    order = ("seed", "tuned_on", "parameterization", "direction", "layer", "head")
    return sorted(rows, key=lambda row: [row[key] for key in order])


def test_another_seed_does_what_it_does_on_its_own_model(result):
    # Both seeds have the zoo's model here, so that the control is the other seed's measurement.
    def effects(table, seed, **chosen):
        return [
            r["effect"] for r in by_head(result.rows(table))
            if r["seed"] == seed and all(r[key] == value for key, value in chosen.items())
        ]  # fmt: skip

    control = effects("control", 0, control="another seed")
    assert control == pytest.approx(effects("head", 1), rel=1e-4, abs=1e-6)
    assert control != pytest.approx(effects("head", 0), rel=1e-4, abs=1e-6)


def test_copying_is_the_attention_from_output_to_input(kept):
    model = kept[0].toy(NAME)
    prefix = kept[0].context(PREFIXES, variant("add_one", "residual"))
    task = pi.get_task("add_one")
    copied, gate = copy_attention(model, prefix, task, n=3)
    tokens = task.sample(3, seed=0).tokens
    with torch.no_grad():
        with model.hooks(fwd_hooks=masked_hooks(model, 1)):
            _, off = model.run_with_cache(tokens)
        with pi.attach(model, prefix):
            _, on = model.run_with_cache(tokens)
    pattern = off[Site.PATTERN.at(0)][:, :, 1:, 1:]
    for head in range(4):
        by_hand = [pattern[b, head, 9 + i, i].item() for b in range(3) for i in range(10)]
        assert copied[0, head].item() == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-6)
        mass = on[Site.PATTERN.at(0)][:, head, 10, 0].mean().item()
        assert gate[0, head].item() == pytest.approx(mass, abs=1e-6)


def test_summaries_are_those_of_the_rows(result):
    summary = tables(result)
    row = next(
        r for r in summary["elicited"]
        if (r["parameterization"], r["direction"], r["tuned_on"]) == ("kv", "noise", "add_two")
    )  # fmt: skip
    kv = [
        r for r in result.rows("head")
        if r["parameterization"] == "kv" and r["direction"] == "noise"
    ]  # fmt: skip
    own = [r for r in kv if r["tuned_on"] == "add_two"]
    assert row["heads"] == len(own) == 8
    assert row["elicited"] == sum(r["elicited"] for r in own)
    assert row["gate_share"] + row["bias_share"] == pytest.approx(1)  # one layer: no third part
    tuned = [r for r in summary["calibration"] if r["prefix"] == "tuned"]
    assert len(tuned) == 4
    (mean,) = [r for r in tuned if (r["parameterization"], r["direction"]) == ("kv", "noise")]
    assert mean["mean"] == pytest.approx(sum(r["effect"] for r in kv) / len(kv))
    assert mean["low"] <= mean["mean"] <= mean["high"]
    assert all(-1 <= r["min"] <= r["median"] <= r["max"] <= 1 for r in summary["agreement"])
    assert [r["seeds"] for r in summary["circuit"]] == [2] * 2
    for row in summary["copying"]:
        assert row["seeds"] == 2 and 0 <= row["copying_gate"] <= 1
        assert not math.isnan(row["other_gate"])
    gating = next(r for r in summary["gating"] if r["tuned_on"] == "add_two")
    lowest = [
        min(r["value"] for r in result.rows("gating")
            if r["seed"] == seed and r["tuned_on"] == "add_two"
            and r["direction"] == "noise" and r["metric"] == "exact_match"
            and r["parameterization"] == gating["parameterization"])
        for seed in (0, 1)
    ]  # fmt: skip
    assert gating["dropped_at_one"] == pytest.approx(sum(lowest) / 2) and gating["seeds"] == 2


def test_an_interval_has_the_error_of_the_inputs_where_it_was_recorded():
    def rows(control, draws, *effects):
        return [
            {"seed": seed, "parameterization": "kv", "direction": "noise", "control": control,
             "draws": draws, "effect": x, "low": x - 0.3, "high": x + 0.3}
            for seed, x in enumerate(effects)
        ]  # fmt: skip

    made_up = {"head": rows("", 1, 0.5, 0.5), "control": rows("one", 1, 0.0, 0.1)
               + rows("several", 39, 0.0, 0.1)}  # fmt: skip
    found = calibration_rows(Result("heads", "smoke", [0, 1], {}, made_up))
    tuned, one, several = ((r["low"], r["high"]) for r in found)
    assert tuned == pytest.approx((0.2, 0.8))  # seeds agree: the inputs alone
    seeds = 12.706 * 0.05  # Student's t with one degree of freedom, standard error
    assert several == pytest.approx((0.05 - seeds, 0.05 + seeds), abs=1e-4)
    both = math.hypot(seeds, 0.3)
    assert one == pytest.approx((0.05 - both, 0.05 + both), abs=1e-4)


def test_a_correlation_that_does_not_exist_does_not_count():
    def rows(estimate, *values):
        return [{"estimate": estimate, "direction": "noise", "spearman": x} for x in values]

    made_up = {"agreement": rows("a", 0.5, math.nan, 0.1, 0.2) + rows("b", math.nan)}
    a, b = agreement_rows(Result("heads", "smoke", [0], {}, made_up))
    assert (a["n"], a["median"], a["min"], a["max"]) == (3, 0.2, 0.1, 0.5)
    assert (b["n"], b["median"], b["min"], b["max"]) == (0, None, None, None)


def test_copying_points_are_filled_where_elicited():
    heads = pd.DataFrame(
        {"tuned_on": ["x", "x", "y"], "copy": [0.1, 0.9, 0.5], "gate_first": [1.0, 0.0, 0.3],
         "elicited": [True, False, True]}
    )  # fmt: skip
    figure = copying_figure(heads)
    assert [ax.get_title() for ax in figure.axes] == ["x", "y"]
    filled, empty = figure.axes[0].lines
    assert filled.get_xdata().tolist() == [0.1] and empty.get_xdata().tolist() == [0.9]
    with pytest.raises(PrefixInterpError, match="heads is empty"):
        copying_figure(heads[:0])


def test_the_command_draws_the_first_seed_and_all(result):
    drawn = STUDY.figures(result)
    assert set(drawn) == {"", "-copying"}
    diamonds = drawn[""].axes[0].lines[0].get_ydata()  # totals of the first task's heads
    own = [
        r["effect"] for r in by_head(result.rows("head"))
        if (r["seed"], r["direction"], r["parameterization"]) == (0, "noise", "residual")
        and r["tuned_on"] == "sort_descending"
    ]  # fmt: skip
    assert diamonds == pytest.approx(own)
    points = [len(line.get_xdata()) for line in drawn["-copying"].axes[0].lines]
    assert sum(points) == 2 * 4  # both seeds
