import json
from dataclasses import replace
from functools import partial

import pytest

import prefix_interp as pi
from analyses.kept import Kept
from analyses.lora import STUDY, methods
from analyses.lora.figures import size_figure
from analyses.lora.measure import _one
from analyses.lora.methods import METHODS, Work
from analyses.lora.protocol import BLIND, NONE, PAPER_SIZE
from analyses.lora.tables import method_rows, tables
from analyses.registry import evidence_of
from analyses.study import Job
from prefix_interp.models.host import host_of
from prefix_interp.results import Result
from prefix_interp.tuning.recipes import Recipe

SKILLS = pi.ToyConfig(n_layers=1, n_heads=4, d_model=256, skip_ln1=True)  # Table 2's
DEEP = pi.ToyConfig(n_layers=4, n_heads=4, d_model=256, n_prefix=12)  # the paper's
TINY = pi.ToyConfig(n_layers=2, n_heads=2, d_model=16)


def made_up_lora(learned=0.9):
    """A result with three seeds in which LoRA learns, at the second rate, and nothing else does."""
    score = lambda x: {"value": x, "low": x - 0.01, "high": x + 0.01}  # noqa: E731
    rows = []

    host = host_of(pi.build_toy(SKILLS))

    def add(seed, name, budget, lr, right, loss):
        method = METHODS.get(name)
        units = method.units(host.model, budget or 0) if method else 0
        rows.append({
            "seed": seed, "test_seed": seed, "method": name,
            "side": method.side if method else "control", "budget": budget, "units": units,
            "n_parameters": units * method.each(host) if method else 0,
            "steps": 500 if method else None, "lr": lr, "train_loss": loss,
            "evaluation": {"task": "double_histogram", "n": 3200, "exact_match": score(right),
                           "token_accuracy": score((1 + right) / 2), "loss": score(1 - right)},
        })  # fmt: skip

    for seed in range(3):
        add(seed, NONE, None, None, 0.011, None)
        add(seed, BLIND, None, None, 0.02, None)
        for name, method in METHODS.items():
            for budget in (3_072, PAPER_SIZE) if method.unit else (None,):
                top = {"LoRA, MLP and W_O": learned, "full fine-tuning": 1.0}.get(name, 0.05)
                add(seed, name, budget, 1e-3, 0.03, 0.9)
                add(seed, name, budget, 1e-2, top - 0.01 * seed, 0.8)
    return Result("lora", "fast", [0, 1, 2], {"protocol": {}}, {"rows": rows})


def test_sizes_are_those_of_the_paper():
    found = {
        shape: {n: (u := m.units(model, PAPER_SIZE), u * m.each(host_of(model)))
                for n, m in METHODS.items() if m.unit}
        for shape, model in (("deep", pi.build_toy(DEEP)), ("flat", pi.build_toy(SKILLS)))
    }  # fmt: skip
    assert found["deep"] == {
        "prefix, residual": (12, 12_288), "prefix, kv": (6, 12_288), "soft prompt": (48, 12_288),
        "LoRA, MLP": (1, 10_240), "LoRA, attention": (1, 8_192), "LoRA, MLP and W_O": (1, 12_288),
        "residual edit, before attention": (6, 12_288),
        "residual edit, before MLP": (6, 12_288),
    }  # fmt: skip
    assert found["flat"] == {
        "prefix, residual": (48, 12_288), "prefix, kv": (24, 12_288), "soft prompt": (48, 12_288),
        "LoRA, MLP": (4, 10_240), "LoRA, attention": (6, 12_288), "LoRA, MLP and W_O": (4, 12_288),
        "residual edit, before attention": (24, 12_288),
        "residual edit, before MLP": (24, 12_288),
    }  # fmt: skip


def tune(name, units, lrs=(1e-2, 2e-2)):
    recipe = Recipe(2, 1.0, 4, precision="float32")
    model = pi.build_toy(TINY)
    work = Work(model, "add_one", recipe, lrs, 0, lambda _: None, False)
    return model, METHODS[name].tune(work, units)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_tunes_as_many_parameters_as_it_says(name):
    units = 3 if METHODS[name].unit else 1
    model, found = tune(name, units)
    assert [x.lr for x in found] == [1e-2, 2e-2]
    assert {x.n_parameters for x in found} == {units * METHODS[name].each(host_of(model))}
    assert found[0].evaluation != found[1].evaluation, "the rate is not used"


def test_a_wrong_size_is_refused(monkeypatch):
    wrong = replace(METHODS["head offset"], each=lambda host: 7)
    monkeypatch.setitem(METHODS, "head offset", wrong)
    with pytest.raises(pi.PrefixInterpError, match="tuned 32 parameters and should have 7"):
        offsets(Job(0, "smoke", STUDY.protocols["smoke"]), [])


def offsets(job, rows):
    model = pi.build_toy(TINY)
    work = partial(_one, job, model, rows, "head offset", None, 1, job.protocol.edits, "part")
    job.part("part", rows, work)


def test_the_training_with_the_lowest_loss_counts_in_each_seed():
    rows = method_rows(made_up_lora().rows())
    best = {(r["method"], r["budget"]): r for r in rows}
    lora = best["LoRA, MLP and W_O", PAPER_SIZE]
    assert lora["rates"] == [1e-2] * 3 and lora["runs"] == 2 and lora["n_seeds"] == 3
    assert lora["exact_match"]["mean"] == pytest.approx(0.89) and lora["exact"]
    assert not best["LoRA, MLP", PAPER_SIZE]["exact"]
    assert best[NONE, None]["train_loss"] is None and best[NONE, None]["n_parameters"] == 0
    assert list(dict.fromkeys(r["method"] for r in rows)) == [NONE, BLIND, *METHODS]


@pytest.mark.parametrize(("learned", "holds"), [(0.9, True), (0.3, False)])
def test_the_section_says_first_what_was_found(learned, holds):
    evidence = evidence_of([made_up_lora(learned)])
    section = STUDY.section(evidence)
    top = 100 * (learned - 0.01)
    assert section.title == (
        f"With 12,288 parameters LoRA gets {top:.1f} % of histograms right, the best prefix with "
        "12,288 4.0 %"
    )
    (claim,) = section.claims
    assert {cell.holds for cell in claim.cells.values()} == {holds}
    assert set(claim.cells) == {"residual, 48 slots", "kv, 24 slots"}
    assert all(section.numbers.values()) and len(section.folded) == 2
    block = STUDY.findings["lora"](evidence)
    assert "| LoRA, MLP | 10,240 |" in block and "| head offset | 256 |" in block
    assert "3,072" not in block


def test_findings_without_a_result_say_what_to_run():
    assert "python -m analyses lora --preset fast" in STUDY.findings["lora"](evidence_of([]))


def test_the_figure_shows_every_method_at_every_size():
    result = made_up_lora()
    figure = size_figure(method_rows(result.rows()))
    for ax in figure.axes:
        lines = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        assert set(lines) == {NONE, BLIND, *METHODS}
        xs = list(lines["prefix, residual"].lines[0].get_xdata())
        assert xs == [3_072, 12_288]
    with pytest.raises(pi.PrefixInterpError, match="nothing to draw"):
        size_figure([])
    json.dumps({k: [dict(r) for r in v] for k, v in tables(result).items()}, allow_nan=False)


def test_a_killed_seed_repeats_no_finished_part(tmp_path, monkeypatch):
    made, before = [], methods.tune_edit
    monkeypatch.setattr(methods, "tune_edit", lambda *a, **k: made.append(1) or before(*a, **k))
    job = Job(0, "smoke", STUDY.protocols["smoke"], keeps=Kept(tmp_path))
    first, again = [], []
    offsets(job, first)
    offsets(job, again)
    assert made == [1] and first == again and len(first) == 1
