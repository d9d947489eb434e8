import json
import math

import pandas as pd
import pytest
import torch

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments import heads as module
from prefix_interp.experiments.heads import Protocol, copy_attention, heads
from prefix_interp.experiments.heads_summary import (
    agreement_rows,
    calibration_rows,
    circuit_rows,
    copying_rows,
    elicited_rows,
    gating_rows,
    heads_frame,
)
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import masked_hooks
from tests.experiments.made_up_table2 import zoo_table2

TINY = Protocol(n=4, n_random=2, n_random_circuits=2)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.PROTOCOLS, "smoke", TINY)
        source = zoo_table2(root / "table2")
        options = {"work": root / "work", "table2_work": source, "n_jobs": 1, "progress": False}
        yield heads("smoke", [0, 1], **options), options


def test_records_are_json_and_name_what_they_are(measured):
    result, _ = measured
    json.dumps(list(result.records))
    counts = pd.Series([r["record"] for r in result.records]).value_counts()
    # seeds x kinds x tasks x directions x heads
    assert counts["head"] == 2 * 2 * 4 * 2 * 4
    assert counts["circuit"] == 2 * 4 and counts["agreement"] == 2 * 4 * 2 * 3
    kinds = {r["control"] for r in result.records if r["record"] == "control"}
    assert {"another task", "another seed", "another start"} <= kinds and len(kinds) == 5


def test_a_finished_seed_is_taken_from_the_work_folder(measured):
    result, options = measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_measure", lambda *_: pytest.fail("measured again"))
        assert heads("smoke", [0, 1], **options).records == result.records


def test_missing_models_are_named_before_the_work(tmp_path):
    with pytest.raises(PrefixInterpError, match="table2"):
        heads("smoke", [7], table2_work=tmp_path, progress=False)


def test_copying_is_the_attention_from_output_to_input(measured):
    _, options = measured
    toy = options["table2_work"] / "seed-0" / module.NAME
    model = pi.load_toy(toy)
    prefix = pi.Prefix.load(toy / "prefixes" / "add_one-residual-std-0.1")
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


def test_summaries_are_those_of_the_records(measured):
    result, _ = measured
    frame = heads_frame(result)
    row = next(
        r for r in elicited_rows(result)
        if (r["parameterization"], r["direction"], r["tuned_on"]) == ("kv", "noise", "add_two")
    )  # fmt: skip
    own = [
        r for r in result.records
        if r["record"] == "head" and r["parameterization"] == "kv" and r["direction"] == "noise"
        and r["tuned_on"] == "add_two"
    ]  # fmt: skip
    assert row["heads"] == len(own) == 8
    assert row["elicited"] == sum(r["elicited"] for r in own)
    assert row["gate_share"] + row["bias_share"] == pytest.approx(1)  # one layer: no third part
    tuned = [r for r in calibration_rows(result) if r["prefix"] == "tuned"]
    assert len(tuned) == 4
    mean = frame[(frame["parameterization"] == "kv") & (frame["direction"] == "noise")]
    (kv,) = [r for r in tuned if (r["parameterization"], r["direction"]) == ("kv", "noise")]
    assert kv["mean"] == pytest.approx(mean["effect"].mean())
    assert kv["low"] <= kv["mean"] <= kv["high"]
    assert all(-1 <= r["min"] <= r["median"] <= r["max"] <= 1 for r in agreement_rows(result))
    assert [r["seeds"] for r in circuit_rows(result)] == [2] * 4
    for row in copying_rows(result):
        assert row["seeds"] == 2 and 0 <= row["copying_gate"] <= 1
        assert not math.isnan(row["other_gate"])
    gating = next(r for r in gating_rows(result) if r["tuned_on"] == "add_two")
    lowest = [
        min(r["value"] for r in result.records
            if r["record"] == "gating" and r["seed"] == seed and r["tuned_on"] == "add_two"
            and r["direction"] == "noise" and r["metric"] == "exact_match"
            and r["parameterization"] == gating["parameterization"])
        for seed in (0, 1)
    ]  # fmt: skip
    assert gating["dropped_at_one"] == pytest.approx(sum(lowest) / 2) and gating["seeds"] == 2
