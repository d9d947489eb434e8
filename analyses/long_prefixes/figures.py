"""Figure of the number of directions that prefixes use, against the number of slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.long_prefixes.tables import tables
from analyses.panels import grid
from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below

_METHODS = {
    "prefix": "tuned prefix",
    "random prefix": "its random start",
    "norm-matched prefix": "random, norms of the tuned",
}
_LEVELS = {"head": "effective rank of each head", "layer": "effective rank of the layer"}


def figures(result: Result) -> Mapping[str, Figure]:
    """Return the figure of a result, by the suffix of its file's stem.

    Args:
        result: of the study.
    """
    return {"": slots_figure(tables(result)["bias"], result.rows("bias"))}


def slots_figure(
    summary: Sequence[Mapping[str, Any]],
    biases: Sequence[Mapping[str, Any]],
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot effective rank and the range of slot attention against the number of slots.

    Thick lines are means over seeds, tasks and heads. Thin lines are single heads (or layers) of
    the tuned prefixes, each of one seed, averaged over tasks. The dashed line is the bound. Slot
    shares are shares of the last input position's attention to the slots; their range goes from the
    1st to the 99th percentile over inputs.

    Args:
        summary: summary of the biases, from `tables`.
        biases: the records of the result's table ``bias``.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: no biases.
    """
    rows = [r for r in summary if r["task"] is None]
    if not rows:
        raise PrefixInterpError("summary=[] has nothing to draw; give tables(result)['bias']")
    kinds = list(dict.fromkeys(r["parameterization"] for r in rows))
    with sheet(figsize, width) as room:
        found = grid(room, len(kinds), 3, size=(3.5, 2.7), beside=(0.0, 0.6), sharey=False)
        for axes, kind in zip(found.axes, kinds, strict=True):
            own = [r for r in rows if r["parameterization"] == kind]
            for ax, level in zip(axes, _LEVELS, strict=False):
                _slot_lines(ax, own, level, "effective_rank")
                _single_heads(ax, biases, kind, level, "effective_rank")
                bounds = {r["n_slots"]: r["bound"]["mean"] for r in own if r["level"] == level}
                ax.plot(list(bounds), list(bounds.values()), "k--", linewidth=1.2, label="bound")
                ax.set_yscale("log", base=2)
                ax.set_title(f"{kind}: {_LEVELS[level]}")
            _slot_lines(axes[2], own, "head", "slot_range")
            _single_heads(axes[2], biases, kind, "head", "slot_range")
            axes[2].set(title=f"{kind}: range of slot shares", ylim=(-0.02, 1.02))
            for ax in axes:
                ax.set_xscale("log", base=2)
                ax.set_xticks(sorted({r["n_slots"] for r in own}))
                for axis in (ax.xaxis, ax.yaxis) if ax is not axes[2] else (ax.xaxis,):
                    axis.set_major_formatter(lambda x, _: f"{x:g}")
        for ax in found.bottom:
            ax.set_xlabel("slots")
        legend_below(found.figure, found.axes[0][0], 4)
    return found.figure


def _slot_lines(ax: Axes, rows: Sequence[Mapping[str, Any]], level: str, metric: str) -> None:
    for i, (method, label) in enumerate(_METHODS.items()):
        own = [r for r in rows if r["method"] == method and r["level"] == level]
        ax.plot(
            [r["n_slots"] for r in own], [r[metric]["mean"] for r in own], color=COLOURS[i],
            marker=MARKERS[i], markersize=5, linewidth=2, label=label, zorder=3,
        )  # fmt: skip


def _single_heads(
    ax: Axes, biases: Sequence[Mapping[str, Any]], kind: str, level: str, metric: str
) -> None:
    lines: dict[tuple[int, Any], dict[int, list[float]]] = {}
    for r in biases:
        if (r["method"], r["level"], r["parameterization"]) == ("prefix", level, kind):
            line = lines.setdefault((r["seed"], r["head"]), {})
            line.setdefault(r["n_slots"], []).append(r[metric])
    for line in lines.values():
        means = [np.mean(values) for values in line.values()]
        ax.plot(list(line), means, color=COLOURS[0], alpha=0.3, linewidth=0.8)
