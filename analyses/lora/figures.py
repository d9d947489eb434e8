"""The figure of the comparison: how many sequences are right against the number of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.lora.methods import METHODS
from analyses.lora.protocol import BLIND, NONE
from analyses.lora.tables import method_rows
from analyses.panels import panels
from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below

_SIDES = ("contexts", "weights", "edits", "full")
_SHOWN = {"exact_match": "sequences right (%)", "token_accuracy": "outputs right (%)"}


def figures(result: Result) -> Mapping[str, Figure]:
    """Return the figure of a result, by the suffix of its file's stem.

    Args:
        result: of the study.
    """
    return {"": size_figure(method_rows(result.rows()))}


def size_figure(
    rows: Sequence[Mapping[str, Any]], *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot exact match and token accuracy of every method against its number of parameters.

    Colours tell contexts, LoRA, edits and full fine-tuning apart, markers their members. Bars are
    95% intervals for new seeds and test inputs; dashed and dotted lines are the model alone and
    the best rule that sees no content.

    Args:
        rows: from `method_rows`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing was tuned.
    """
    tuned = [row for row in rows if row["side"] != "control"]
    if not tuned:
        raise PrefixInterpError("rows=[] has nothing to draw; give method_rows(result.rows())")
    with sheet(figsize, width) as room:
        found = panels(
            room, len(_SHOWN), size=(3.4, 3.0), beside=(0.0, 1.2), each=2.6, sharey=False
        )
        for ax, metric in zip(found.axes, _SHOWN, strict=True):
            for row in rows:
                if row["method"] in (NONE, BLIND):
                    style = "--" if row["method"] == NONE else ":"
                    ax.axhline(
                        100 * row[metric]["mean"], color="black", linestyle=style, linewidth=1,
                        label=row["method"],
                    )  # fmt: skip
            for name, method in METHODS.items():
                own = [row for row in tuned if row["method"] == name]
                if own:
                    peers = [n for n, m in METHODS.items() if m.side == method.side]
                    style = COLOURS[_SIDES.index(method.side)], MARKERS[peers.index(name)]
                    _line(ax, own, metric, name, *style)
            ax.set(xscale="log", xlabel="tuned parameters", ylabel=_SHOWN[metric])
            ax.set_ylim(-3, 103)
        legend_below(found.figure, found.axes)
    return found.figure


def _line(
    ax: Axes, own: Sequence[Mapping[str, Any]], metric: str, name: str, colour: str, marker: str
) -> None:
    means = [100 * row[metric]["mean"] for row in own]
    ends = [[100 * abs(row[metric][end] - row[metric]["mean"]) for row in own]
            for end in ("low", "high")]  # fmt: skip
    ax.errorbar(
        [row["n_parameters"] for row in own], means, yerr=ends, color=colour, marker=marker,
        markerfacecolor="white" if marker in MARKERS[1::2] else colour, linewidth=1, label=name,
    )  # fmt: skip
