"""The figure of one fixed head that fits functions on a sphere with more and more slots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.experiments.grouping import over_seeds
from prefix_interp.results import Result
from prefix_interp.views.style import COLOURS, MARKERS, look

_METHODS = {
    "quadrature": "values of the function itself",
    "least squares": "least squares, same keys",
    "least squares, flat": "least squares, κ / 4",
    "random values": "random values, same keys",
}
_METRICS = {"rmse": "root mean square error", "max_error": "largest error"}
EPSILON = 2.0**-52  # of float64


def universality_figure(result: Result, dim: int = 2, metric: str = "rmse") -> Figure:
    """Return error against the number of slots, a panel a function, and what stays as it is.

    Lines are means over seeds, bands reach from the best seed to the worst. The dashed line is the
    constant predictor. Functions have variance 1; errors are those of held-out points. The last
    panels show the largest violations of eq. 6 and eq. 7 over all methods and seeds beside the
    precision of float64, and the range of the bias's rank beside the bound min(slots, d_head).

    Args:
        result: from `universality`.
        dim: m of the sphere S^m.
        metric: ``"rmse"`` or ``"max_error"``.

    Raises:
        PrefixInterpError: no such result, sphere or metric.
    """
    check_choice("metric", metric, _METRICS)
    fits = [r for r in result.records if r.get("part") == "fit" and "rmse" in r]
    if not fits:
        raise PrefixInterpError(
            f"result={result.name!r} has nothing to draw here; give one from universality"
        )
    dims = sorted({r["dim"] for r in fits})
    fits = [r for r in fits if r["dim"] == dim]
    if not fits:
        raise PrefixInterpError(f"dim={dim!r} was not measured; choose one of {dims}")
    names = list(fits[0][metric])
    n_columns = math.ceil((len(names) + 2) / 2)
    with look():
        figure = Figure(figsize=(3.5 * n_columns, 6.4), layout="constrained")
        axes = figure.subplots(2, n_columns, squeeze=False, sharex=True).ravel(order="F")
        for ax, name in zip(axes, names, strict=False):
            _errors(ax, fits, metric, name)
            ax.set_title(f"{name} on $S^{dim}$")
            ax.set_ylabel(_METRICS[metric])
        _violations(axes[-2], [r for r in fits if r["n_slots"]])
        _ranks(axes[-1], [r for r in fits if r["n_slots"]])
        for ax in axes[len(names) : -2]:
            ax.set_visible(False)
        counts = sorted({r["n_slots"] for r in fits} - {0})
        for ax in axes:
            ax.set_xscale("log", base=2)
            ax.set_xticks(counts[::2])
            ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        for ax in axes.reshape(-1, 2)[:, 1]:
            ax.set_xlabel("slots")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _errors(ax: Axes, fits: Sequence[Mapping[str, Any]], metric: str, name: str) -> None:
    for i, (method, label) in enumerate(_METHODS.items()):
        counts, spreads = _against_slots(
            [{**r, "error": r[metric][name]} for r in fits if r["method"] == method], "error"
        )
        ax.plot(
            counts, [s["mean"] for s in spreads], color=COLOURS[i], marker=MARKERS[i],
            markersize=4, linewidth=1.6, label=label, zorder=3,
        )  # fmt: skip
        low, high = [s["min"] for s in spreads], [s["max"] for s in spreads]
        ax.fill_between(counts, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
    floor = [{**r, "error": r[metric][name]} for r in fits if r["method"] == "constant"]
    if floor:
        level = over_seeds(floor, "error")["mean"]
        ax.axhline(level, color="black", linestyle="--", linewidth=1, label="constant")
    ax.set_yscale("log")


def _violations(ax: Axes, fits: Sequence[Mapping[str, Any]]) -> None:
    for i, (key, label) in enumerate({"eq6": "eq. 6", "eq7": "eq. 7, relative"}.items()):
        counts, spreads = _against_slots(fits, key)
        largest = [max(s["max"], EPSILON / 1e3) for s in spreads]
        ax.plot(counts, largest, color=COLOURS[4 + i], marker=MARKERS[4 + i], label=label)
    ax.axhline(EPSILON, color="black", linestyle=":", linewidth=1, label="float64's precision")
    ax.set(yscale="log", ylim=(1e-18, 1e-10), title="largest violation, all methods")
    ax.legend(loc="upper left")


def _ranks(ax: Axes, fits: Sequence[Mapping[str, Any]]) -> None:
    counts, spreads = _against_slots(fits, "rank")
    low, high = [s["min"] for s in spreads], [s["max"] for s in spreads]
    ax.fill_between(counts, low, high, color=COLOURS[2], alpha=0.3, linewidth=0)
    ax.plot(counts, high, color=COLOURS[2], marker=MARKERS[2], label="rank of the bias")
    bound = [s["max"] for s in _against_slots(fits, "bound")[1]]
    ax.plot(counts, bound, "k--", linewidth=1.2, label="min(slots, d_head)")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(ylim=(0, 1.5 * max(bound)), title="rank of the bias, all methods")
    ax.legend(loc="upper left")


def _against_slots(
    records: Sequence[Mapping[str, Any]], metric: str
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return numbers of slots, rising, and the spread of a metric over records at each."""
    counts = sorted({r["n_slots"] for r in records})
    spreads = []
    for n in counts:
        own = [r for r in records if r["n_slots"] == n]
        values = [r[metric] for r in own]
        spreads.append({**over_seeds(own, metric), "min": min(values), "max": max(values)})
    return counts, spreads
