"""Figures of several prefixes side by side: effects split by head, patches by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, legend_below

PARTS = {"gate": "gate", "bias": "bias", "propagated": "propagated"}
_CONTROL, _INK = "#b9b9c2", "#3c3c44"
_OWN = 13.0  # inches, the widest that a figure of its own size becomes
_GAPLESS = 4.0  # points for a head
_REACH = 1.0  # of the extent of the effects, by which controls may make an axis longer
_TURNED, _UNWRITTEN = 22.0, 8.0  # points for a head, below which a number is turned, or left out
_TOTALS = {True: "total (95% interval)", False: "total, as random prefixes do"}


def elicitation_figure(
    frames: Mapping[str, pd.DataFrame],
    unit: str = "nats per output",
    gate_column: str = "gate",
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot each head's effect as stacked parts, beside the effects of random prefixes.

    One panel per entry of `frames`, one bar per head in the order of the model: gate, bias and
    propagated stacked up and down from 0, a diamond with its interval at their sum, and a grey band
    for the norm-matched controls. The diamond is hollow where the sum lies inside the band: random
    prefixes do as much there. The axis holds the effects, and the bands unless they reach much
    farther: those end at the edge in an arrow, beside the value that they reach. Where heads are
    too many for that, the farthest value of a panel stands there once.

    Args:
        frames: from `Elicitation.to_dataframe`, by name.
        unit: of the metric.
        gate_column: column of the gate's part in the frames.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw.
    """
    if not frames:
        raise PrefixInterpError("frames is empty; give the table of at least one head_elicitation")
    n_heads = max(len(frame) for frame in frames.values())
    with sheet(figsize, width) as room:
        own = min(max(2.45, 0.3 * n_heads), _OWN - 0.9)  # width of a panel
        each = own if room.width is None else max(1.1, 0.12 * n_heads)
        side = room.columns(len(frames), each=each, extra=0.9, own=_OWN)
        rows = -(-len(frames) // side)
        figure = room.figure(max(own * side + 0.9, 6.0), 2.6 * rows + 1.0)
        axes = figure.subplots(rows, side, sharey=True, squeeze=False).flatten()
        pitch = 72 * (figure.get_figwidth() - 0.7) / side / n_heads  # points for each head
        for ax, (name, frame) in zip(axes, frames.items(), strict=False):
            _bars(ax, frame.sort_values(["layer", "head"]), gate_column, pitch)
            ax.set_title(name)
        for i, ax in enumerate(axes):
            if i >= len(frames):
                ax.set_axis_off()
            if i + side >= len(frames):
                ax.set_xlabel("layer.head")
            if i % side == 0:
                ax.set_ylabel(f"effect ({unit})")
        axes[0].set_ylim(_limits(list(frames.values()), gate_column))
        for ax, frame in zip(axes, frames.values(), strict=False):
            _ends_beyond(ax, frame.sort_values(["layer", "head"]), pitch)
        legend_below(figure, list(axes[: len(frames)]))
    return figure


def _columns(gate_column: str) -> list[str]:
    return [gate_column, "bias", "propagated", "effect", "low", "high"]


def _controls(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return each head's smallest and largest effect under random prefixes."""
    ends = (frame["effect"] - frame[name] for name in ("excess_high", "excess_low"))
    low, high = (x.to_numpy(dtype=float) for x in ends)
    return low, high


def _limits(frames: Sequence[pd.DataFrame], gate_column: str) -> tuple[float, float]:
    """Return the ends of the axis: all effects, bands within reach, and room for numbers."""
    shown = np.concatenate([f[_columns(gate_column)].to_numpy(float).ravel() for f in frames])
    low, high = min(0.0, float(shown.min())), max(0.0, float(shown.max()))
    reach = _REACH * (high - low)
    ends = np.concatenate([x for frame in frames for x in _controls(frame)])
    inside = ends[(ends >= low - reach) & (ends <= high + reach)]
    cut_below, cut_above = (ends < low - reach).any(), (ends > high + reach).any()
    low, high = min(low, *inside, 0.0), max(high, *inside, 0.0)
    room = (high - low) or 1.0
    return low - (0.4 if cut_below else 0.1) * room, high + (0.4 if cut_above else 0.1) * room


def _ends_beyond(ax: Axes, frame: pd.DataFrame, pitch: float) -> None:
    """Mark where the band of the controls leaves the panel, and say how far it reaches."""
    bottom, top = ax.get_ylim()
    low, high = _controls(frame)
    for ends, beyond, edge, marker in (
        (low, low < bottom, 0.0, "v"), (high, high > top, 1.0, "^"),
    ):  # fmt: skip
        at = np.flatnonzero(beyond)
        if not len(at):
            continue
        inward = 1 - 2 * edge
        across = ax.get_xaxis_transform()  # heads across, shares of the panel's height up
        size = min(3.5, max(0.3 * pitch, 1.2))
        ax.plot(
            at, np.full(len(at), edge + 0.02 * inward), marker, color=_INK, markersize=size,
            transform=across, linestyle="none", label="goes on to the number",
        )  # fmt: skip
        style: Any = {"va": "bottom" if edge == 0 else "top", "color": _INK, "fontsize": "x-small"}
        height = edge + 0.06 * inward
        if pitch < _UNWRITTEN:
            far = float(ends[at[np.abs(ends[at]).argmax()]])
            ax.text(0.99, height, f"to {_number(far)}", ha="right", transform=ax.transAxes, **style)
            continue
        turn = 90 if pitch < _TURNED else 0
        for i in at.tolist():
            text = _number(float(ends[i]))
            ax.text(i, height, text, ha="center", rotation=turn, transform=across, **style)


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _bars(ax: Axes, frame: pd.DataFrame, gate_column: str, pitch: float) -> None:
    at = np.arange(len(frame))
    low, high = _controls(frame)
    band = {"color": _CONTROL, "alpha": 0.6, "linewidth": 0, "label": "random prefixes (range)"}
    _columns_of(ax, low, high - low, 0.92, pitch, band)
    up, down = np.zeros(len(frame)), np.zeros(len(frame))
    for i, part in enumerate(PARTS):
        values = frame[gate_column if part == "gate" else part].to_numpy()
        if part == "propagated" and not np.any(values):
            continue  # nothing precedes a single layer
        bottom = np.where(values > 0, up, down)
        own = {"color": COLOURS[i], "linewidth": 0, "label": PARTS[part]}
        _columns_of(ax, bottom, values, 0.55, pitch, own)
        up, down = up + values.clip(min=0), down + values.clip(max=0)
    total = frame["effect"].to_numpy()
    error = np.abs(frame[["low", "high"]].to_numpy().T - total)
    beyond = ((frame["excess_low"] > 0) | (frame["excess_high"] < 0)).to_numpy()
    if "beyond_random" in frame:
        beyond = frame["beyond_random"].to_numpy(dtype=bool)
    for wanted, label in _TOTALS.items():
        some = beyond == wanted
        if not some.any():
            continue
        ax.errorbar(
            at[some], total[some], yerr=error[:, some], fmt="D", color="black", label=label,
            markerfacecolor="black" if wanted else "white",
            markersize=min(4.0, max(0.45 * pitch, 2.2 if wanted else 0.8)),
            elinewidth=min(1.2, 0.3 * pitch),
            markeredgewidth=min(0.8, 0.2 * pitch),
        )  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.8)
    heads = zip(frame["layer"], frame["head"], strict=True)
    ax.set_xticks(at, [f"{int(layer)}.{int(head)}" for layer, head in heads])
    ax.grid(visible=False, axis="x")


def _columns_of(
    ax: Axes, bottom: np.ndarray, height: np.ndarray, width: float, pitch: float, style: dict
) -> None:
    """Draw a bar for each head, or one shape for all where the gaps would be too thin to see."""
    if pitch < _GAPLESS:
        edges = np.arange(len(height) + 1) - 0.5
        ax.stairs(bottom + height, edges, baseline=bottom, fill=True, **style)
    else:
        ax.bar(np.arange(len(height)), height, bottom=bottom, width=width, **style)


def patch_figure(
    grids: Mapping[str, PatchGrid],
    metric: str = "log_prob",
    labels: list[str] | None = None,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot patches by head and position as heat maps of the share that they recover.

    Args:
        grids: by name, with axes layer, head, pos.
        metric: one that all grids have.
        labels: one per position; by default its number.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw, or grids with other axes.
    """
    for name, grid in grids.items():
        if grid.axes != ("layer", "head", "pos"):
            raise PrefixInterpError(
                f"grids[{name!r}] has axes {grid.axes}; make it by patch_heads(by_position=True)"
            )
    if not grids:
        raise PrefixInterpError("grids is empty; give at least one result of patch_heads")
    tables = {name: grid.recovered(metric).flatten(0, 1) for name, grid in grids.items()}
    top = max(float(x.abs().max()) for x in tables.values())
    first = next(iter(grids.values()))
    n_layers, n_heads, n_pos = first.values[metric].shape[:3]
    names = [f"{i}.{j}" for i in range(n_layers) for j in range(n_heads)]
    with sheet(figsize, width) as room:
        side = min(2, room.columns(len(grids), each=1.9))
        rows = -(-len(grids) // side)
        high = 0.24 * len(names) if room.width is None else 0.15 * len(names)
        figure = room.figure(4.9 * side + 0.8, (min(max(high, 0.8), 9.0 / rows) + 1.0) * rows)
        axes = figure.subplots(rows, side, squeeze=False).flatten()
        for ax, (name, table) in zip(axes, tables.items(), strict=False):
            ax.imshow(
                table.double().numpy(), cmap="RdBu", vmin=-top, vmax=top, aspect="auto",
                interpolation="none",
            )  # fmt: skip
            ax.grid(False)
            ax.tick_params(length=0, labelsize="x-small")
            ax.set_yticks(range(len(names)), names)
            ax.set_xticks(range(n_pos), labels or [str(i) for i in range(n_pos)])
            ax.set_title(name)
        for ax in axes[len(tables) :]:
            ax.set_axis_off()
        image = axes[0].images[0]  # all have one scale
        figure.colorbar(image, ax=list(axes), label="share of the prefix's effect", shrink=0.9)
    return figure
