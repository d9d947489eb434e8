import json

import numpy as np
import pytest
import torch

import prefix_interp as pi
from analyses.kept import Kept
from analyses.long_prefixes.measure import PROTOCOLS, measure, slot_attention, slot_range
from analyses.long_prefixes.tables import tables
from analyses.study import Job
from analyses.table2.models import NAME
from prefix_interp.results import Result
from tests.analyses.made_up_table2 import made_up_table2
from tests.helpers import assert_close, raw_model, tokens_for


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    (skills,) = made_up_table2(tmp_path_factory.mktemp("skills"), tasks=()).values()
    keeps = Kept(tmp_path_factory.mktemp("work"))
    return Job(0, "smoke", PROTOCOLS["smoke"], needs={"table2": skills}, keeps=keeps)


@pytest.fixture(scope="module")
def result(job):
    return Result("long-prefixes", "smoke", [0], {}, measure(job))


def test_every_row_is_there_and_within_its_bound(result):
    json.dumps(result.tables, allow_nan=False)
    variants = 4 * 2 * len(PROTOCOLS["smoke"].n_prefixes)
    tunings, biases = result.rows("tuning"), result.rows("bias")
    assert len(tunings) == variants and len(biases) == variants * 3 * 3
    for row in biases:
        heads, n = (2 if row["level"] == "layer" else 1), row["n_slots"]
        assert row["bound"] == min(n * heads, 4 * heads) >= row["rank"]
        assert 1 <= row["n_95"] <= row["n_99"] <= row["rank"]
        assert 1 <= row["effective_rank"] <= row["rank"] + 1e-9
        assert row["shares"] == sorted(row["shares"], reverse=True)
        carried = np.cumsum(row["shares"])
        assert carried[-1] == pytest.approx(1)  # so few that all are recorded
        assert row["n_95"] == 1 + sum(carried < 0.95)
        assert (row["slot_range"] is None) == (row["level"] == "layer")
        if n == 1 and row["level"] == "head":
            assert row["slot_range"] == 0 and row["top_slot"] == 1


def test_rows_are_those_of_the_prefix_that_was_kept(result, job):
    model = job.needs["table2"].toy(NAME)
    prefix = job.keeps.context("prefixes", "add_one-residual-3")
    assert prefix.n_slots == 3 and prefix.metadata["task"] == "add_one"
    task = pi.get_task("add_one")
    (row,) = [
        r for r in result.rows("bias")
        if r["method"] == "prefix" and r["task"] == "add_one"
        and r["parameterization"] == "residual" and r["n_slots"] == 3 and r["head"] == 1
    ]  # fmt: skip
    tokens = task.sample(PROTOCOLS["smoke"].n_space, seed=0).tokens
    space = pi.bias_subspace(model, prefix, tokens, head=1)
    assert row["effective_rank"] == pytest.approx(space.effective_rank, rel=1e-4)
    items = task.sample(PROTOCOLS["smoke"].n_items, seed=0).tokens[:, :10]
    with torch.no_grad(), pi.attach(model, prefix):
        _, cache = model.run_with_cache(items)
    seen = cache["pattern", 0][:, 1, -1, :3]
    shares = (seen / seen.sum(-1, keepdim=True)).numpy()
    ranges = [np.percentile(shares[:, s], 99) - np.percentile(shares[:, s], 1) for s in range(3)]
    assert row["slot_range"] == pytest.approx(np.mean(ranges), rel=1e-4)
    assert row["top_slot"] == pytest.approx(shares.max(axis=1).mean(), rel=1e-5)
    (tuning,) = [
        r for r in result.rows("tuning")
        if (r["task"], r["n_slots"], r["parameterization"]) == ("add_one", 3, "residual")
    ]  # fmt: skip
    score = pi.evaluate(model, "add_one", prefix, seed=0)
    assert tuning["evaluation"]["loss"]["value"] == pytest.approx(score.loss.value, rel=1e-5)


def test_slot_attention_of_a_loop():
    model = raw_model(seed=2, n_layers=2, n_key_value_heads=1)
    prefix, tokens = pi.Prefix.random(model, 3, 1), tokens_for(model, 3, 5)
    mass = slot_attention(model, prefix, tokens)
    on = pi.run_pair(model, prefix, tokens).on
    for layer, b, h in np.ndindex(2, 3, 2):
        row = on["pattern", layer][b, h, -1, :3]
        assert_close(mass[layer, b, h], row / row.sum(), 1e-12)


def test_slot_range_of_known_shares():
    """Slot 0 runs evenly from 0 to 1, slot 1 takes the rest; the other head never moves."""
    moving = torch.linspace(0, 1, 101, dtype=torch.float64)
    mass = torch.stack([torch.stack([moving, 1 - moving], -1), torch.full((101, 2), 0.5)], 1)
    assert slot_range(mass.double()).tolist() == pytest.approx([0.98, 0.0])


def test_an_interrupted_seed_goes_on_from_its_checkpoints(result, job):
    assert measure(job) == {name: result.rows(name) for name in ("tuning", "bias")}


def test_summary_is_the_mean_over_heads_and_tasks(result):
    def one(rows, **where):
        (row,) = [r for r in rows if all(r[key] == value for key, value in where.items())]
        return row

    found, kv = tables(result), {"parameterization": "kv", "n_slots": 3}
    controls = {"level": "head", "method": "norm-matched prefix", **kv}
    row = one(found["bias"], task=None, **controls)
    own = [r for r in result.rows("bias") if controls.items() <= r.items()]
    assert len(own) == 4 * 2 and row["n_seeds"] == 1
    for metric in ("effective_rank", "n_99", "slot_range"):
        assert row[metric]["mean"] == pytest.approx(np.mean([r[metric] for r in own]))
    layer = one(found["bias"], task="add_one", level="layer", method="prefix", **kv)
    assert "slot_range" not in layer and layer["bound"]["mean"] == 6
    scores = [
        r["evaluation"]["loss"]["value"] for r in result.rows("tuning") if kv.items() <= r.items()
    ]
    assert one(found["tuning"], task=None, **kv)["loss"]["mean"] == pytest.approx(np.mean(scores))
