"""Figures of the subspace in which a prefix acts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.panels import grid
from analyses.subspaces.tables import tables
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.seeds import derive_seed
from prefix_interp.tasks import list_tasks
from prefix_interp.tasks.words import task_words
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, legend_below

_COMPARISONS = {
    ("starts", "residual"): "starts\nresidual",
    ("starts", "kv"): "starts\nkv",
    ("parameterizations", None): "residual\nand kv",
    ("tasks", "residual"): "tasks\nresidual",
    ("tasks", "kv"): "tasks\nkv",
    ("heads", "residual"): "heads\nresidual",
    ("heads", "kv"): "heads\nkv",
}
_SPACES = {
    "own": "subspace of its bias",
    "random": "random, of equal rank (line: range of draws)",
    "other": "subspace of another task's bias",
    "content": "strongest directions of (1 − g) t",
}
_REMOVED = {
    "output": "output\nprojected out",
    "restore": "plain run's\ninside it",
    "isolate": "plain run's\noutside it",
    "bias": "bias\nprojected out",
}
_METRICS = {
    "exact_match": "exact match (share of sequences)",
    "token_accuracy": "token accuracy (share of outputs)",
    "late_token_accuracy": "token accuracy, second half of the outputs",
    "loss": "test loss (nats per output)",
}


def figures(result: Result) -> Mapping[str, Figure]:
    """Return the figures of a result, by the suffix of their file's stem.

    Args:
        result: result of the study, or from `toy_subspaces`.
    """
    return {
        "-removal": removal_figure(tables(result)["removal"], result.rows("removal")),
        "-angles": angles_figure(result.rows("angle")),
    }


def angles_figure(
    angles: Sequence[Mapping[str, Any]],
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the mean principal angle of every pair of subspaces, in degrees.

    One dot per pair, with random horizontal jitter; the black line is the mean. The grey band
    contains 95% of pairs of random subspaces of the same rank, its line is their mean. 90 degrees
    means that nothing is shared. Heads are compared after W_O, where they write.

    Args:
        angles: the records of the result's table ``angle``.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: no angles.
    """
    if not angles:
        raise PrefixInterpError("angles=[] has nothing to draw; give result.rows('angle')")
    panels = {
        "subspaces of heads": [r for r in angles if r["level"] != "layer"],
        "subspaces of the layer": [r for r in angles if r["level"] == "layer"],
    }
    found = {
        name: [k for k in _COMPARISONS if any(_compared(r) == k for r in own)]
        for name, own in panels.items()
    }
    with sheet(figsize, width) as room:
        side = room.columns(2, each=2.6)
        figure = room.figure(10.5, 3.8 if side == 2 else 5.6)
        ratios = [max(1, len(kinds)) for kinds in found.values()] if side == 2 else None
        axes = figure.subplots(2 // side, side, sharey=True, width_ratios=ratios).flatten()
        for ax, (name, own) in zip(axes, panels.items(), strict=True):
            for x, key in enumerate(found[name]):
                _strip(ax, x, key, [r for r in own if _compared(r) == key])
            ax.set_xticks(range(len(found[name])), [_COMPARISONS[k] for k in found[name]])
            ax.set(title=name, ylim=(-2, 92), yticks=range(0, 91, 15))
            ax.grid(visible=False, axis="x")
        for ax in axes[::side]:
            ax.set_ylabel("mean principal angle (degrees)")
        legend_below(figure, axes[0], 4)
    return figure


def _compared(record: Mapping[str, Any]) -> tuple[str, str | None]:
    return record["comparison"], record["parameterization"]


def _strip(
    ax: Axes, x: int, key: tuple[str, str | None], rows: Sequence[Mapping[str, Any]]
) -> None:
    degrees = np.degrees([r["mean_angle"] for r in rows])
    chance = {end: math.degrees(np.mean([r["chance_angle"][end] for r in rows]))
              for end in ("value", "low", "high")}  # fmt: skip
    side, first = [x - 0.36, x + 0.36], x == 0
    ax.fill_between(side, chance["low"], chance["high"], color="#d5d5d5", linewidth=0,
                    label="random subspaces, 95%" if first else None)  # fmt: skip
    ax.plot(side, [chance["value"]] * 2, color="#8a8a8a", linewidth=1)
    noise = np.random.default_rng(derive_seed(0, "jitter", *map(str, key)))
    ax.scatter(x + noise.uniform(-0.26, 0.26, len(degrees)), degrees, s=9, alpha=0.45,
               color=COLOURS[0], linewidth=0, label="one pair" if first else None)  # fmt: skip
    ax.plot(side, [degrees.mean()] * 2, color="black", linewidth=1.8,
            label="mean" if first else None)  # fmt: skip


def removal_figure(
    summary: Sequence[Mapping[str, Any]],
    removals: Sequence[Mapping[str, Any]],
    metric: str = "exact_match",
    level: str = "head",
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the scores of prefixes with a subspace removed, one panel per task.

    Bars are means over seeds. Their lines are 95% intervals for new seeds; for random subspaces
    they go from the worst draw of any seed to the best. Dashed lines are the unchanged runs with
    and without the prefix.

    Args:
        summary: summary of the removals, from `tables`.
        removals: the records of the result's table ``removal``.
        metric: ``"exact_match"``, ``"token_accuracy"``, ``"late_token_accuracy"`` or ``"loss"``.
        level: ``"head"`` (subspaces of all heads at once) or ``"layer"``.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: an unknown metric or level, or no removals.
    """
    check_choice("metric", metric, _METRICS)
    check_choice("level", level, ("head", "layer"))
    rows = [r for r in summary if r["task"] is not None]
    if not rows:
        raise PrefixInterpError("summary=[] has nothing to draw; give tables(result)['removal']")
    kinds = sorted({(r["parameterization"], r["n_slots"]) for r in rows}, reverse=True)
    names = sorted({r["task"] for r in rows}, key=list_tasks().index)
    with sheet(figsize, width) as room:
        beside = (0.6 if len(names) > 1 else 3.5, 0.8)  # one panel has room for the legend
        found = grid(room, len(kinds), len(names), size=(2.9, 2.6), beside=beside)
        for axes, kind in zip(found.axes, kinds, strict=True):
            for ax, task in zip(axes, names, strict=True):
                own = [r for r in rows if (r["parameterization"], r["n_slots"]) == kind]
                _bars(ax, [r for r in own if r["task"] == task], removals, metric, level)
                ax.set_title(f"{task_words(task)}, {kind[0]}")
                if metric != "loss":
                    ax.set_ylim(0, 1.04)
        found.figure.supylabel(_METRICS[metric], fontsize="medium")
        legend_below(found.figure, found.axes[0][0], 3)
    return found.figure


def _bars(
    ax: Axes,
    rows: Sequence[Mapping[str, Any]],
    removals: Sequence[Mapping[str, Any]],
    metric: str,
    level: str,
) -> None:
    for run, style, label in (("on", "--", "with the prefix"), ("off", ":", "without it")):
        (row,) = [r for r in rows if r["space"] == "none" and r["run"] == run]
        ax.axhline(row[metric]["mean"], color="black", linestyle=style, linewidth=1.2,
                   label=label, zorder=1)  # fmt: skip
    shown = [r for r in rows if r["run"] == "on" and r["level"] == level]
    groups = [name for name in _REMOVED if any(r["remove"] == name for r in shown)]
    beside = {name: [s for s in _SPACES if _has(shown, name, s)] for name in groups}
    for i, (space, label) in enumerate(_SPACES.items()):
        own = {r["remove"]: r for r in shown if r["space"] == space}
        if not own:
            continue
        middle = {name: (len(beside[name]) - 1) / 2 for name in own}
        at = [groups.index(n) + 0.2 * (beside[n].index(space) - middle[n]) for n in own]
        means = np.array([r[metric]["mean"] for r in own.values()])
        ends = [_ends(r, removals, metric) for r in own.values()]
        low, high = np.array(ends).T
        ax.bar(
            at, means, 0.19, color=COLOURS[i], label=label, zorder=2, error_kw={"linewidth": 1},
            yerr=[np.maximum(means - low, 0), np.maximum(high - means, 0)],
        )  # fmt: skip
    ax.set_xticks(range(len(groups)), [_REMOVED[name] for name in groups], fontsize="x-small")
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(visible=False, axis="x")


def _has(rows: Sequence[Mapping[str, Any]], remove: str, space: str) -> bool:
    return any((r["remove"], r["space"]) == (remove, space) for r in rows)


def _ends(
    row: Mapping[str, Any], removals: Sequence[Mapping[str, Any]], metric: str
) -> tuple[float, float]:
    """Return the start and end of a bar's line."""
    if row["space"] != "random":
        return row[metric]["low"], row[metric]["high"]
    keys = ("parameterization", "n_slots", "task", "run", "level", "space", "remove")
    draws = [r[metric] for r in removals if all(r[key] == row[key] for key in keys)]
    return min(d.get("min", d["value"]) for d in draws), max(
        d.get("max", d["value"]) for d in draws
    )
