"""Panels of a figure: side by side where there is room for them, else in rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefix_interp.views.sheet import Sheet

Inches = tuple[float, float]  # width and height


class Panels(NamedTuple):
    """The panels of a figure.

    Attributes:
        figure: which they are in.
        axes: in the order of reading; of a grid, rows by columns.
        left: those that begin a row.
        bottom: those with nothing below.
    """

    figure: Figure
    axes: Any
    left: list[Axes]
    bottom: list[Axes]


def panels(
    room: Sheet, n: int, *, size: Inches, beside: Inches, each: float = 1.2, sharey: bool = True
) -> Panels:
    """Return `n` panels in as few rows as the width allows.

    Args:
        room: for the figure.
        n: how many.
        size: of a panel, in a figure of its own size.
        beside: width and height of what stands beside and below the panels.
        each: smallest width of a panel in inches.
        sharey: whether all have one vertical axis.
    """
    side = room.columns(n, each=each, extra=beside[0])
    rows = -(-n // side)
    figure = room.figure(size[0] * side + beside[0], size[1] * rows + beside[1])
    axes = figure.subplots(rows, side, squeeze=False, sharey=sharey).flatten()
    for ax in axes[n:]:
        ax.set_axis_off()
    used = list(axes[:n])
    return Panels(figure, used, used[::side], used[max(0, n - side) :])


def grid(
    room: Sheet, rows: int, columns: int, *, size: Inches, beside: Inches, each: float = 1.2,
    sharey: bool = True,
) -> Panels:  # fmt: skip
    """Return a grid of panels; where its columns have no room, they stand below each other.

    `axes` is rows by columns in both cases.

    Args:
        room: for the figure.
        rows: how many.
        columns: how many.
        size: of a panel, in a figure of its own size.
        beside: width and height of what stands beside and below the panels.
        each: smallest width of a panel in inches.
        sharey: whether all have one vertical axis; if not, those of a row have.
    """
    turned = columns > rows and room.columns(columns, each=each, extra=beside[0]) < columns
    down, across = (columns, rows) if turned else (rows, columns)
    figure = room.figure(size[0] * across + beside[0], size[1] * down + beside[1])
    drawn = figure.subplots(down, across, squeeze=False, sharex=True, sharey=sharey)
    axes = np.transpose(drawn) if turned else drawn
    return Panels(figure, axes, list(drawn[:, 0]), list(drawn[-1]))
