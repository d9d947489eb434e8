"""Figures of several prefixes side by side: effects split by head, patches by position."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.style import COLOURS, legend_below, look

PARTS = {"gate": "gate", "bias": "bias", "propagated": "propagated"}
_CONTROL = "#b9b9c2"


def elicitation_figure(
    frames: Mapping[str, pd.DataFrame], unit: str = "nats per output", gate_column: str = "gate"
) -> Figure:
    """Plot each head's effect as stacked parts, beside the effects of random prefixes.

    One panel per entry of `frames`, one bar per head: gate, bias and propagated stacked up and down
    from 0, a diamond with its interval at their sum, and a grey band for the norm-matched controls.
    The axis fits the effects: if random prefixes do more harm, their band is cut off.

    Args:
        frames: from `Elicitation.to_dataframe`, by name.
        unit: of the metric.
        gate_column: column of the gate's part in the frames.

    Raises:
        PrefixInterpError: nothing to draw.
    """
    if not frames:
        raise PrefixInterpError("frames is empty; give the table of at least one head_elicitation")
    with look():
        n_heads = max(len(frame) for frame in frames.values())
        width = max(2.45, 0.3 * n_heads)  # of a panel
        size = (max(width * len(frames) + 0.9, 6.0), 3.6)  # the legend needs six inches
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(frames), sharey=True, squeeze=False)[0]
        for ax, (name, frame) in zip(axes, frames.items(), strict=True):
            _bars(ax, frame.reset_index(drop=True), gate_column)
            ax.set_title(name)
            ax.set_xlabel("layer.head")
        axes[0].set_ylabel(f"effect ({unit})")
        low = min(float(f[_columns(gate_column)].min(axis=None)) for f in frames.values())
        high = max(float(f[_columns(gate_column)].max(axis=None)) for f in frames.values())
        axes[0].set_ylim(low - 0.15 * (high - low), high + 0.15 * (high - low))
        legend_below(figure, axes[0])
    return figure


def _columns(gate_column: str) -> list[str]:
    return [gate_column, "bias", "propagated", "effect", "low", "high"]


def _bars(ax: Axes, frame: pd.DataFrame, gate_column: str) -> None:
    at = np.arange(len(frame))
    # Range of the controls: effect - excess_high is the smallest, effect - excess_low the largest.
    low, high = frame["effect"] - frame["excess_high"], frame["effect"] - frame["excess_low"]
    ax.bar(
        at, high - low, bottom=low, width=0.92, color=_CONTROL, alpha=0.6, linewidth=0,
        label="random prefixes (range)",
    )  # fmt: skip
    up, down = np.zeros(len(frame)), np.zeros(len(frame))
    for i, part in enumerate(PARTS):
        values = frame[gate_column if part == "gate" else part].to_numpy()
        if part == "propagated" and not np.any(values):
            continue  # nothing precedes a single layer
        bottom = np.where(values > 0, up, down)
        ax.bar(at, values, bottom=bottom, width=0.55, color=COLOURS[i], label=PARTS[part])
        up, down = up + values.clip(min=0), down + values.clip(max=0)
    error = np.abs(frame[["low", "high"]].to_numpy().T - frame["effect"].to_numpy())
    ax.errorbar(
        at, frame["effect"], yerr=error, fmt="D", color="black", markersize=4, linewidth=1.2,
        label="total, 95% interval",
    )  # fmt: skip
    ax.axhline(0, color="black", linewidth=0.8)
    heads = zip(frame["layer"], frame["head"], strict=True)
    ax.set_xticks(at, [f"{int(layer)}.{int(head)}" for layer, head in heads])
    ax.grid(visible=False, axis="x")


def patch_figure(
    grids: Mapping[str, PatchGrid], metric: str = "log_prob", labels: list[str] | None = None
) -> Figure:
    """Plot patches by head and position as heat maps of the share that they recover.

    Args:
        grids: by name, with axes layer, head, pos.
        metric: one that all grids have.
        labels: one per position; by default its number.

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
    with look():
        rows, columns = -(-len(grids) // 2), min(2, len(grids))
        size = (4.9 * columns + 0.8, (0.24 * n_layers * n_heads + 1.0) * rows)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, (name, table) in zip(axes, tables.items(), strict=False):
            ax.imshow(
                table.double().numpy(), cmap="RdBu", vmin=-top, vmax=top, aspect="auto",
                interpolation="none",
            )  # fmt: skip
            ax.grid(False)
            ax.tick_params(length=0)
            names = [f"{i}.{j}" for i in range(n_layers) for j in range(n_heads)]
            ax.set_yticks(range(len(names)), names, fontsize=8)
            ax.set_xticks(range(n_pos), labels or [str(i) for i in range(n_pos)], fontsize=7)
            ax.set_title(name)
        for ax in axes[len(tables) :]:
            ax.set_axis_off()
        image = axes[0].images[0]  # all have one scale
        figure.colorbar(image, ax=list(axes), label="share of the prefix's effect", shrink=0.9)
    return figure
