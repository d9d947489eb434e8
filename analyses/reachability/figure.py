"""Figure of the bound on prefixes of any length, with what is below and above it."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.panels import panels
from analyses.reachability.tables import BOUND, BUILT, Summary, score_of, tables
from analyses.study import Tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below

LINES = (BOUND, BUILT, "attention alone", "MLP alone", "fine-tuning")
_STYLES = ("-", ":", "--", "-.", (0, (1, 3)))


def reachability_figure(
    summary: Tables, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot exact match against the number of slots, and token accuracy at each output.

    Left: tuned kv prefixes, with lines for the best table found, the prefix built from it, and
    trained weights. Right: the same methods, the blind rule and the longest prefix by output.
    Bands: 95% intervals over seeds.

    Args:
        summary: from `tables`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    with sheet(figsize, width) as room:
        found = panels(room, 2, size=(4.4, 3.2), beside=(0.0, 0.9), each=2.4, sharey=False)
        left, right = found.axes
        _by_slots(left, summary["scores"])
        _by_output(right, summary["outputs"])
        legend_below(found.figure, left)
    return found.figure


def _by_slots(ax: Axes, scores: Summary) -> None:
    tuned = [row for row in scores if row["method"] == "kv prefix"]
    x = [row["n_slots"] for row in tuned]
    mean, low, high = (
        [100 * row["exact_match"][key] for row in tuned] for key in ("mean", "low", "high")
    )
    ax.plot(x, mean, color=COLOURS[0], marker=MARKERS[0], label="kv prefix")
    ax.fill_between(x, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    for i, method in enumerate(LINES, 1):
        row = score_of(scores, method)
        if row is not None:
            level = 100 * row["exact_match"]["mean"]
            ax.axhline(level, color=COLOURS[i], linestyle=_STYLES[i - 1], label=method)
    ax.set(xscale="log", ylim=(-3, 103), xlabel="slots", ylabel="sequences sorted descending (%)")
    ax.set_xticks(x, [str(n) for n in x])
    ax.minorticks_off()


def _by_output(ax: Axes, outputs: Summary) -> None:
    shown = {method: i for i, method in enumerate(LINES, 1) if method != BUILT}
    longest = max(row["n_slots"] or 0 for row in outputs)
    for method, i in {"kv prefix": 0, **shown, "content-blind rule": None}.items():
        slots = longest if method == "kv prefix" else None
        own = [r for r in outputs if (r["method"], r["n_slots"]) == (method, slots)]
        if not own:
            continue
        colour = "#8a8a92" if i is None else COLOURS[i]
        style = "-" if i in (0, None) else _STYLES[i - 1]
        ax.plot(
            [r["output"] for r in own], [100 * r["share"]["mean"] for r in own], linestyle=style,
            color=colour, marker="" if i else MARKERS[0], markersize=3,
            label="blind rule" if i is None else method,
        )  # fmt: skip
        if i is None:
            ax.annotate(
                "blind rule", (own[-1]["output"], 100 * own[-1]["share"]["mean"]), xytext=(-4, -10),
                textcoords="offset points", fontsize="x-small", ha="right", color=colour,
            )  # fmt: skip
    ax.set(ylim=(-3, 103), xlabel="output", ylabel="right outputs (%)")


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": reachability_figure(tables(result))}
