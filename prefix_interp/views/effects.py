"""The figure of one sweep of effects: bars if there are few, a heat map if there are many."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from prefix_interp.attribution.effects import Effects
from prefix_interp.errors import PrefixInterpError
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS

MAX_BARS = 16
_UNITS = {
    "log_prob": "nats per output",
    "logit_difference": "logits",
    "kl": "nats per output",
    "exact_match": "share of examples",
}


def unit_of(metric: str) -> str:
    """Return the unit of a metric in words; for a metric of your own, its name."""
    return _UNITS.get(metric, metric)


def effects_figure(
    effects: Effects,
    metric: str | None = None,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the mean effects of a sweep.

    Up to 16 effects are bars with their 95% bootstrap intervals over examples. More are a heat map:
    the last axis runs to the right, all others downwards, and white means no effect.

    Args:
        effects: from `patch_heads`, `patch_sites`, `patch_slots`, `attribution_patch` or
            `integrated_gradients`.
        metric: which; None for the first that was measured.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: an unknown metric, or effects that are not finite.
    """
    metric = effects.metric_names[0] if metric is None else metric
    values = effects.effect(metric).detach().cpu()
    mean = values.mean(dim=-1).double()
    if not bool(mean.isfinite().all()):
        raise PrefixInterpError(f"metric={metric!r} has effects that are NaN or infinite")
    label = f"effect on {metric}\n({unit_of(metric)})"
    with sheet(figsize, width) as room:
        if mean.numel() <= MAX_BARS:
            figure = room.figure(max(3.2, 1.2 + 0.45 * mean.numel()), 3.2)
            _bars(figure.subplots(), effects, values, label)
        else:
            n_rows, n_columns = mean.flatten(0, -2).shape
            figure = room.figure(min(9.6, 2.8 + 0.24 * n_columns), min(9.6, 1.8 + 0.2 * n_rows))
            _heat_map(figure.subplots(), effects, mean, label)
    return figure


def _bars(ax: Axes, effects: Effects, values: Float[Tensor, "*axes batch"], label: str) -> None:
    flat = values.flatten(0, -2)
    at, mean = np.arange(len(flat)), flat.double().mean(dim=-1).numpy()
    error = None
    if flat.shape[-1] > 1:  # one example has no interval
        error = np.abs(np.stack([x.numpy() for x in bootstrap_interval(flat)]) - mean)
    ax.bar(at, mean, width=0.6, color=COLOURS[0])
    ax.errorbar(at, mean, yerr=error, fmt="none", color="black")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(at, _names(effects, values.shape[:-1]))
    ax.set(xlabel=".".join(effects.axes), ylabel=label)
    ax.grid(visible=False, axis="x")


def _heat_map(ax: Axes, effects: Effects, mean: Float[Tensor, "*axes"], label: str) -> None:
    top = max(float(mean.abs().max()), 1e-12)
    image = ax.imshow(
        mean.flatten(0, -2).numpy(), cmap="RdBu", vmin=-top, vmax=top, aspect="auto",
        interpolation="none",
    )  # fmt: skip
    ax.grid(False)
    ax.tick_params(length=0)
    rows = _names(effects, mean.shape[:-1])
    columns = [str(x) for x in effects.names_of(effects.axes[-1], mean.shape[-1])]
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        axis.set_ticks(range(len(names)), names)
    ax.set(ylabel=".".join(effects.axes[:-1]), xlabel=effects.axes[-1].replace("pos", "position"))
    ax.figure.colorbar(image, ax=ax, label=label)


def _names(effects: Effects, shape: tuple[int, ...]) -> list[str]:
    """Return a name for each entry of the leading axes, e.g. ``0.3`` for layer 0, head 3."""
    found = [""]
    for axis, size in zip(effects.axes, shape, strict=False):
        found = [f"{a}.{b}" for a in found for b in effects.names_of(axis, size)]
    return [name.removeprefix(".") for name in found]
