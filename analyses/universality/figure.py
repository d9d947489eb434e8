"""The figure of one fixed head that fits functions on a sphere with ever more slots."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analyses.study import Tables
from analyses.universality.tables import Rows, tables
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.views.sheet import Sheet, sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below

_METHODS = {
    "quadrature": "values of the function itself",
    "least squares": "least squares, same keys",
    "least squares, flat": "least squares, κ / 4",
    "random values": "random values, same keys",
}
_METRICS = {"rmse": "root mean square error", "max_error": "largest error"}
EPSILON = 2.0**-52  # of float64


def universality_figure(
    summary: Tables,
    dim: int = 2,
    metric: str = "rmse",
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot error against the number of slots, one panel per function, and what does not change.

    Lines are means over seeds, bands go from the best seed to the worst. The dashed line is the
    constant predictor. Functions have variance 1; errors are measured on held-out points. The last
    panels show the largest violations of eq. 6 and eq. 7 over all methods and seeds beside the
    precision of float64, and the range of the bias's rank beside the bound min(slots, d_head).

    Args:
        summary: from `tables`.
        dim: m of the sphere S^m.
        metric: ``"rmse"`` or ``"max_error"``.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: no such sphere or metric.
    """
    check_choice("metric", metric, _METRICS)
    dims = sorted({row["dim"] for row in summary["errors"]})
    if dim not in dims:
        raise PrefixInterpError(f"dim={dim!r} was not measured; choose one of {dims}")
    errors = [row for row in summary["errors"] if row["dim"] == dim]
    limits = sorted(
        (row for row in summary["limits"] if row["dim"] == dim), key=lambda row: row["n_slots"]
    )
    names = list(dict.fromkeys(row["function"] for row in errors))
    with sheet(figsize, width) as room:
        figure, axes, bottom = _panels(room, len(names) + 2)
        for ax, name in zip(axes, names, strict=False):
            _errors(ax, [row for row in errors if row["function"] == name], metric)
            ax.set_title(f"{name} on $S^{dim}$")
            ax.set_ylabel(_METRICS[metric])
        _violations(axes[-2], limits)
        _ranks(axes[-1], limits)
        for ax in axes:
            ax.set_xscale("log", base=2)
            ax.set_xticks([row["n_slots"] for row in limits][::2])
            ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        for ax in bottom:
            ax.set_xlabel("slots")
        legend_below(figure, axes[0], 3)
    return figure


def _panels(room: Sheet, n: int) -> tuple[Figure, list[Axes], list[Axes]]:
    """Return two rows of panels, more where they have no room, the last two below each other.

    Also returns those with nothing below.
    """
    across = room.columns(math.ceil(n / 2), each=1.9)
    down = math.ceil(n / across)
    figure = room.figure(3.5 * across, (3.2 if down == 2 else 2.5) * down)
    drawn = figure.subplots(down, across, squeeze=False, sharex=True)
    every = list(drawn.ravel(order="F" if down == 2 else "C"))
    spare = len(every) - n
    for ax in every[n - 2 : n - 2 + spare]:
        ax.set_visible(False)
    return figure, every[: n - 2] + every[-2:], list(drawn[-1])


def _errors(ax: Axes, rows: Rows, metric: str) -> None:
    for i, (method, label) in enumerate(_METHODS.items()):
        own = sorted((r for r in rows if r["method"] == method), key=lambda r: r["n_slots"])
        counts = [r["n_slots"] for r in own]
        mean, low, high = ([r[metric][end] for r in own] for end in ("mean", "min", "max"))
        ax.plot(
            counts, mean, color=COLOURS[i], marker=MARKERS[i], markersize=4, linewidth=1.6,
            label=label, zorder=3,
        )  # fmt: skip
        ax.fill_between(counts, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
    for row in rows:
        if row["method"] == "constant":
            level = row[metric]["mean"]
            ax.axhline(level, color="black", linestyle="--", linewidth=1, label="constant")
    ax.set_yscale("log")


def _violations(ax: Axes, limits: Rows) -> None:
    counts = [row["n_slots"] for row in limits]
    for i, (key, label) in enumerate({"eq6": "eq. 6", "eq7": "eq. 7, relative"}.items()):
        largest = [max(row[key]["max"], EPSILON / 1e3) for row in limits]
        ax.plot(counts, largest, color=COLOURS[4 + i], marker=MARKERS[4 + i], label=label)
    ax.axhline(EPSILON, color="black", linestyle=":", linewidth=1, label="float64's precision")
    ax.set(yscale="log", ylim=(1e-18, 1e-10), title="largest violation, all methods")
    ax.legend(loc="upper left")


def _ranks(ax: Axes, limits: Rows) -> None:
    counts = [row["n_slots"] for row in limits]
    low, high = ([row["rank"][end] for row in limits] for end in ("min", "max"))
    ax.fill_between(counts, low, high, color=COLOURS[2], alpha=0.3, linewidth=0)
    ax.plot(counts, high, color=COLOURS[2], marker=MARKERS[2], label="rank of the bias")
    bound = [row["bound"]["max"] for row in limits]
    ax.plot(counts, bound, "k--", linewidth=1.2, label="min(slots, d_head)")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(ylim=(0, 1.5 * max(bound)), title="rank of the bias, all methods")
    ax.legend(loc="upper left")


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result: one per sphere."""
    summary = tables(result)
    dims = sorted({row["dim"] for row in summary["errors"]})
    return {f"-s{dim}": universality_figure(summary, dim) for dim in dims}
