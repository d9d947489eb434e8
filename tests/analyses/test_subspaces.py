import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import prefix_interp as pi
from prefix_interp.experiments.grouping import over_seeds
from prefix_interp.experiments.projecting_out import Removal, removal_rows
from prefix_interp.experiments.subspace_angles import _isotropic_chance
from prefix_interp.experiments.subspace_summary import subspace_rows
from prefix_interp.experiments.subspaces import (
    PROTOCOLS,
    subspace_records,
    subspaces,
    subspaces_seed,
    toy_subspaces,
)
from prefix_interp.experiments.table2 import NAME, table2_toy
from prefix_interp.tuning.evaluate import answer_logits
from tests.experiments.made_up_table2 import made_up_table2
from tests.helpers import toy

TASKS = ("sort_descending", "add_one")


@pytest.fixture(scope="module")
def table2_work(tmp_path_factory):
    return made_up_table2(tmp_path_factory.mktemp("table2"), seeds=(0, 1), tasks=TASKS)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def result(table2_work, work):
    return subspaces("smoke", (0, 1), work=work, table2_work=table2_work, n_jobs=1, progress=False)


def part(result, name, **where):
    rows = [r for r in result.records if r["part"] == name]
    return [r for r in rows if all(r[k] == v for k, v in where.items())]


def test_every_part_has_every_row(result):
    json.dumps(result.records, allow_nan=False)
    kinds, places = ("residual", "kv"), 3  # two heads and the layer
    for seed in (0, 1):
        assert len(part(result, "spectrum", seed=seed)) == 2 * len(kinds) * 3 * places
        for comparison, n in (
            ("tasks", 2 * places), ("starts", 2 * places), ("parameterizations", 2 * places),
            ("heads", 2 * 2),
        ):  # fmt: skip
            assert len(part(result, "angle", seed=seed, comparison=comparison)) == n, comparison
        for task in TASKS:
            for kind in kinds:
                own = part(result, "removal", seed=seed, task=task, parameterization=kind)
                assert len({(r["run"], r["level"], r["space"], r["remove"]) for r in own}) == len(
                    own
                )
                assert len(own) == 2 + 9 + 1 + 9 + 2 * 2 + 3


def test_ranks_are_those_of_the_values(result, table2_work):
    for row in part(result, "spectrum", seed=1, method="prefix"):
        assert row["rank"] == row["bound"] == (1 if row["level"] == "head" else 2)
        assert len(row["singular_values"]) == row["bound"]
        p = np.array(row["singular_values"]) / sum(row["singular_values"])
        assert row["effective_rank"] == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_angles_are_those_between_the_slots_values(result, table2_work):
    """With one slot a head's bias points along the slot's value, whatever the content."""
    model = pi.load_toy(table2_toy(0, "smoke", table2_work))
    prefixes = pi.load_prefixes(table2_toy(0, "smoke", table2_work))
    values = {n: p.keys_values(model)[0][1][0].detach() for n, p in prefixes.items()}

    def angle(a, b):
        return math.acos(min(1, float((a @ b).abs() / a.norm() / b.norm())))

    checked = 0
    for row in part(result, "angle", seed=0):
        if row["level"] == "layer" or row["comparison"] == "starts":
            continue
        if row["comparison"] == "tasks":
            names = [f"{row[x]}-{row['parameterization']}-std-0.1" for x in "ab"]
        elif row["comparison"] == "parameterizations":
            names = [f"{row['task']}-{row[x]}-std-0.1" for x in "ab"]
        else:
            w_o = model.blocks[0].attn.W_O.detach()
            own = values[f"{row['task']}-{row['parameterization']}-std-0.1"]
            expected = angle(*(own[row[x]] @ w_o[row[x]] for x in "ab"))
            names = None
        if names is not None:
            expected = angle(*(values[name][row["head"]] for name in names))
        assert row["angles"] == pytest.approx([expected], abs=1e-4)
        assert row["overlap"] == pytest.approx(math.cos(expected) ** 2, abs=1e-4)
        checked += 1
    assert checked == 2 * 2 + 2 * 2 + 2 * 2


def test_starts_are_compared_with_starts_of_the_same_tuning(result):
    for row in part(result, "angle", comparison="starts"):
        assert (row["a"], row["b"]) == (0, 1) and row["parameterization"] == "residual"


def test_two_random_lines_by_quadrature():
    """The angle of a random line with a fixed one in d dimensions has density ~ sin^(d-2)."""
    grid = np.linspace(0, np.pi / 2, 20001)
    density = np.sin(grid) ** 14
    mean = (grid * density).sum() / density.sum()
    found = _isotropic_chance(1, 1, 16, 4000)
    assert found["chance_angle"]["value"] == pytest.approx(mean, abs=0.015)
    assert found["chance_overlap"] == 1 / 16
    cdf = density.cumsum() / density.sum()
    low, high = (grid[np.searchsorted(cdf, q)] for q in (0.025, 0.975))
    assert found["chance_angle"]["low"] == pytest.approx(low, abs=0.05)
    assert found["chance_angle"]["high"] == pytest.approx(high, abs=0.05)


def test_untouched_runs_are_the_models_own(result, table2_work):
    model = pi.load_toy(table2_toy(0, "smoke", table2_work))
    for task in TASKS:
        prefix = pi.Prefix.load(
            table2_toy(0, "smoke", table2_work) / "prefixes" / f"{task}-kv-std-0.1"
        )
        for run, given in (("on", prefix), ("off", None)):
            score = pi.evaluate(model, task, given, n=PROTOCOLS["smoke"].n_test)
            (row,) = part(
                result, "removal", seed=0, task=task, parameterization="kv", space="none", run=run
            )
            assert row["loss"]["value"] == pytest.approx(score.loss.value, rel=1e-5)
            assert row["token_accuracy"]["value"] == pytest.approx(score.token_accuracy.value)
            assert row["exact_match"]["high"] == pytest.approx(score.exact_match.high)


def test_a_row_is_the_mean_over_draws():
    """Against one run a draw, scored by hand."""
    model = toy(3, torch.float32, n_layers=1, n_prefix=1, n_content=19)
    prefix, task = pi.Prefix.random(model, 1, 0), pi.get_task("sort_ascending")
    batch = task.sample(12, seed=0)
    turns = [torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(i)))[0]
             for i in range(3)]  # fmt: skip
    draws = [[pi.BiasSubspace("head", 0, 1, 2, torch.ones(2), turn[:2], 50)] for turn in turns]
    removal = Removal("on", "head", "random", "output", draws)
    (row,) = removal_rows({}, model, prefix, batch, iter([removal]))
    losses, right = [], []
    for turn in turns:
        onto = turn[:2].T @ turn[:2]

        def hook(z, hook, onto=onto):
            z = z.clone()
            z[:, :, 1] -= z[:, :, 1] @ onto
            return z

        with model.hooks(fwd_hooks=[(pi.Site.Z.at(0), hook)]):
            logits = answer_logits(model, task, batch.tokens, prefix)
        logp = logits.log_softmax(-1).gather(-1, batch.answers[..., None])
        losses.append(-float(logp.mean()))
        right.append(float((logits.argmax(-1) == batch.answers)[:, 5:].double().mean()))
    assert row["draws"] == 3 and row["n"] == 12
    assert row["loss"]["value"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["loss"]["min"] == pytest.approx(min(losses), rel=1e-5)
    assert row["loss"]["max"] == pytest.approx(max(losses), rel=1e-5)
    assert row["late_token_accuracy"]["value"] == pytest.approx(np.mean(right))
    assert row["loss"]["min"] < row["loss"]["max"]


def test_restoring_and_isolating_differ_from_dropping(result):
    values = {
        (r["space"], r["remove"]): r["loss"]["value"]
        for r in part(result, "removal", seed=0, task="add_one", parameterization="residual",
                      run="on", level="head")
    }  # fmt: skip
    assert len(set(values.values())) == len(values)


def test_finished_work_is_taken_unless_the_prefixes_changed(result, table2_work, work):
    first = subspaces_seed(1, "smoke", str(work), str(table2_work))
    assert first["records"] == [r for r in result.records if r["seed"] == 1]
    # Another prefix in the folder of Table 2 is other work.
    folder = table2_toy(1, "smoke", table2_work) / "prefixes" / "add_one-kv-std-0.1"
    kept = pi.Prefix.load(folder)
    replace(kept, keys=kept.keys + 1).save(folder)
    try:
        again = subspaces_seed(1, "smoke", str(work), str(table2_work))
    finally:
        kept.save(folder)
    pairs = list(zip(again["records"], first["records"], strict=True))
    assert any(one != two for one, two in pairs)
    # What has nothing to do with that prefix comes out the same, made again.
    assert all(a == b for a, b in pairs if a.get("parameterization") == "residual")


def test_a_toy_alone_gives_the_same_rows_but_for_starts_and_other_tasks(tmp_path):
    root = made_up_table2(tmp_path, tasks=TASKS[:1])
    alone = toy_subspaces(root / "seed-0" / NAME, protocol=PROTOCOLS["smoke"], preset="smoke")
    assert {r["part"] for r in alone.records} == {"spectrum", "angle", "removal"}
    assert {r["comparison"] for r in part(alone, "angle")} == {"parameterizations", "heads"}
    assert {r["space"] for r in part(alone, "removal")} == {"none", "own", "random", "content"}


def test_summary_counts_a_seed_once(result):
    rows = subspace_rows(result)
    (row,) = [r for r in rows if r["part"] == "removal" and r["task"] is None
              and (r["run"], r["level"], r["space"], r["remove"]) == ("on", "head", "own", "output")
              and r["parameterization"] == "kv"]  # fmt: skip
    means = []
    for seed in (0, 1):
        own = part(result, "removal", seed=seed, run="on", level="head", space="own",
                   remove="output", parameterization="kv")  # fmt: skip
        assert len(own) == 2
        means.append(np.mean([r["loss"]["value"] for r in own]))
    assert row["n_seeds"] == 2
    assert row["loss"]["mean"] == pytest.approx(np.mean(means))
    assert row["loss"]["sd"] == pytest.approx(np.std(means, ddof=1))
    half = 12.7062 * np.std(means, ddof=1) / 2**0.5
    assert row["loss"]["high"] == pytest.approx(np.mean(means) + half, rel=1e-4)
    assert row["loss"]["low"] == pytest.approx(max(0, np.mean(means) - half), abs=1e-4)
    one = over_seeds([{"seed": 3, "x": 1.0}, {"seed": 3, "x": 2.0}], "x")
    assert one["mean"] == one["low"] == one["high"] == 1.5 and one["sd"] is None


def test_missing_seeds_and_presets_are_one_line(table2_work, tmp_path):
    with pytest.raises(pi.PrefixInterpError, match="no finished seed 7; make it with"):
        subspaces("smoke", (0, 7), table2_work=table2_work)
    with pytest.raises(pi.PrefixInterpError, match=r"work/table2-smoke|table2_work="):
        table2_toy(0, "smoke", tmp_path)
    with pytest.raises(pi.PrefixInterpError, match="preset='paper' is unknown"):
        subspaces("paper", (0,), table2_work=table2_work)
    assert table2_toy(0, "smoke", table2_work).name == NAME


def test_a_prefix_without_its_task_is_refused():
    model = toy(0, torch.float32, n_layers=1, n_prefix=1, n_content=19)
    with pytest.raises(pi.PrefixInterpError, match=r"metadata\['task'\]='None' is unknown"):
        subspace_records(model, [pi.Prefix.random(model, 1)], protocol=PROTOCOLS["smoke"])
