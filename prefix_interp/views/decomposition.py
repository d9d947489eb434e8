"""Figures of a prefix's effect on a head: the parts by position, and the spectrum of the bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.theory.decompose import Decomposition
from prefix_interp.theory.subspace import BiasSubspace
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below

# Rounding leaves values near 1e-17 and exact zeros; both are drawn at the bottom of the axis.
_FLOOR = 1e-18


def parts_figure(
    parts: Mapping[str, Decomposition],
    layer: int = 0,
    head: int = 0,
    n_out: int | None = None,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot gate, |(1 - g) t|, |bias| and residual of a head, by position.

    Gate and norms are means over sequences, the residual is the largest.

    Args:
        parts: decompositions by name, one line each.
        layer: 0-based.
        head: 0-based.
        n_out: the last `n_out` positions, which predict outputs, are shaded; None for none.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: no such layer or head, nothing to draw, or too much to tell apart.
    """
    _check_lines("parts", parts)
    for dec in parts.values():
        check_index("layer", layer, len(dec.gate))
        check_index("head", head, dec.gate.shape[2])
    columns = {
        "gate": "gate g",
        "scaled_base": "|(1 − g) t|",
        "bias": "|bias|",
        "residual": "largest |residual|",
    }
    with sheet(figsize, width) as room:
        side = room.columns(4 // 2, each=2.2)
        figure = room.figure(9.6, 5.4 if side == 2 else 7.6)
        axes = figure.subplots(4 // side, side, sharex=True).flatten()
        n_pos = 0
        for i, (name, dec) in enumerate(parts.items()):
            frame = dec.to_dataframe()
            frame = frame.loc[(frame["layer"] == layer) & (frame["head"] == head)]
            for ax, column in zip(axes, columns, strict=True):
                values = frame[column].to_numpy()
                if column == "residual":
                    values = np.maximum(values, _FLOOR)
                ax.plot(
                    frame["pos"], values, color=COLOURS[i], marker=MARKERS[i], label=name,
                )  # fmt: skip
            n_pos = int(max(frame["pos"])) + 1
        for ax, (column, words) in zip(axes, columns.items(), strict=True):
            ax.set_title(words)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if n_out is not None:
                ax.axvspan(n_pos - n_out - 0.5, n_pos - 0.5, color="#f3f0e6", zorder=0)
            ax.set_xlim(-0.5, n_pos - 0.5)
            if column == "residual":
                ax.set(yscale="log", ylim=(_FLOOR, 1))
                ax.yaxis.set_major_locator(LogLocator(numticks=7))
            elif column == "bias":
                ax.set_yscale("log")  # free values can be a hundred times the pretrained ones
            else:
                ax.set_ylim(0, 1.02 if column == "gate" else None)
        for ax in axes[-side:]:
            ax.set_xlabel("content position")
        legend_below(figure, axes[0])
    return figure


def spectrum_figure(
    spaces: Mapping[str, BiasSubspace],
    plain: Mapping[str, Float[Tensor, " direction"]] | None = None,
    n_shown: int = 24,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the singular values of z_pt - (1 - g) t and the bound that no prefix can exceed.

    Args:
        spaces: subspaces by name, one panel each.
        plain: singular values of z_pt - t under the same names, for contrast; None for none.
        n_shown: number of singular values to show.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw, or too much to tell apart.
    """
    _check_lines("spaces", spaces)
    for name, space in spaces.items():
        if not space.singular_values[0] > 0:
            raise PrefixInterpError(f"spaces[{name!r}] has no bias: nothing to draw")
    with sheet(figsize, width) as room:
        n = len(spaces)
        side = room.columns(n, each=1.3)
        figure = room.figure(max(2.4 * n, 3.6), 2.7 * -(-n // side) + 0.7)
        axes = figure.subplots(-(-n // side), side, sharey=True, squeeze=False).flatten()
        for ax, (name, space) in zip(axes, spaces.items(), strict=False):
            _spectrum(ax, space.singular_values, n_shown, 0, r"$z_{pt} - (1 - g)\,t$ (bias)")
            if plain is not None:
                _spectrum(ax, plain[name], n_shown, 1, r"$z_{pt} - t$")
            ax.axvline(space.bound + 0.5, color="black", linestyle="--", linewidth=1.2)
            ax.annotate(
                f"bound {space.bound}", (space.bound + 0.5, 1e-11), xytext=(4, 0),
                textcoords="offset points", fontsize="small",
            )  # fmt: skip
            ax.set(title=name, xlabel="index", yscale="log", ylim=(_FLOOR, 4))
            ax.yaxis.set_major_locator(LogLocator(numticks=7))
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        for ax in axes[::side]:
            ax.set_ylabel("singular value / first")
        for ax in axes[n:]:
            ax.set_axis_off()
        legend_below(figure, axes[0])
    return figure


def _spectrum(
    ax: Axes, values: Float[Tensor, " direction"], n_shown: int, i: int, label: str
) -> None:
    share = (values / values[0]).double().cpu().numpy()[:n_shown]
    ax.plot(
        range(1, len(share) + 1), np.maximum(share, _FLOOR), color=COLOURS[i], marker=MARKERS[i],
        linestyle="-" if i == 0 else ":", label=label,
    )  # fmt: skip


def _check_lines(argument: str, found: Mapping[str, object]) -> None:
    if not 1 <= len(found) <= len(COLOURS):
        raise PrefixInterpError(
            f"{argument} has {len(found)} entries; give 1 to {len(COLOURS)} to tell them apart"
        )
