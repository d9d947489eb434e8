"""Figures of the ladder of contexts and of the capacity of one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.ladder import CONTEXTS, TASKS, TUNED
from prefix_interp.experiments.ladder_summary import (
    METRICS,
    distinct_rows,
    ladder_rows,
    length_rows,
)
from prefix_interp.results import Result
from prefix_interp.views.style import COLOURS, CONTENT_COLOURS, MARKERS, look

TASK_WORDS = {
    "sort_ascending": "ascending",
    "sort_ascending_add_one": "ascending,\nthen +1",
    "sort_descending": "descending",
    "double_histogram": "histogram",
}
_KINDS = {"hard": "hard tokens", "random": "random soft tokens", "searched": "searched soft tokens"}


def ladder_figure(result: Result) -> Figure:
    """Return heat maps of exact match, contexts down and tasks across, one a depth.

    Args:
        result: from `ladder`.

    Raises:
        PrefixInterpError: the result has no contexts.
    """
    rows = [r for r in ladder_rows(result) if r["method"] == "context"]
    if not rows:
        raise PrefixInterpError("result has no contexts; give one of ladder")
    depths = sorted({r["depth"] for r in rows})
    rungs = sorted(
        {(CONTEXTS.index(r["context"]), r["n_slots"]) for r in rows},
    )
    with look():
        size = (2.9 * len(depths) + 2.2, 0.27 * len(rungs) + 1.5)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(depths), squeeze=False, sharey=True)[0]
        for ax, depth in zip(axes, depths, strict=True):
            own = {
                (CONTEXTS.index(r["context"]), r["n_slots"], r["task"]): r
                for r in rows
                if r["depth"] == depth
            }
            means = np.array(
                [[100 * own[(*rung, t)]["exact_match"]["mean"] for t in TASKS] for rung in rungs]
            )
            ax.imshow(means, cmap=CONTENT_COLOURS, vmin=0, vmax=100, aspect="auto")
            ax.grid(False)
            ax.tick_params(length=0)
            ax.set_xticks(range(len(TASKS)), list(map(TASK_WORDS.get, TASKS)), fontsize=7.5)
            ax.set_title(f"{depth} layer{'' if depth == 1 else 's'}")
            for (i, j), mean in np.ndenumerate(means):
                colour = "white" if mean > 60 else "black"
                ax.text(j, i, f"{mean:.1f}", ha="center", va="center", fontsize=7, color=colour)
        names = [rung_label(CONTEXTS[context], n_slots) for context, n_slots in rungs]
        axes[0].set_yticks(range(len(rungs)), names, fontsize=8)
    return figure


def rung_label(context: str, n_slots: int) -> str:
    """Return a context with its rows in words, e.g. ``soft prompt, 10 slots``."""
    if context == "none":
        return "no context"
    what = "slot" if context in TUNED else "token"
    return f"{context}, {n_slots} {what}{'' if n_slots == 1 else 's'}"


def suffix_figure(result: Result, metric: str = "exact_match") -> Figure:
    """Return each tuned context by depth, a panel a task, with 95% intervals over seeds.

    Args:
        result: from `ladder`.
        metric: one of `METRICS`.
    """
    rows = [r for r in ladder_rows(result) if r["method"] == "context" and r["context"] in TUNED]
    most = max(r["n_slots"] for r in rows)
    rows = [r for r in rows if r["n_slots"] == most]
    depths = sorted({r["depth"] for r in rows})
    scale = 1.0 if METRICS[metric] == float("inf") else 100.0
    with look():
        figure = Figure(figsize=(2.1 * len(TASKS) + 0.6, 3.1), layout="constrained")
        axes = figure.subplots(1, len(TASKS), sharey=True)
        for ax, task in zip(axes, TASKS, strict=True):
            for i, context in enumerate(TUNED):
                own = {
                    r["depth"]: r[metric]
                    for r in rows
                    if (r["context"], r["task"]) == (context, task)
                }
                _points(ax, depths, own, i, context, scale)
            ax.set_title(f"{TASK_WORDS[task].replace(chr(10), ' ')}\n({TASKS[task]})")
            ax.set_xticks(range(len(depths)), [str(d) for d in depths])
            ax.set_xlabel("layers")
            if scale == 100.0:
                ax.set_ylim(-4, 104)
        words = metric.replace("_", " ")
        axes[0].set_ylabel(f"{words} (%)" if scale == 100.0 else f"{words} (nats an output)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(TUNED))
    return figure


def _points(
    ax: Axes,
    depths: Sequence[int],
    own: Mapping[int, Mapping[str, Any]],
    i: int,
    label: str,
    scale: float,
) -> None:
    x = np.arange(len(depths)) + 0.13 * (i - 2)
    mean, low, high = (
        np.array([scale * own[d][key] for d in depths]) for key in ("mean", "low", "high")
    )
    ax.errorbar(
        x, mean, yerr=[mean - low, high - mean], color=COLOURS[i], marker=MARKERS[i],
        markersize=4.5, linewidth=1, elinewidth=0.9, label=label,
    )  # fmt: skip


def capacity_figure(result: Result) -> Figure:
    """Return distinct continuations by kind of token, and which share of targets is emitted.

    Left: different continuations, trained toys. Right: random targets that a searched soft
    token emits exactly, by length. Bands: 95% intervals over seeds. Dashed: never trained.

    Args:
        result: from `capacity`.
    """
    distinct, lengths = distinct_rows(result), length_rows(result)
    depths = sorted({r["depth"] for r in lengths})
    with look():
        figure = Figure(figsize=(9.2, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        _distinct(left, distinct, depths)
        for i, depth in enumerate(depths):
            for trained, style in ((True, "-"), (False, "--")):
                own = [r for r in lengths if (r["depth"], r["trained"]) == (depth, trained)]
                x = [r["length"] for r in own]
                mean, low, high = (
                    np.array([100 * r["share"][key] for r in own])
                    for key in ("mean", "low", "high")
                )
                label = f"{depth} layer{'' if depth == 1 else 's'}"
                label += "" if trained else ", never trained"
                right.plot(x, mean, style, color=COLOURS[i], marker=MARKERS[i], markersize=4,
                           label=label)  # fmt: skip
                right.fill_between(x, low, high, color=COLOURS[i], alpha=0.12, linewidth=0)
        right.set_xlabel("length of the random target (tokens)")
        right.set_xticks(sorted({r["length"] for r in lengths}))
        right.set_ylabel("targets emitted exactly (%)")
        right.set_ylim(-4, 104)
        right.legend(fontsize=8)
    return figure


def _distinct(ax: Axes, rows: Sequence[Mapping[str, Any]], depths: Sequence[int]) -> None:
    """Draw the number of different continuations, trained toys, on a logarithmic axis."""
    own = [r for r in rows if r["trained"]]
    kinds = list(dict.fromkeys((r["kind"], r["std"]) for r in own))
    width = 0.8 / len(kinds)
    for i, (kind, std) in enumerate(kinds):
        here = {r["depth"]: r for r in own if (r["kind"], r["std"]) == (kind, std)}
        x = np.arange(len(depths)) + width * (i - (len(kinds) - 1) / 2)
        means = [here[d]["distinct"]["mean"] for d in depths]
        tried = here[depths[0]]["tried"]["mean"]
        label = f"{_KINDS[kind]}{'' if std is None else f', std {std:g}'} ({tried:.0f} tried)"
        ax.bar(x, means, width * 0.92, color=COLOURS[i % len(COLOURS)], label=label)
        for at, mean in zip(x, means, strict=True):
            ax.text(at, mean, f"{mean:.3g}", ha="center", va="bottom", fontsize=7)
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.8)
    ax.set_ylim(top=ax.get_ylim()[1] * 80)  # room for the legend
    ax.set_xticks(range(len(depths)), [f"{d} layer{'' if d == 1 else 's'}" for d in depths])
    ax.set_ylabel("different continuations")
    ax.legend(fontsize=7.5, loc="upper left")
