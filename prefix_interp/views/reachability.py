"""Figures of what no prefix reaches: built prefixes, floors, distances."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefix_interp.figure_files import Size, Width
from prefix_interp.theory.reach_construction import TablePrefix
from prefix_interp.theory.reach_distance import ReachDistance
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below


def construction_figure(
    built: TablePrefix, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot how far a built prefix is from its table at each cell, in log mass and mean value.

    Args:
        built: from `prefix_from_table`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    frame = built.to_dataframe()
    columns = {"mass_error": "log mass (nats)", "value_error": "mean value (of the largest)"}
    with sheet(figsize, width) as room:
        figure = room.figure(4.8, 3.0)
        ax = figure.subplots()
        for i, (column, label) in enumerate(columns.items()):
            ax.plot(frame[column], MARKERS[i], color=COLOURS[i], markersize=4, label=label)
        ax.set_yscale("log")
        ax.set(xlabel="slot, in the order of position and token", ylabel="error at its own cell")
        legend_below(figure, ax)
    return figure


def floors_figure(
    cells: pd.DataFrame, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the floor of each cell against its error without a prefix.

    Args:
        cells: of `Floors`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    top = max(*cells["without"].tolist(), 1e-12)
    with sheet(figsize, width) as room:
        figure = room.figure(4.0, 3.4)
        ax = figure.subplots()
        ax.plot([0, top], [0, top], ":", color="#8a8a92", label="nothing gained")
        ax.plot(
            cells["without"], cells["floor"], MARKERS[0], color=COLOURS[0], markersize=4,
            label="one head and query",
        )  # fmt: skip
        ax.set(xlabel="squared error without a prefix", ylabel="floor for every prefix")
        legend_below(figure, ax)
    return figure


def distance_figure(
    found: ReachDistance, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the share of the squared distance to a target that is left, by number of slots.

    Args:
        found: from `reach_distance`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    with sheet(figsize, width) as room:
        figure = room.figure(4.0, 3.0)
        ax = figure.subplots()
        ax.plot(found.n_slots, (100 * found.share).tolist(), color=COLOURS[0], marker=MARKERS[0])
        ax.set(xlabel="slots", ylabel="left of the squared distance (%)", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
