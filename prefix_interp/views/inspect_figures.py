"""The figures of the page of `inspect`: one for each finding, for few heads and for hundreds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from torch import Tensor

from prefix_interp.inspection.look import Inspection
from prefix_interp.seeds import derive_generator
from prefix_interp.views.inspect_words import head_name
from prefix_interp.views.style import COLOURS, MARKERS, legend_below, look

MANY = 32  # heads that no longer have a line each
_POINTS = 400  # answers that are drawn
_BLUE, _ORANGE, _GREY, _PURPLE = COLOURS[0], COLOURS[1], "#8a8a92", "#6a51a3"


def many_heads(found: Inspection) -> bool:
    """Return whether there are too many heads to give each a line of its own."""
    return found.about.n_layers * found.about.n_heads > MANY


def answers_picture(found: Inspection) -> Figure:
    """Plot every answer's log-probability without the prefix and with it."""
    off, on = found.measured.log_prob_off.flatten(), found.measured.log_prob_on.flatten()
    keep = ~off.isnan()
    off, on = off[keep], on[keep]
    if len(off) > _POINTS:
        rng = derive_generator(found.about.seed, "points")
        own = torch.randperm(len(off), generator=rng)[:_POINTS]
        off, on = off[own], on[own]
    with look():
        figure = _paper(4.6, 3.8)
        ax = figure.subplots()
        low = float(torch.minimum(off, on).min()) - 0.1
        ax.plot([low, 0], [low, 0], color=_GREY, linewidth=0.8)
        ax.plot(
            off.numpy(), on.numpy(), ".", color=_BLUE, alpha=0.45, markersize=6, markeredgewidth=0
        )
        ax.set(
            xlabel="log-probability without the prefix (nats)",
            ylabel="log-probability with it (nats)",
            title="each answer: above the line the prefix helps",
        )
    return figure


def gate_picture(found: Inspection) -> Figure:
    """Plot the gate of every head (rows) at every position (columns)."""
    gate = found.measured.gate
    n_layers, n_heads, n_pos = gate.shape
    rows = gate.flatten(0, 1).double()
    with look():
        figure = _paper(8.2, min(5.4, 1.3 + max(0.22 * len(rows), 0.5)))
        ax = figure.subplots()
        image = ax.imshow(
            rows.numpy(), cmap="Oranges", vmin=0, vmax=1, aspect="auto", interpolation="none"
        )
        _bare(ax)
        if many_heads(found):
            for layer in range(1, n_layers):
                ax.axhline(layer * n_heads - 0.5, color="white", linewidth=0.4)
            shown = range(0, n_layers, -(-n_layers // 16))
            centres = [layer * n_heads + (n_heads - 1) / 2 for layer in shown]
            ax.set_yticks(centres, [str(layer) for layer in shown])
            ax.set_ylabel(f"layer ({n_heads} heads each)")
        else:
            names = _names(n_layers, n_heads)
            ax.set_yticks(range(len(names)), names)
            ax.set_ylabel("layer.head")
        _numbered(ax.xaxis, n_pos, 24)
        ax.set_xlabel("position of the content")
        figure.colorbar(image, ax=ax, label="gate")
    return figure


def sink_picture(found: Inspection) -> Figure:
    """Plot the attention to the first content token without and with the prefix."""
    off, on = found.measured.sink_off, found.measured.sink_on
    with look():
        if many_heads(found):
            figure = _paper(7.6, 3.6)
            ax = figure.subplots()
            _bands(ax, {"without the prefix": off, "with it": on})
            ax.set_ylabel("attention to the first token")
        else:
            figure = _paper(6.4, 1.4 + max(0.3 * off.numel(), 0.6))
            ax = figure.subplots()
            names = _names(*off.shape)
            at = np.arange(len(names))
            a, b = off.flatten().numpy(), on.flatten().numpy()
            ax.hlines(at, a, b, color=_GREY, linewidth=1.2)
            ax.plot(a, at, MARKERS[0], color=_BLUE, label="without the prefix", markersize=7)
            ax.plot(b, at, MARKERS[1], color=_ORANGE, label="with it", markersize=7)
            ax.set_yticks(at, names)
            ax.set(ylabel="layer.head", xlabel="attention to the first token", xlim=(0, None))
            ax.set_ylim(len(names) - 0.4, -0.6)
        legend_below(figure, ax)
    return figure


def bias_picture(found: Inspection) -> Figure:
    """Plot the bias's mean size, its rank and its effective rank, by layer and head."""
    spaces = found.measured.spaces
    size = found.measured.mean("bias")
    rank = torch.tensor([[float(space.rank) for space in own] for own in spaces])
    effective = torch.tensor([[space.effective_rank for space in own] for own in spaces])
    if not many_heads(found):
        return _bias_bars(size, found.measured.mean("scaled_base"), rank, effective)
    bound = float(spaces[0][0].bound)
    panels = {
        "mean size": (size, None),
        "rank": (rank, bound),
        "effective rank": (effective, bound),
    }
    return _grids(panels, "Purples")


def _bias_bars(
    size: Float[Tensor, "layer head"],
    base: Float[Tensor, "layer head"],
    rank: Float[Tensor, "layer head"],
    effective: Float[Tensor, "layer head"],
) -> Figure:
    """Draw a bar for every head's bias beside what the head still writes itself."""
    names = _names(*size.shape)
    at = np.arange(len(names))
    with look():
        figure = _paper(7.4, 1.5 + max(0.42 * len(names), 0.6))
        ax = figure.subplots()
        ax.barh(at - 0.18, size.flatten().numpy(), height=0.34, color=_PURPLE, label="bias")
        ax.barh(at + 0.18, base.flatten().numpy(), height=0.34, color="#c9c9d0", label="(1 − g) t")
        ranks = zip(at, size.flatten(), rank.flatten(), effective.flatten(), strict=True)
        for y, x, whole, weighed in ranks:
            text = f" rank {int(whole)}, effective {float(weighed):.2f}"
            ax.text(float(x), y - 0.18, text, va="center", fontsize="x-small")
        ax.set_yticks(at, names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set(ylabel="layer.head", xlabel="mean size (Euclidean norm)")
        ax.set_xlim(0, 1.25 * float(torch.maximum(size, base).max()))
        legend_below(figure, ax)
    return figure


def moved_picture(found: Inspection) -> Figure:
    """Plot how far relative attention moves in each layer: every head, and their mean."""
    moved = found.measured.moved
    with look():
        figure = _paper(max(4.0, min(7.6, 2.6 + 0.3 * len(moved))), 2.4 if len(moved) < 3 else 3.2)
        ax = figure.subplots()
        for head in range(moved.shape[1]):
            label = "each head" if head == 0 else None
            ax.plot(moved[:, head].numpy(), ".", color=_BLUE, alpha=0.5, label=label, markersize=6)
        ax.plot(
            moved.mean(dim=1).numpy(), "-D", color=_ORANGE, label="mean of the heads", markersize=5
        )
        _numbered(ax.xaxis, len(moved), 16)
        top = max(1.1 * float(moved.max()), 0.05)
        ax.set(xlabel="layer", ylabel="share of attention moved", ylim=(-0.03 * top, top))
        ax.set_xlim(-0.5, len(moved) - 0.5)
        legend_below(figure, ax)
    return figure


def elicited_picture(found: Inspection) -> Figure:
    """Plot the estimates of all heads, and the exact effects of the leading ones with controls."""
    rows = found.leading.rows()
    estimate = found.measured.estimates["denoise"].mean(dim=-1)
    n_layers, n_heads = estimate.shape
    with look():
        figure = _paper(9.2, max(3.4, min(6.5, 1.6 + 0.18 * n_layers)))
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
        top = max(float(estimate.abs().max()), 1e-12)
        image = left.imshow(
            estimate.double().numpy(), cmap="RdBu", norm=TwoSlopeNorm(0, -top, top), aspect="auto",
            interpolation="none",
        )  # fmt: skip
        _bare(left)
        _layers_and_heads(left, n_layers, n_heads)
        left.set_title("all heads: gradient estimate")
        figure.colorbar(image, ax=left, label="nats per answer")
        _exact(right, rows)
        legend_below(figure, right, ncols=2)
    return figure


def _exact(ax: Axes, rows: Sequence[Mapping[str, float | int | bool | None]]) -> None:
    """Draw the range of random prefixes as bars, and the exact effects over them."""
    at = np.arange(len(rows))

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])  # type: ignore[arg-type]

    low, high = column("control_low"), column("control_high")
    ax.barh(
        at, high - low, left=low, height=0.62, color="#d9d9de", label="range of random prefixes"
    )
    for name, colour, marker, shift, words in (
        ("enough", _BLUE, "o", -0.14, "put into the plain run"),
        ("needed", _ORANGE, "s", 0.14, "taken out of the prefixed run"),
    ):
        middle = column(name)
        spread = np.stack([middle - column(f"{name}_low"), column(f"{name}_high") - middle])
        ax.errorbar(
            middle, at + shift, xerr=np.nan_to_num(spread).clip(min=0), fmt=marker, color=colour,
            label=words, markersize=5,
        )  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    names = [head_name(int(row["layer"] or 0), int(row["head"] or 0)) for row in rows]
    marked = [
        f"{name} *" if row["elicited"] else name for name, row in zip(names, rows, strict=True)
    ]
    ax.set_yticks(at, marked)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set(xlabel="effect on the log-probability (nats per answer)", ylabel="layer.head")
    ax.set_title("leading heads: exact")
    # A few random prefixes do great harm, which would hide everything else.
    ends = [
        column(f"{name}{end}") for name in ("enough", "needed") for end in ("", "_low", "_high")
    ]
    effects = np.nan_to_num(np.concatenate(ends))
    span = 2.5 * max(float(np.abs(effects).max()), 1e-6)
    left = min(effects.min(), 0.0, max(low.min(), -span))
    right = max(effects.max(), 0.0, min(high.max(), span))
    pad = 0.05 * (right - left)
    ax.set_xlim(left - pad, right + pad)


def grid_picture(found: Inspection) -> Figure:
    """Plot gate, bias and estimated effect of every head: the still picture of the explorer."""
    panels = {
        "gate": (found.measured.mean("gate"), 1.0),
        "bias (mean size)": (found.measured.mean("bias"), None),
        "size of the effect (nats)": (found.measured.estimates["denoise"].mean(dim=-1).abs(), None),
    }
    return _grids(panels, "Blues")


def _grids(
    panels: Mapping[str, tuple[Float[Tensor, "layer head"], float | None]], colours: str
) -> Figure:
    n_layers, n_heads = next(iter(panels.values()))[0].shape
    with look():
        figure = _paper(9.2, max(2.0, min(6.5, 1.4 + 0.18 * n_layers)))
        axes = figure.subplots(1, len(panels))
        for ax, (title, (values, top)) in zip(axes, panels.items(), strict=True):
            top = max(float(values.max()), 1e-12) if top is None else top
            image = ax.imshow(
                values.double().numpy(), cmap=colours, vmin=0, vmax=top, aspect="auto",
                interpolation="none",
            )  # fmt: skip
            _bare(ax)
            _layers_and_heads(ax, n_layers, n_heads)
            ax.set_title(title)
            figure.colorbar(image, ax=ax)
        for ax in axes[1:]:
            ax.set_ylabel("")
    return figure


def _bands(ax: Axes, values: Mapping[str, Float[Tensor, "layer head"]]) -> None:
    for i, (name, x) in enumerate(values.items()):
        at = np.arange(len(x))
        ax.fill_between(
            at,
            x.amin(dim=1).numpy(),
            x.amax(dim=1).numpy(),
            color=COLOURS[i],
            alpha=0.15,
            linewidth=0,
        )
        ax.plot(
            at, x.mean(dim=1).numpy(), marker=MARKERS[i], color=COLOURS[i], label=f"{name} (mean)"
        )
    ax.set(xlabel="layer (bands: all heads)", ylim=(0, None))


def _paper(width: float, height: float) -> Figure:
    """Return an empty figure; its own size is the page's, so nothing has to be made to fit."""
    return Figure(figsize=(width, height), layout="constrained")


def _numbered(axis: Axis, n: int, room: int) -> None:
    """Number `n` ticks from 0, and leave out labels if more than `room` would stand there."""
    shown = range(0, n, -(-n // room))
    axis.set_ticks(list(shown), [str(i) for i in shown])


def _names(n_layers: int, n_heads: int) -> list[str]:
    return [head_name(i, j) for i in range(n_layers) for j in range(n_heads)]


def _layers_and_heads(ax: Axes, n_layers: int, n_heads: int) -> None:
    _numbered(ax.xaxis, n_heads, 9)
    _numbered(ax.yaxis, n_layers, 16)
    ax.set(xlabel="head", ylabel="layer")


def _bare(ax: Axes) -> None:
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#999999", linewidth=0.6)
