"""The figure of a context check: how much of each head's attention a slot takes."""

from __future__ import annotations

from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from prefix_interp.figure_files import Size, Width
from prefix_interp.views.attention import heat
from prefix_interp.views.sheet import sheet


def mass_figure(
    mass: Float[Tensor, "layer head slot"],
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the largest share of attention that a single slot takes in each head.

    Args:
        mass: of each slot, from `check_context`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    with sheet(figsize, width) as room:
        figure = room.figure(4.0, 3.0)
        ax = figure.subplots()
        image = heat(ax, mass.amax(-1).clamp(0, 1), "Oranges")
        ax.set(xlabel="head", ylabel="layer")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(image, ax=ax, label="largest share of attention on one slot")
    return figure
