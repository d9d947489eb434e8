"""Figures of the subspace in which a prefix acts; their numbers are in the summaries' rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.experiments.subspace_summary import long_prefix_rows, subspace_rows
from prefix_interp.results import Result
from prefix_interp.seeds import derive_seed
from prefix_interp.tasks import list_tasks
from prefix_interp.views.style import COLOURS, MARKERS, look

_METHODS = {
    "prefix": "tuned prefix",
    "random prefix": "its random start",
    "norm-matched prefix": "random, norms of the tuned",
}
_LEVELS = {"head": "effective rank, a head", "layer": "effective rank, the layer"}
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
    "loss": "test loss (nats an output)",
}


def slots_figure(result: Result) -> Figure:
    """Return effective rank and the range of slot attention against the number of slots.

    Thick lines are means over seeds, tasks and heads. Thin lines are single heads (or layers) of
    the tuned prefixes, each of one seed, averaged over tasks. The dashed line is the bound. Slot
    shares are those of the last input position's attention to the slots; their range reaches
    from the 1st to the 99th percentile over inputs.

    Args:
        result: from `long_prefixes`.

    Raises:
        PrefixInterpError: no such result.
    """
    rows = [r for r in long_prefix_rows(result) if r["part"] == "bias" and r["task"] is None]
    if not rows:
        raise _other_result(result, "long-prefixes")
    kinds = list(dict.fromkeys(r["parameterization"] for r in rows))
    with look():
        figure = Figure(figsize=(10.5, 2.7 * len(kinds) + 0.6), layout="constrained")
        grid = figure.subplots(len(kinds), 3, squeeze=False, sharex=True)
        for axes, kind in zip(grid, kinds, strict=True):
            own = [r for r in rows if r["parameterization"] == kind]
            for ax, level in zip(axes, _LEVELS, strict=False):
                _slot_lines(ax, own, level, "effective_rank")
                _single_heads(ax, result, kind, level, "effective_rank")
                bounds = {r["n_slots"]: r["bound"]["mean"] for r in own if r["level"] == level}
                ax.plot(list(bounds), list(bounds.values()), "k--", linewidth=1.2, label="bound")
                ax.set_yscale("log", base=2)
                ax.set_title(f"{kind}: {_LEVELS[level]}")
            _slot_lines(axes[2], own, "head", "slot_range")
            _single_heads(axes[2], result, kind, "head", "slot_range")
            axes[2].set(title=f"{kind}: range of slot shares", ylim=(-0.02, 1.02))
            for ax in axes:
                ax.set_xscale("log", base=2)
                ax.set_xticks(sorted({r["n_slots"] for r in own}))
                for axis in (ax.xaxis, ax.yaxis) if ax is not axes[2] else (ax.xaxis,):
                    axis.set_major_formatter(lambda x, _: f"{x:g}")
        for ax in grid[-1]:
            ax.set_xlabel("slots")
        _legend_below(figure, grid[0][0])
    return figure


def _slot_lines(ax: Axes, rows: Sequence[Mapping[str, Any]], level: str, metric: str) -> None:
    for i, (method, label) in enumerate(_METHODS.items()):
        own = [r for r in rows if r["method"] == method and r["level"] == level]
        ax.plot(
            [r["n_slots"] for r in own], [r[metric]["mean"] for r in own], color=COLOURS[i],
            marker=MARKERS[i], markersize=5, linewidth=2, label=label, zorder=3,
        )  # fmt: skip


def _single_heads(ax: Axes, result: Result, kind: str, level: str, metric: str) -> None:
    lines: dict[tuple[int, Any], dict[int, list[float]]] = {}
    for r in result.records:
        if r["part"] == "bias" and r["method"] == "prefix" and r["level"] == level:
            if r["parameterization"] == kind:
                line = lines.setdefault((r["seed"], r["head"]), {})
                line.setdefault(r["n_slots"], []).append(r[metric])
    for line in lines.values():
        means = [np.mean(values) for values in line.values()]
        ax.plot(list(line), means, color=COLOURS[0], alpha=0.3, linewidth=0.8)


def angles_figure(result: Result) -> Figure:
    """Return the mean principal angle of every pair of subspaces, in degrees.

    One dot a pair, at random left and right; the black line is the mean. The grey band holds 95%
    of pairs of random subspaces of the same rank, its line their mean: 90 degrees means that
    nothing is shared. Heads are compared behind W_O, where they write.

    Args:
        result: from `subspaces`.

    Raises:
        PrefixInterpError: no such result.
    """
    angles = [r for r in result.records if r["part"] == "angle"]
    if not angles:
        raise _other_result(result, "subspaces")
    panels = {
        "subspaces of heads": [r for r in angles if r["level"] != "layer"],
        "subspaces of the layer": [r for r in angles if r["level"] == "layer"],
    }
    found = {
        name: [k for k in _COMPARISONS if any(_compared(r) == k for r in own)]
        for name, own in panels.items()
    }
    with look():
        figure = Figure(figsize=(10.5, 3.8), layout="constrained")
        axes = figure.subplots(
            1, 2, sharey=True, width_ratios=[max(1, len(kinds)) for kinds in found.values()]
        )
        for ax, (name, own) in zip(axes, panels.items(), strict=True):
            for x, key in enumerate(found[name]):
                _strip(ax, x, key, [r for r in own if _compared(r) == key])
            ax.set_xticks(range(len(found[name])), [_COMPARISONS[k] for k in found[name]])
            ax.set(title=name, ylim=(-2, 92), yticks=range(0, 91, 15))
            ax.grid(visible=False, axis="x")
        axes[0].set_ylabel("mean principal angle (degrees)")
        _legend_below(figure, axes[0])
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
               color=COLOURS[0], linewidth=0, label="a pair" if first else None)  # fmt: skip
    ax.plot(side, [degrees.mean()] * 2, color="black", linewidth=1.8,
            label="mean" if first else None)  # fmt: skip


def removal_figure(result: Result, metric: str = "exact_match", level: str = "head") -> Figure:
    """Return how well prefixes do with a subspace taken out, a panel a task.

    Bars are means over seeds. Their lines are 95% t intervals over seeds; for random subspaces
    they reach from the worst draw of any seed to the best. The dashed lines are the untouched
    runs with the prefix and without.

    Args:
        result: from `subspaces` or `toy_subspaces`.
        metric: ``"exact_match"``, ``"token_accuracy"``, ``"late_token_accuracy"`` or ``"loss"``.
        level: subspaces of ``"head"`` (of every head at once) or of the ``"layer"``.

    Raises:
        PrefixInterpError: an unknown metric or level, or no such result.
    """
    check_choice("metric", metric, _METRICS)
    check_choice("level", level, ("head", "layer"))
    rows = [r for r in subspace_rows(result) if r["part"] == "removal" and r["task"] is not None]
    if not rows:
        raise _other_result(result, "subspaces")
    kinds = sorted({(r["parameterization"], r["n_slots"]) for r in rows}, reverse=True)
    names = sorted({r["task"] for r in rows}, key=list_tasks().index)
    with look():
        size = (2.9 * max(len(names), 2) + 0.6, 2.6 * len(kinds) + 0.8)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(kinds), len(names), squeeze=False, sharey=True, sharex=True)
        for axes, kind in zip(grid, kinds, strict=True):
            for ax, task in zip(axes, names, strict=True):
                own = [r for r in rows if (r["parameterization"], r["n_slots"]) == kind]
                _bars(ax, [r for r in own if r["task"] == task], result, metric, level)
                ax.set_title(f"{task.replace('_', ' ')}, {kind[0]}")
                if metric != "loss":
                    ax.set_ylim(0, 1.04)
        figure.supylabel(_METRICS[metric], fontsize=10)
        _legend_below(figure, grid[0][0], 3)
    return figure


def _bars(
    ax: Axes, rows: Sequence[Mapping[str, Any]], result: Result, metric: str, level: str
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
        ends = [_ends(r, result, metric) for r in own.values()]
        low, high = np.array(ends).T
        ax.bar(
            at, means, 0.19, color=COLOURS[i], label=label, zorder=2, error_kw={"linewidth": 1},
            yerr=[np.maximum(means - low, 0), np.maximum(high - means, 0)],
        )  # fmt: skip
    ax.set_xticks(range(len(groups)), [_REMOVED[name] for name in groups], fontsize=7)
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(visible=False, axis="x")


def _has(rows: Sequence[Mapping[str, Any]], remove: str, space: str) -> bool:
    return any((r["remove"], r["space"]) == (remove, space) for r in rows)


def _ends(row: Mapping[str, Any], result: Result, metric: str) -> tuple[float, float]:
    """Return where the line of a bar begins and ends."""
    if row["space"] != "random":
        return row[metric]["low"], row[metric]["high"]
    keys = ("parameterization", "n_slots", "task", "run", "level", "space", "remove")
    draws = [
        r[metric]
        for r in result.records
        if r["part"] == "removal" and all(r[key] == row[key] for key in keys)
    ]
    return min(d.get("min", d["value"]) for d in draws), max(
        d.get("max", d["value"]) for d in draws
    )


def _other_result(result: Result, name: str) -> PrefixInterpError:
    return PrefixInterpError(
        f"result={result.name!r} has nothing to draw here; give one from {name.replace('-', '_')}"
    )


def _legend_below(figure: Figure, ax: Axes, ncols: int = 4) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
