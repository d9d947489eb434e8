"""Every figure of the studies at the sizes of a paper, as in tests/views/test_sizes.py."""

import inspect
from functools import cache

import pytest
import torch

from analyses.capacity.figure import capacity_figure
from analyses.constructions.section import WRITTEN
from analyses.constructions.trace import trace, trace_figure
from analyses.cramming.section import cramming_figure
from analyses.depth.measure import CONTROL, TASKS
from analyses.depth.section import depth_figure
from analyses.heads.section import copying_figure
from analyses.ladder.figures import ladder_figure, suffix_figure, tuning_length_figure
from analyses.ladder.tables import ladder_rows
from analyses.language_model.section import model_figure
from analyses.language_model_heads.section import layers_figure
from analyses.long_prefixes.figures import slots_figure
from analyses.lora.figures import size_figure
from analyses.lora.tables import method_rows
from analyses.reachability.figure import LINES, reachability_figure
from analyses.registry import find_study
from analyses.report.explorer import Choice, still_figure
from analyses.sentiment.section import sentiment_figure
from analyses.study import committed_result
from analyses.subspaces.figures import angles_figure, removal_figure
from analyses.swap.section import swapped_figure
from analyses.table1.section import learned_figure, sweep_figure
from analyses.table2.section import matrix_figure
from analyses.table3.section import table3_figure
from analyses.table3.tables import PAPER
from analyses.universality.figure import universality_figure
from prefix_interp.figure_files import WIDTHS
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.theory.constructions import any_sequence
from prefix_interp.views.attention import AttentionView
from tests.analyses.test_lora import made_up_lora
from tests.structure import ROOT, files, module_name, tree
from tests.views.drawn import drawn


@cache
def _result(study):
    return committed_result(study)


@cache
def _tables(study):
    return find_study(study).tables(_result(study))


@cache
def _ladder():
    return ladder_rows(_result("ladder").rows())


def _still(**size):
    torch.manual_seed(0)
    tokens = [str(i % 10) for i in range(19)]
    shares = torch.rand(1, 1, 19, 19).tril()
    off = AttentionView("no prefix", tokens, torch.zeros(1, 1, 19, 0), shares)
    on = AttentionView("prefix", tokens, torch.rand(1, 1, 19, 1), shares)
    return still_figure(Choice("a toy", "sort descending", [(off, on)]), **size)


def _trace(**size):
    made = any_sequence(n_tokens=10, length=len(WRITTEN))
    return trace_figure(made, trace(made, WRITTEN), **size)


def _noise():
    frame = _result("heads").to_dataframe("head")
    return frame[(frame["parameterization"] == "residual") & (frame["direction"] == "noise")]


def _table3():
    """Return rows as of four layers, which have not been measured yet."""
    kinds = (
        ("pretrained", None),
        ("content-blind", None),
        ("prefix", "residual"),
        ("prefix", "kv"),
    )
    return [
        {
            "method": method, "parameterization": kind, "task": task,
            "paper": PAPER[4].get(method, {}).get(task),
            "exact_match": {"mean": i / 10, "low": max(0.0, i / 10 - 0.1), "high": i / 10 + 0.05},
        }
        for method, kind in kinds
        for i, task in enumerate(PAPER[4]["prefix"])
    ]  # fmt: skip


def _swapped():
    """Return rows of swapped prefixes, which have not been measured yet."""
    return [
        {"keys_of": a, "values_of": b, "task": t, "exact_match": {"mean": 1.0 if a == b else 0.4}}
        for a in FOUR_SKILLS for b in FOUR_SKILLS for t in FOUR_SKILLS
    ]  # fmt: skip


def _depths():
    """Return scores and drift by depth, which have not been measured yet."""
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    models = [(n, bare, task) for n in (1, 2, 4, 8) for bare in (False, True) for task in TASKS]
    about = [
        {"n_layers": n, "attn_only": bare, "task": task, "parameterization": "kv"}
        for n, bare, task in models
    ]
    return {
        "scores": [{**row, "method": "prefix", "exact_match": share} for row in about],
        "drift": [
            {**row, "method": method, "layer": layer, "distance": share}
            for row in about for method in ("prefix", CONTROL) for layer in range(row["n_layers"])
        ],
    }  # fmt: skip


def _told():
    """Return scores of prefixes and LoRA on sentences, which have not been measured yet."""
    share = {"mean": 0.7, "low": 0.6, "high": 0.8}
    prefixes = [
        {"method": "prefix", "parameterization": kind, "n_slots": n, "start": start,
         "n_parameters": 1000 * n, "choice": share}
        for kind in ("kv", "residual") for start in ("random", "zero", "text") for n in (1, 5, 20)
    ]  # fmt: skip
    lora = [{"method": "lora", "n_parameters": 1000 * n, "choice": share} for n in (1, 5, 20)]
    return {"scores": [{"method": "zero-shot", "choice": share}, *prefixes, *lora]}


def _crammed():
    """Return stages and attention of crammed vectors, which have not been measured yet."""
    kinds, layers = ("text", "uniform"), range(30)
    return {
        "stages": [
            {"kind": kind, "length": n, "tried": 8 - n // 4, "reached": 8 - n // 4}
            for kind in kinds for n in range(1, 30)
        ],
        "attention": [
            {"kind": kind, "layer": i, "crammed": i / 40, "ordinary": 0.9 - i / 40}
            for kind in kinds for i in layers
        ],
    }  # fmt: skip


def _reached():
    """Return scores of prefixes of any length, which have not been measured yet."""

    def share(value):
        return {"mean": value, "low": value - 0.03, "high": value + 0.03}

    methods = [("kv prefix", n, 0.1 + n / 1000) for n in (1, 2, 5, 10, 32, 100)]
    methods += [(name, None, 0.3 + i / 10) for i, name in enumerate(LINES)]
    outputs = [*methods, ("content-blind rule", None, 0.2)]
    return {
        "scores": [{"method": m, "n_slots": n, "exact_match": share(x)} for m, n, x in methods],
        "outputs": [
            {"method": m, "n_slots": n, "output": i, "share": share(x)}
            for m, n, x in outputs for i in range(1, 11)
        ],
    }  # fmt: skip


FIGURES = {
    "capacity": lambda **k: capacity_figure(_tables("capacity"), **k),
    "cramming": lambda **k: cramming_figure(_crammed(), **k),
    "trace": _trace,
    "depth": lambda **k: depth_figure(_depths(), **k),
    "copying": lambda **k: copying_figure(_noise(), **k),
    "ladder": lambda **k: ladder_figure(_ladder(), **k),
    "suffixes": lambda **k: suffix_figure(_ladder(), **k),
    "first output": lambda **k: suffix_figure(_ladder(), "first_output", **k),
    "tuning length": lambda **k: tuning_length_figure(_ladder(), **k),
    "language model": lambda **k: model_figure(_tables("language-model"), **k),
    "heads of a language model": lambda **k: layers_figure(_tables("language-model-heads"), **k),
    "slots": lambda **k: slots_figure(
        _tables("long-prefixes")["bias"], _result("long-prefixes").rows("bias"), **k
    ),
    "LoRA": lambda **k: size_figure(method_rows(made_up_lora().rows()), **k),
    "reachability": lambda **k: reachability_figure(_reached(), **k),
    "sentiment": lambda **k: sentiment_figure(_told(), **k),
    "still": _still,
    "angles": lambda **k: angles_figure(_result("subspaces").rows("angle"), **k),
    "removal": lambda **k: removal_figure(
        _tables("subspaces")["removal"], _result("subspaces").rows("removal"), **k
    ),
    "learned": lambda **k: learned_figure(_tables("table1")["rows"], **k),
    "sweep": lambda **k: sweep_figure(_tables("table1")["sweep"], **k),
    "matrix": lambda **k: matrix_figure(_tables("table2")["rows"], **k),
    "swapped": lambda **k: swapped_figure(_swapped(), **k),
    "table 3": lambda **k: table3_figure(_table3(), **k),
    "universality": lambda **k: universality_figure(_tables("universality"), **k),
}  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_or_covered(name, width, monkeypatch):
    figure = FIGURES[name](width=width)
    assert figure.get_figwidth() == WIDTHS[width] and figure.get_figheight() < 20
    found = drawn(figure, "pdf", monkeypatch)
    assert len(found.texts) >= 3
    assert found.outside() == [] and found.overlaps() == []


def test_a_size_is_taken_as_it_is():
    assert tuple(_still(figsize=(5, 4)).get_size_inches()) == (5, 4)


def test_every_figure_of_a_study_takes_a_size_and_is_among_those_looked_at():
    made = set()
    for file in files(ROOT / "analyses"):
        for node in tree(file).body:
            name = getattr(node, "name", "")
            if name.endswith("_figure") and not name.startswith("_"):
                arguments = {a.arg for a in node.args.kwonlyargs}
                assert arguments >= {"figsize", "width"}, f"{module_name(file)}.{name}"
                made.add(name)
    source = inspect.getsource(inspect.getmodule(_tables))
    assert len(made) >= 15 and all(source.count(f"{name}(") for name in made)
