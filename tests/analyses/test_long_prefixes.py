import json

import numpy as np
import pytest
import torch

import prefix_interp as pi
from prefix_interp.experiments.long_prefixes import (
    PROTOCOLS,
    long_prefixes,
    long_prefixes_seed,
    slot_attention,
    slot_range,
)
from prefix_interp.experiments.subspace_summary import long_prefix_rows
from prefix_interp.experiments.table2 import table2_toy
from prefix_interp.tasks import FOUR_SKILLS
from tests.experiments.made_up_table2 import made_up_table2
from tests.helpers import assert_close, raw_model, tokens_for


@pytest.fixture(scope="module")
def table2_work(tmp_path_factory):
    return made_up_table2(tmp_path_factory.mktemp("table2"), tasks=FOUR_SKILLS[:1])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def result(table2_work, work):
    return long_prefixes(
        "smoke", (0,), work=work, table2_work=table2_work, n_jobs=1, progress=False
    )


def test_every_row_is_there_and_within_its_bound(result):
    json.dumps(result.records, allow_nan=False)
    variants = 4 * 2 * len(PROTOCOLS["smoke"].n_prefixes)
    tunings = [r for r in result.records if r["part"] == "tuning"]
    biases = [r for r in result.records if r["part"] == "bias"]
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


def test_rows_are_those_of_the_prefix_that_was_kept(result, table2_work, work):
    model = pi.load_toy(table2_toy(0, "smoke", table2_work))
    prefix = pi.Prefix.load(work / "seed-0" / "prefixes" / "add_one-residual-3")
    assert prefix.n_slots == 3 and prefix.metadata["task"] == "add_one"
    task = pi.get_task("add_one")
    (row,) = [
        r for r in result.records
        if r["part"] == "bias" and r["method"] == "prefix" and r["task"] == "add_one"
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
        r for r in result.records
        if r["part"] == "tuning" and r["task"] == "add_one" and r["n_slots"] == 3
        and r["parameterization"] == "residual"
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


def test_a_finished_seed_is_taken_from_the_work_folder(result, work, table2_work):
    again = long_prefixes_seed(0, "smoke", str(work), str(table2_work))
    assert again["records"] == result.records
    assert again["seconds"] == pytest.approx(result.timing["core_s"], abs=0.051)
    (work / "seed-0" / "records.json").unlink()
    redone = long_prefixes_seed(0, "smoke", str(work), str(table2_work))  # from checkpoints
    assert redone["records"] == result.records


def test_summary_is_the_mean_over_heads_and_tasks(result):
    rows = long_prefix_rows(result)
    (row,) = [
        r for r in rows
        if r["part"] == "bias" and r["level"] == "head" and r["task"] is None
        and r["method"] == "norm-matched prefix" and r["parameterization"] == "kv"
        and r["n_slots"] == 3
    ]  # fmt: skip
    own = [
        r for r in result.records
        if r["part"] == "bias" and r["level"] == "head" and r["method"] == "norm-matched prefix"
        and r["parameterization"] == "kv" and r["n_slots"] == 3
    ]  # fmt: skip
    assert len(own) == 4 * 2 and row["n_seeds"] == 1
    for metric in ("effective_rank", "n_99", "slot_range"):
        assert row[metric]["mean"] == pytest.approx(np.mean([r[metric] for r in own]))
    (layer,) = [
        r for r in rows
        if r["part"] == "bias" and r["level"] == "layer" and r["task"] == "add_one"
        and r["method"] == "prefix" and r["parameterization"] == "kv" and r["n_slots"] == 3
    ]  # fmt: skip
    assert "slot_range" not in layer and layer["bound"]["mean"] == 6
    (tuned,) = [r for r in rows if r["part"] == "tuning" and r["task"] == "add_two"
                and r["parameterization"] == "kv" and r["n_slots"] == 1]  # fmt: skip
    assert 0 <= tuned["exact_match"]["mean"] <= 1


def test_missing_seeds_and_presets_are_one_line(table2_work):
    with pytest.raises(pi.PrefixInterpError, match="no finished seed 4"):
        long_prefixes("smoke", (4,), table2_work=table2_work)
    with pytest.raises(pi.PrefixInterpError, match="preset='paper' is unknown"):
        long_prefixes("paper", (0,), table2_work=table2_work)
