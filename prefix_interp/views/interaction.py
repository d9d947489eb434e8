"""The figure of interactions: which pairs of inputs are combined."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.theory.interaction import Interaction
from prefix_interp.views.attention import heat
from prefix_interp.views.sheet import sheet

_MOST = 6


def interaction_figure(
    found: Mapping[str, Interaction],
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the strength of every pair of positions, one panel for each measurement.

    Panels share no scale, since logits differ in size; the number above a panel, the strength in
    units of the effect of one swap, compares them. The diagonal has no pairs.

    Args:
        found: from `interaction`, by name, e.g. with a prefix and of fine-tuned weights.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw, or too many panels.
    """
    if not 1 <= len(found) <= _MOST:
        raise PrefixInterpError(f"found has {len(found)} entries; give 1 to {_MOST}")
    with sheet(figsize, width) as room:
        side = room.columns(len(found), each=2.4, own=9.6)
        rows = -(-len(found) // side)
        figure = room.figure(3.1 * side + 0.2, 2.9 * rows)
        axes = figure.subplots(rows, side, squeeze=False).flatten()
        for ax, (name, one) in zip(axes, found.items(), strict=False):
            values = one.strength().cpu()
            shown = values.masked_fill(torch.eye(len(values), dtype=torch.bool), torch.nan)
            image = heat(ax, shown, "Blues", max(float(values.max()), 1e-12))
            labels = [str(p) for p in one.positions]
            ax.set_xticks(range(len(labels)), labels)
            ax.set_yticks(range(len(labels)), labels)
            ax.set(title=f"{name}\n{one.relative:.2f}", xlabel="position", ylabel="position")
            ax.set_box_aspect(1)
            figure.colorbar(image, ax=ax, label="logit")
        for ax in axes[len(found) :]:
            ax.set_axis_off()
    return figure
