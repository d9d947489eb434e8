"""Figure of the capacity of one token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.capacity.tables import Rows, tables, toy_words
from analyses.panels import panels
from analyses.study import Tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS

_KINDS = {"hard": "hard tokens", "random": "random soft tokens", "searched": "searched soft tokens"}


def capacity_figure(
    summary: Tables, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot distinct continuations by kind of token, and the share of targets that is emitted.

    Left: different continuations, trained toys. Right: random targets that a searched soft
    token emits exactly, by length. Bands: 95% intervals over seeds. Dashed: never trained.

    Args:
        summary: from `tables`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    distinct, lengths = summary["distinct"], summary["length"]
    depths = sorted({r["depth"] for r in lengths})
    with sheet(figsize, width) as room:
        found = panels(room, 2, size=(4.6, 3.3), beside=(0.0, 0.0), each=2.4, sharey=False)
        left, right = found.axes
        _distinct(left, distinct, depths)
        for i, depth in enumerate(depths):
            for trained, style in ((True, "-"), (False, "--")):
                own = [r for r in lengths if (r["depth"], r["trained"]) == (depth, trained)]
                x = [r["length"] for r in own]
                mean, low, high = (
                    np.array([100 * r["share"][key] for r in own])
                    for key in ("mean", "low", "high")
                )
                right.plot(x, mean, style, color=COLOURS[i], marker=MARKERS[i], markersize=4,
                           label=toy_words(depth, trained))  # fmt: skip
                right.fill_between(x, low, high, color=COLOURS[i], alpha=0.12, linewidth=0)
        right.set_xlabel("length of the random target (tokens)")
        right.set_xticks(sorted({r["length"] for r in lengths}))
        right.set_ylabel("targets emitted exactly (%)")
        right.set_ylim(-4, 104)
        right.legend()
    return found.figure


def _distinct(ax: Axes, rows: Rows, depths: Sequence[int]) -> None:
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
        for at, mean in zip(x, means, strict=True):  # upright: bars are narrower than numbers
            ax.text(
                at, mean * 1.1, f"{mean:.3g}", ha="center", va="bottom", fontsize="x-small",
                rotation=90,
            )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(bottom=0.8)
    ax.set_ylim(top=ax.get_ylim()[1] * 80)  # room for the legend
    ax.set_xticks(range(len(depths)), [toy_words(depth, True) for depth in depths])
    ax.set_ylabel("different continuations")
    ax.legend(fontsize="x-small", loc="upper left")


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": capacity_figure(tables(result))}
