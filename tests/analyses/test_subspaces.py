import json
import math

import numpy as np
import pytest
import torch

import prefix_interp as pi
from analyses.study import Job
from analyses.subspaces.angles import _isotropic_chance
from analyses.subspaces.measure import PROTOCOLS, measure, subspace_tables, toy_subspaces
from analyses.subspaces.removals import Removal, removal_rows
from analyses.subspaces.tables import tables
from analyses.summaries import over_seeds
from analyses.table2.models import NAME, PREFIXES, variant
from prefix_interp.results import Result
from prefix_interp.theory.subspace import BiasSubspace
from prefix_interp.tuning.evaluate import answer_logits
from tests.analyses.made_up_table2 import made_up_table2
from tests.helpers import toy

TASKS = ("sort_descending", "add_one")


def measured(kept, seed=0):
    return measure(Job(seed, "smoke", PROTOCOLS["smoke"], needs={"table2": kept}))


@pytest.fixture(scope="module")
def skills(tmp_path_factory):
    """What two seeds of Table 2 keep."""
    return made_up_table2(tmp_path_factory.mktemp("skills"), (0, 1), TASKS)


@pytest.fixture(scope="module")
def result(skills):
    seeds = [measured(kept, seed) for seed, kept in skills.items()]
    found = {name: [row for one in seeds for row in one[name]] for name in seeds[0]}
    return Result("subspaces", "smoke", [0, 1], {}, found)


def part(result, name, **where):
    return [r for r in result.rows(name) if all(r[k] == v for k, v in where.items())]


def test_every_table_has_every_row(result):
    json.dumps(result.tables, allow_nan=False)
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


def test_ranks_are_those_of_the_values(result):
    for row in part(result, "spectrum", seed=1, method="prefix"):
        assert row["rank"] == row["bound"] == (1 if row["level"] == "head" else 2)
        assert len(row["singular_values"]) == row["bound"]
        p = np.array(row["singular_values"]) / sum(row["singular_values"])
        assert row["effective_rank"] == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_angles_are_those_between_the_slots_values(result, skills):
    """With one slot a head's bias points along the slot's value, whatever the content."""
    model, prefixes = skills[0].toy(NAME), skills[0].contexts(PREFIXES)
    values = {n: p.keys_values(model)[0][1][0].detach() for n, p in prefixes.items()}

    def angle(a, b):
        return math.acos(min(1, float((a @ b).abs() / a.norm() / b.norm())))

    checked = 0
    for row in part(result, "angle", seed=0):
        if row["level"] == "layer" or row["comparison"] == "starts":
            continue
        if row["comparison"] == "tasks":
            names = [variant(row[x], row["parameterization"]) for x in "ab"]
        elif row["comparison"] == "parameterizations":
            names = [variant(row["task"], row[x]) for x in "ab"]
        else:
            w_o = model.blocks[0].attn.W_O.detach()
            own = values[variant(row["task"], row["parameterization"])]
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


def test_untouched_runs_are_the_models_own(result, skills):
    model = skills[0].toy(NAME)
    for task in TASKS:
        prefix = skills[0].context(PREFIXES, variant(task, "kv"))
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
    draws = [[BiasSubspace("head", 0, 1, 2, torch.ones(2), turn[:2], 50)] for turn in turns]
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
            logits = answer_logits(model, batch, prefix)
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


def test_a_toy_alone_gives_the_same_rows_but_for_starts(tmp_path):
    (kept,) = made_up_table2(tmp_path, tasks=TASKS[:1]).values()
    for name, prefix in kept.contexts(PREFIXES).items():
        prefix.save(kept.toy_folder(NAME) / "prefixes" / name)
    # Table 2 also has prefixes of other trials, which are left out.
    other = variant("add_one", "residual", 1.0)
    kept.save_context(PREFIXES, other, kept.context(PREFIXES, variant(TASKS[0], "residual")))
    whole = Result("subspaces", "smoke", [0], {}, measured(kept))
    alone = toy_subspaces(kept.toy_folder(NAME), protocol=PROTOCOLS["smoke"], preset="smoke")
    for name in ("spectrum", "removal"):
        assert alone.rows(name) == whole.rows(name)
    starts = part(whole, "angle", comparison="starts")
    assert starts and alone.rows("angle") == [r for r in whole.rows("angle") if r not in starts]
    assert {r["space"] for r in part(alone, "removal")} == {"none", "own", "random", "content"}
    assert set(tables(alone)) == {"spectrum", "angle", "removal"}


def test_summary_counts_a_seed_once(result):
    own = ("on", "head", "own", "output", "kv", None)
    keys = ("run", "level", "space", "remove", "parameterization", "task")
    (row,) = [r for r in tables(result)["removal"] if tuple(r[k] for k in keys) == own]
    means, widths = [], []
    for seed in (0, 1):
        own = part(result, "removal", seed=seed, run="on", level="head", space="own",
                   remove="output", parameterization="kv")  # fmt: skip
        assert len(own) == 2
        means.append(np.mean([r["loss"]["value"] for r in own]))
        widths += [r["loss"]["high"] - r["loss"]["value"] for r in own]
    assert row["n_seeds"] == 2
    assert row["loss"]["mean"] == pytest.approx(np.mean(means))
    assert row["loss"]["sd"] == pytest.approx(np.std(means, ddof=1))
    # Both seeds are tested on the same sequences, so their error is added to that of the seeds.
    seeds = 12.7062 * np.std(means, ddof=1) / 2**0.5
    half = np.hypot(seeds, np.mean(widths))
    assert row["loss"]["high"] == pytest.approx(np.mean(means) + half, rel=1e-5)
    assert row["loss"]["low"] == pytest.approx(max(0, np.mean(means) - half), abs=1e-5)
    one = over_seeds([{"seed": 3, "x": 1.0}, {"seed": 3, "x": 2.0}], "x")
    assert one["mean"] == one["low"] == one["high"] == 1.5 and one["sd"] is None


def test_a_prefix_without_its_task_is_refused():
    model = toy(0, torch.float32, n_layers=1, n_prefix=1, n_content=19)
    with pytest.raises(pi.PrefixInterpError, match=r"metadata\['task'\]='None' is unknown"):
        subspace_tables(model, [pi.Prefix.random(model, 1)], protocol=PROTOCOLS["smoke"])
