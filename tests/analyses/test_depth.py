from dataclasses import replace
from importlib import import_module

import pytest

import prefix_interp as pi
from analyses.depth import STUDY
from analyses.depth.measure import COMBINED, CONTROL, NEW, PROTOCOLS, TASKS, measure
from analyses.depth.section import depth_figure
from analyses.depth.tables import best_by_depth
from analyses.kept import Kept
from analyses.registry import evidence_of
from analyses.study import Job
from prefix_interp.results import Result

TINY = replace(PROTOCOLS["smoke"], n_layers=(1, 3), lrs=(1e-3, 1e-1), steps=4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return Kept(tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def tiny(kept):
    return measure(Job(0, "smoke", TINY, keeps=kept))


@pytest.fixture(scope="module")
def result(tiny):
    """Two seeds, with scores that are easy to check."""
    own = {
        name: [{**row, "seed": seed} for seed in (0, 1) for row in rows]
        for name, rows in tiny.items()
    }
    for row in own["scores"]:
        good = {COMBINED: 0.2 * row["n_layers"], NEW: 0.01}.get(row["task"], 0.9)
        good *= (row["method"] == "prefix") * (0.5 if row["parameterization"] == "kv" else 1)
        row["evaluation"] = row["evaluation"] | {"exact_match": {"value": good}}
    settings = {"protocol": {"n_slots": 2, "n_layers": [1, 3]}}
    return Result("depth", "fast", [0, 1], settings, own)


def test_every_depth_with_and_without_mlps_has_its_rows(tiny):
    models = {(row["n_layers"], row["attn_only"]) for row in tiny["models"]}
    assert models == {(n, bare) for n in (1, 3) for bare in (False, True)}
    scores = [(r["n_layers"], r["attn_only"], r["parameterization"], r["task"], r["method"])
              for r in tiny["scores"]]  # fmt: skip
    assert len(scores) == len(set(scores)) == 2 * 2 * 2 * len(TASKS) * 2
    assert {(r["n_layers"], r["layer"]) for r in tiny["terms"]} == {(3, 1), (3, 2)}


def test_attention_stays_in_the_first_layer_and_moves_in_deeper_ones(tiny):
    first = [row["distance"] for row in tiny["drift"] if row["layer"] == 0]
    deeper = [row["distance"] for row in tiny["drift"] if row["layer"] > 0]
    assert max(first) < 1e-6 < 1e-4 < max(deeper)
    assert {row["method"] for row in tiny["drift"]} == {"prefix", CONTROL}


def test_the_terms_add_up_and_those_of_mlps_need_mlps(tiny):
    assert max(row["error"] for row in tiny["terms"]) < 1e-5
    of_mlps = [row for row in tiny["terms"] if row["term"] == "mlp"]
    assert all((row["rms_in_row"] == 0) == row["attn_only"] for row in of_mlps)


def test_a_prefix_counts_at_the_rate_with_the_lowest_training_loss(tiny, monkeypatch):
    fits, module = [], import_module("analyses.depth.measure")
    monkeypatch.setattr(
        module, "sweep", lambda *a, **k: fits.append(pi.sweep(*a, **k)) or fits[-1]
    )  # fmt: skip
    size = replace(TINY, n_layers=(1,), attn_only=(True,), kinds=("kv",))
    rows = [r for r in measure(Job(0, "smoke", size))["scores"] if r["method"] == "prefix"]
    for row, own in zip(rows, fits, strict=True):
        assert len(own) == 2 and row["train_loss"] == min(fit.train_loss for fit in own)
    known = [r for r in tiny["scores"] if r["method"] == "prefix" and r["n_layers"] == 1
             and r["attn_only"] and r["parameterization"] == "kv"]  # fmt: skip
    assert rows == known


def test_summaries_section_figure_and_findings(result):
    evidence = evidence_of([result])
    summary = STUDY.tables(result)
    better = best_by_depth(summary["scores"], COMBINED, False)
    assert [row["parameterization"] for row in better] == ["residual", "residual"]
    section = STUDY.section(evidence)
    assert section.title == (
        "With 3 layers a prefix sorts and then adds 1 in 60.0 % of sequences, with 1 layer in "
        "20.0 %"
    )
    assert "stays at 1.0 % at best" in section.text and all(section.numbers.values())
    left, right = depth_figure(summary).axes
    assert list(left.lines[0].get_xdata()) == [1, 3] and len(left.lines) == 6
    assert list(right.lines[0].get_xdata()) == [1, 2, 3]
    lines = STUDY.findings["depth"](evidence).splitlines()
    assert any("with MLPs" in line and "60.0 ± 0.0" in line for line in lines)
