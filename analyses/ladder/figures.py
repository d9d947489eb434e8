"""Figures of the ladder of contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.ladder.protocol import BLIND, CONTEXTS, TASKS, TUNED
from analyses.ladder.tables import METRICS, ladder_rows
from analyses.names import task_lines
from analyses.panels import grid, panels
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks.words import task_words
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, CONTENT_COLOURS, MARKERS, legend_below
from prefix_interp.words import counted

_UNITS = {"loss": "nats per output"}

Rows = Sequence[Mapping[str, Any]]


def figures(result: Result) -> Mapping[str, Figure]:
    """Return the figures of a result, by the suffix of their file's stem.

    Args:
        result: result of the study.
    """
    rows = ladder_rows(result.rows())
    return {
        "": ladder_figure(rows),
        "-suffixes": suffix_figure(rows),
        "-first-output": suffix_figure(rows, "first_output"),
        "-longer": tuning_length_figure(rows),
    }


def ladder_figure(rows: Rows, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
    """Plot heat maps of exact match, contexts down and tasks across, one per depth.

    Empty cells were not measured: some contexts are tuned longer only on some tasks.

    Args:
        rows: from `ladder_rows`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: there are no contexts.
    """
    rows = [r for r in rows if r["method"] == "context"]
    if not rows:
        raise PrefixInterpError("rows=[] has nothing to draw; give ladder_rows(result.rows())")
    depths = sorted({r["depth"] for r in rows})
    rungs = sorted({_rung(r) for r in rows})
    with sheet(figsize, width) as room:
        size = (2.9, 0.27 * len(rungs) + 1.5)
        found = panels(room, len(depths), size=size, beside=(2.4, 0.0), each=1.3)
        for ax, depth in zip(found.axes, depths, strict=True):
            own = {(_rung(r), r["task"]): r["exact_match"] for r in rows if r["depth"] == depth}
            means = np.array(
                [[100 * own.get((rung, t), {"mean": math.nan})["mean"] for t in TASKS]
                 for rung in rungs]
            )  # fmt: skip
            ax.imshow(means, cmap=CONTENT_COLOURS, vmin=0, vmax=100, aspect="auto")
            ax.grid(False)
            ax.tick_params(length=0)
            ax.set_xticks(range(len(TASKS)), list(map(task_lines, TASKS)), fontsize="x-small")
            ax.set_title(layers(depth))
            for (i, j), mean in np.ndenumerate(means):
                if not math.isnan(mean):
                    colour = "white" if mean > 60 else "black"
                    words = f"{mean:.1f}"
                    ax.text(j, i, words, ha="center", va="center", fontsize="x-small", color=colour)
        names = [rung_label(CONTEXTS[context], *sizes) for context, *sizes in rungs]
        found.axes[0].set_yticks(range(len(rungs)), names)
    return found.figure


def _rung(row: Mapping[str, Any]) -> tuple[int, int, int]:
    return CONTEXTS.index(row["context"]), row["n_slots"], row["steps"] or 0


def rung_label(context: str, n_slots: int, steps: int) -> str:
    """Return a context in words, e.g. ``soft prompt, 10 slots, 400 steps``.

    Args:
        context: one of `CONTEXTS`.
        n_slots: number of its rows.
        steps: steps of its tuning; 0 if nothing is tuned.
    """
    if n_slots == 0:
        return {"none": "no context"}.get(context, context)
    sizes = f"{context}, {counted(n_slots, 'slot' if context in TUNED else 'token')}"
    return f"{sizes}, {counted(steps, 'step')}" if steps else sizes


def layers(depth: int) -> str:
    """Return a depth in words."""
    return counted(depth, "layer")


def suffix_figure(
    rows: Rows,
    metric: str = "exact_match",
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot each tuned context by depth, one panel per task, with 95% intervals over seeds.

    Contexts are those of the shorter tuning, which exists at all depths. Dotted: the blind rule.

    Args:
        rows: from `ladder_rows`.
        metric: one of `METRICS`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    check_choice("metric", metric, METRICS)
    rows = _most_slots(rows)
    steps = min(r["steps"] for r in rows if r["steps"])
    depths = sorted({r["depth"] for r in rows})
    scale = _scale(metric)
    with sheet(figsize, width) as room:
        found = panels(room, len(TASKS), size=(2.1, 2.3), beside=(0.6, 0.8))
        for ax, task in zip(found.axes, TASKS, strict=True):
            here = [r for r in rows if r["task"] == task]
            for i, context in enumerate(TUNED):
                own = [r for r in here if (r["context"], r["steps"]) == (context, steps)]
                spreads = {r["depth"]: r[metric] for r in own}
                _points(ax, depths, spreads, i, context, scale)
            _blind_line(ax, here, metric)
            ax.set_title(f"{task_words(task)}\n({TASKS[task]})")
            ax.set_xticks(range(len(depths)), [str(d) for d in depths])
            if ax in found.bottom:
                ax.set_xlabel("layers")
        _finish(found.figure, found.left, metric)
    return found.figure


def tuning_length_figure(
    rows: Rows,
    metric: str = "loss",
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot each tuned context by the steps of its tuning, one panel per depth and task.

    Only depths and tasks with more than one length of tuning are shown. Bars are 95% intervals
    over seeds, dotted lines the blind rule.

    Args:
        rows: from `ladder_rows`.
        metric: one of `METRICS`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing was tuned for more than one number of steps.
    """
    check_choice("metric", metric, METRICS)
    rows = _most_slots(rows)
    steps = sorted({r["steps"] for r in rows if r["steps"]})
    if len(steps) < 2:
        raise PrefixInterpError(f"rows have tunings of {steps} steps; two lengths are needed")
    longest = [r for r in rows if r["steps"] == steps[-1]]
    depths = sorted({r["depth"] for r in longest})
    tasks = sorted({r["task"] for r in longest}, key=list(TASKS).index)
    with sheet(figsize, width) as room:
        found = grid(room, len(depths), len(tasks), size=(2.3, 2.0), beside=(0.6, 1.0))
        for (i, depth), (j, task) in product(enumerate(depths), enumerate(tasks)):
            here = [r for r in rows if (r["depth"], r["task"]) == (depth, task)]
            for c, context in enumerate(TUNED):
                own = {r["steps"]: r[metric] for r in here if r["context"] == context}
                _points(found.axes[i, j], steps, own, c, context, _scale(metric))
            _blind_line(found.axes[i, j], here, metric)
            found.axes[i, j].set_title(f"{task_words(task)}, {layers(depth)}")
            found.axes[i, j].set_xticks(range(len(steps)), [f"{n:,}" for n in steps])
        for ax in found.bottom:
            ax.set_xlabel("steps of the tuning")
        _finish(found.figure, found.left, metric)
    return found.figure


def _most_slots(rows: Rows) -> Rows:
    """Return the rows of the blind rule, and of tuned contexts with the largest number of slots."""
    rows = [r for r in rows if r["method"] == "context"]
    most = max(r["n_slots"] for r in rows if r["context"] in TUNED)
    return [
        r for r in rows
        if r["context"] == BLIND or (r["context"] in TUNED and r["n_slots"] == most)
    ]  # fmt: skip


def _scale(metric: str) -> float:
    return 1.0 if metric in _UNITS else 100.0


def _points(
    ax: Axes,
    ticks: Sequence[int],
    own: Mapping[int, Mapping[str, Any]],
    i: int,
    label: str,
    scale: float,
) -> None:
    x = np.arange(len(ticks)) + 0.13 * (i - 2)
    mean, low, high = (
        np.array([scale * own[tick][key] for tick in ticks]) for key in ("mean", "low", "high")
    )
    ax.errorbar(
        x, mean, yerr=[mean - low, high - mean], color=COLOURS[i], marker=MARKERS[i],
        markersize=4.5, linewidth=1, elinewidth=0.9, label=label,
    )  # fmt: skip


def _blind_line(ax: Axes, rows: Rows, metric: str) -> None:
    """Draw the blind rule, the same at all depths."""
    floor = next(r[metric]["mean"] for r in rows if r["context"] == BLIND)
    ax.axhline(_scale(metric) * floor, color="0.35", linestyle=":", linewidth=1, label=BLIND)


def _finish(figure: Figure, left: Sequence[Axes], metric: str) -> None:
    """Name the axes, and put one legend below."""
    words = metric.replace("_", " ")
    for ax in left:
        ax.set_ylabel(f"{words} ({_UNITS.get(metric, '%')})")
        if metric not in _UNITS:
            ax.set_ylim(-4, 104)
    legend_below(figure, left[0], 3)
