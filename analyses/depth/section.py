"""The report's section on depth: what more layers give a prefix, and where attention moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.depth.measure import COMBINED, CONTROL, NEW, TASKS
from analyses.depth.tables import best_by_depth, tables
from analyses.panels import panels
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Column, mean_of, mean_share, percent, power, rows_table
from analyses.study import Tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks.words import task_words
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return from how many layers on a prefix combines skills, and how attention moves.

    Args:
        evidence: with the result of this study.
    """
    result, summary = evidence.result("depth"), evidence.tables("depth")
    assert result is not None
    scores, size = summary["scores"], result.settings["protocol"]
    combined = best_by_depth(scores, COMBINED, False)
    new = max(
        (row for row in scores if row["task"] == NEW and row["method"] == "prefix"),
        key=lambda row: row["exact_match"]["mean"],
    )
    first, last = combined[0], combined[-1]
    bare = best_by_depth(scores, COMBINED, True)
    without = f"{percent(bare[-1]['exact_match']['mean'])} % without MLPs" if bare else ""
    moved = [r for r in summary["drift"] if r["method"] == "prefix" and r["layer"] > 0]
    still = max(r["distance"]["max"] for r in summary["drift"] if r["layer"] == 0)
    worst = max((row["error"]["max"] for row in summary["terms"]), default=0.0)
    return Section(
        "depth", "Depth",
        f"With {counted(last['n_layers'], 'layer')} a prefix sorts and then adds 1 in "
        f"{percent(last['exact_match']['mean'])} % of sequences, with "
        f"{counted(first['n_layers'], 'layer')} in {percent(first['exact_match']['mean'])} %",
        "does",
        f"{counted(len(result.seeds), 'seed')}, {counted(size['n_slots'], 'slot')}, models of "
        f"four heads pretrained on four tasks{f'; {without}' if without else ''}. The task that "
        f"was never seen stays at {percent(new['exact_match']['mean'])} % at best. Relative "
        f"attention moves by at most {power(still)} in layer 1, deeper by up to "
        f"{max((r['distance']['mean'] for r in moved), default=0.0):.2f} (Jensen-Shannon).",
        picture(
            "depth-layers",
            depth_figure(summary),
            "Left: sequences right against the number of layers, with MLPs and without. Right: "
            "how far attention within the content moves in each layer of the deepest model.",
            "The better parameterization at each depth; bands are 95% intervals over seeds and "
            "test sequences. Dotted: random prefixes with the same norms.",
        ),
        [
            Words("By depth", "A prefix counts at the rate with the lowest training loss.",
                  rows_table(scores, [
                      Column("Layers", "n_layers"), Column("MLPs", "attn_only", _mlps),
                      Column("Prefix", "parameterization"), Column("Context", "method"),
                      Column("Task", "task", task_words),
                      Column("Sequences (%)", "exact_match", mean_share),
                      Column("Outputs (%)", "token_accuracy", mean_share),
                      Column("Loss (nats)", "loss", mean_of(3))])),
            Words("The models alone", "Without a prefix, on the tasks of the mixture.",
                  rows_table(summary["models"], [
                      Column("Layers", "n_layers"), Column("MLPs", "attn_only", _mlps),
                      Column("Task", "task", lambda t: "all" if t is None else task_words(t)),
                      Column("Sequences (%)", "exact_match", mean_share)])),
            Words("What moves attention", "Of each layer's scores under a tuned prefix: how much "
                  "each term varies within a row, mean over heads. The sum of all terms is off by "
                  f"{power(worst)} of the largest score at most.",
                  rows_table(summary["terms"], [
                      Column("Layers", "n_layers"), Column("MLPs", "attn_only", _mlps),
                      Column("Prefix", "parameterization"), Column("Task", "task", task_words),
                      Column("Layer", "layer", lambda layer: str(layer + 1)),
                      Column("Term", "term"), Column("In a row", "rms_in_row", mean_of(3))])),
        ],
        numbers=summary,
    )  # fmt: skip


def _mlps(attn_only: bool) -> str:
    return "no" if attn_only else "yes"


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": depth_figure(tables(result))}


def depth_figure(
    summary: Tables, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot exact match against depth, and drift by layer in the deepest model with MLPs.

    Args:
        summary: from `tables`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    with sheet(figsize, width) as room:
        found = panels(room, 2, size=(3.6, 2.8), beside=(0.2, 0.8), each=2.4, sharey=False)
        left, right = found.axes
        for i, task in enumerate(TASKS):
            for attn_only, style in ((False, "-"), (True, "--")):
                rows = best_by_depth(summary["scores"], task, attn_only)
                name = f"{task_words(task)}{', no MLPs' if attn_only else ''}"
                _by_depth(left, rows, i, style, name)
            kind = best_by_depth(summary["scores"], task, False)[-1]["parameterization"]
            _by_layer(right, summary["drift"], task, kind, i)
        depths = sorted({row["n_layers"] for row in summary["scores"]})
        left.set(xscale="log", ylim=(-3, 103), xlabel="layers", ylabel="sequences right (%)")
        left.set_xticks(depths, [str(n) for n in depths])
        left.minorticks_off()
        right.set(ylim=(-0.02, 1.02), xlabel="layer", ylabel="attention moved")
        legend_below(found.figure, left, 3)
    return found.figure


def _by_depth(ax: Axes, rows: Rows, i: int, style: str, name: str) -> None:
    if not rows:
        return
    x, score = [row["n_layers"] for row in rows], [row["exact_match"] for row in rows]
    mean, low, high = ([100 * own[key] for own in score] for key in ("mean", "low", "high"))
    ax.plot(x, mean, style, color=COLOURS[i], marker=MARKERS[i], label=name)
    ax.fill_between(x, low, high, color=COLOURS[i], alpha=0.12, linewidth=0)


def _by_layer(ax: Axes, drift: Rows, task: str, kind: str, i: int) -> None:
    deepest = max(row["n_layers"] for row in drift)
    for method, style in (("prefix", "-"), (CONTROL, ":")):
        own = [
            row for row in drift
            if (row["n_layers"], row["attn_only"], row["task"], row["method"],
                row["parameterization"]) == (deepest, False, task, method, kind)
        ]  # fmt: skip
        ax.plot(
            [row["layer"] + 1 for row in own], [row["distance"]["mean"] for row in own], style,
            color=COLOURS[i], marker=MARKERS[i] if style == "-" else "",
        )  # fmt: skip
