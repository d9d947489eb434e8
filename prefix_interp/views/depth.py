"""Figures of depth: the terms of a layer's scores, and how far attention drifts by layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.theory.depth import AttentionDrift
from prefix_interp.theory.expansion import REST, TERMS, LogitExpansion
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below

_WORDS = {
    "score_off": "without prefix",
    "score": "with prefix",
    "query_only": "query only",
    "key_only": "key only",
    "mlp": "MLP",
}


def expansion_figure(
    expansion: LogitExpansion, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the size of each term of a layer's scores: the mean over heads, and each head.

    Left: as it is. Right: within the rows, which is all that softmax feels. Terms of the rest that
    are 0 in every head are left out.

    Args:
        expansion: from `expand_attention_logits`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    frame = expansion.to_dataframe()
    names = [
        name for name in ("score_off", "score", *TERMS)
        if name not in REST or frame.loc[frame["term"] == name, "rms"].max() > 0
    ]  # fmt: skip
    panels = {"rms": f"scores of layer {expansion.layer}", "rms_in_row": "within rows"}
    with sheet(figsize, width) as room:
        side = room.columns(2, each=2.3)
        high = 0.26 * len(names) + 0.9
        figure = room.figure(7.2, high if side == 2 else 2 * high)
        axes = figure.subplots(2 // side, side, squeeze=False).flatten()
        for ax, (column, title) in zip(axes, panels.items(), strict=True):
            for at, name in enumerate(names):
                heads = frame.loc[frame["term"] == name, column].to_numpy()
                colour = COLOURS[0] if name in TERMS[:4] else COLOURS[1]
                colour = "#8a8a92" if name.startswith("score") else colour
                ax.barh(at, heads.mean(), height=0.6, color=colour)
                ax.plot(heads, [at] * len(heads), ".", color="black", alpha=0.6)
            ax.set_yticks(range(len(names)), [_WORDS.get(name, name) for name in names])
            ax.set_ylim(len(names) - 0.4, -0.6)
            ax.set(title=title, xlabel="root mean square")
            ax.set_xlim(left=0)
            ax.grid(visible=False, axis="y")
        if side == 2:
            axes[1].set_yticklabels([])
    return figure


def drift_figure(
    drifts: Mapping[str, AttentionDrift],
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot how far attention within the content moves by layer: distance, and flips of the argmax.

    A line is the mean over heads, small dots are the heads.

    Args:
        drifts: from `attention_drift`, by name, e.g. of a tuned and of a random prefix.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw, or too many to tell apart.
    """
    if not 1 <= len(drifts) <= len(COLOURS):
        raise PrefixInterpError(f"drifts has {len(drifts)} entries; give 1 to {len(COLOURS)}")
    panels = {
        "distance": ("Jensen-Shannon distance", "0 to 1"),
        "flips": ("rows with another argmax", "share"),
    }
    with sheet(figsize, width) as room:
        side = room.columns(2, each=2.3)
        figure = room.figure(7.6, 3.1 if side == 2 else 5.8)
        axes = figure.subplots(2 // side, side, squeeze=False).flatten()
        for ax, (column, (title, label)) in zip(axes, panels.items(), strict=True):
            for i, (name, drift) in enumerate(drifts.items()):
                frame = drift.to_dataframe()
                # Dots of several prefixes stand side by side.
                aside = 0.08 * (i - (len(drifts) - 1) / 2)
                ax.plot(
                    frame["layer"] + aside, frame[column], ".", color=COLOURS[i], alpha=0.35,
                )  # fmt: skip
                layers = np.unique(frame["layer"])
                means = [frame.loc[frame["layer"] == layer, column].mean() for layer in layers]
                ax.plot(layers, means, color=COLOURS[i], marker=MARKERS[i], label=name)
            ax.set(title=title, xlabel="layer", ylabel=label)
            ax.set_ylim(-0.02, 1.02)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, axes[0])
    return figure
