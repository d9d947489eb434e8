"""Swapped and mixed prefixes in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analyses.names import task_lines
from analyses.panels import panels
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Column, power, rows_table, share
from analyses.swap.measure import RANDOM
from analyses.swap.tables import tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tasks.words import task_words
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import CONTENT_COLOURS
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return which part of a prefix carries its task, and what two prefixes do together.

    Args:
        evidence: results of this study.
    """
    result, summary = evidence.result("swap"), evidence.tables("swap")
    assert result is not None
    rows = whole_rows(summary["swapped"])
    other = [r for r in rows if r["keys_of"] != r["values_of"]]
    by_values, by_keys = (
        np.mean([r["exact_match"]["mean"] for r in other if r["task"] == r[part]])
        for part in ("values_of", "keys_of")
    )
    mixed = [r for r in summary["mixed"] if r["second"] != RANDOM]
    both = np.mean([r["exact_match"]["mean"] for r in mixed])
    error = max(r["error"] for r in summary["shares"])
    more = "values" if by_values >= by_keys else "keys"
    return Section(
        "swap", "Keys and values",
        f"Neither part of a prefix carries its task alone: its values with other keys do it on "
        f"{100 * by_values:.0f} % of sequences, its keys with others' on {100 * by_keys:.0f} %"
        if max(by_values, by_keys) < 0.5
        else f"A prefix's {more} carry its task further: its values with other keys do it on "
        f"{100 * by_values:.0f} % of sequences, its keys with others' on {100 * by_keys:.0f} %",
        "does",
        f"{_exchange(other)} Two prefixes side by side get {100 * both:.0f} % of the sequences of "
        "their two tasks, on average. How they share the attention of the first layer follows from "
        f"the gates of each alone, to {power(error)}. {counted(len(result.seeds), 'seed')}.",
        picture(
            "swapped", swapped_figure(rows),
            "Two heat maps of keys against values: the share of sequences right on the task of the "
            "values, and on that of the keys.",
            "Sequences right (%) on the task that the values (left) and the keys (right) were "
            "tuned for; on the diagonal the prefix is whole.",
        ),
        [
            Words("Swapped", "Also with random directions of the same norms.", rows_table(
                summary["swapped"], [
                    Column("Keys of", "keys_of", _words), Column("Values of", "values_of", _words),
                    Column("Task", "task", _words),
                    Column("Exact match (%)", "exact_match", share),
                    Column("Tokens (%)", "token_accuracy", share)])),
            Words("Side by side", "The second is another task's prefix, or random directions with "
                  "the norms of the first.", rows_table(
                summary["mixed"], [
                    Column("Prefix", "parameterization"), Column("First", "first", _words),
                    Column("Second", "second", _words), Column("Task", "task", _words),
                    Column("Exact match (%)", "exact_match", share)])),
            Words("Shares of attention", "Largest difference from what the gates predict, in the "
                  "first layer, in float64.", rows_table(
                summary["shares"], [
                    Column("Prefix", "parameterization"), Column("Pairs", "pairs"),
                    Column("Largest difference", "error", power)])),
        ],
        {"swap": summary["swapped"], "mix": summary["mixed"], "shares": summary["shares"]},
    )  # fmt: skip


def _exchange(rows: Rows) -> str:
    """Return which pair of tasks exchanges a part best."""
    own = [r for r in rows if r["task"] in (r["values_of"], r["keys_of"])]
    best = max(own, key=lambda r: r["exact_match"]["mean"])
    part = "values" if best["task"] == best["values_of"] else "keys"
    lent = best["keys_of" if part == "values" else "values_of"]
    return (
        f"But tasks differ: the {part} for {task_words(best['task'])} do it on "
        f"{100 * best['exact_match']['mean']:.0f} % with the other part of {task_words(lent)}."
    )


def _words(name: str) -> str:
    return task_words(name) if name in FOUR_SKILLS else name


def swapped_figure(
    rows: Rows, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot how often keys of one prefix and values of another do the task of each.

    Args:
        rows: from `tables`, of ``swapped``, without controls.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    names = [task_lines(task) for task in FOUR_SKILLS]
    with sheet(figsize, width) as room:
        found = panels(room, 2, size=(3.2, 3.0), beside=(0.8, 0.0), each=1.6)
        for ax, part in zip(found.axes, ("values_of", "keys_of"), strict=True):
            own = {(r["keys_of"], r["values_of"]): r for r in rows if r["task"] == r[part]}
            means = np.array([
                [100 * own[keys, values]["exact_match"]["mean"] for values in FOUR_SKILLS]
                for keys in FOUR_SKILLS
            ])  # fmt: skip
            ax.imshow(means, cmap=CONTENT_COLOURS, vmin=0, vmax=100, aspect="auto")
            ax.grid(False)
            ax.tick_params(length=0)
            ax.set_xticks(range(4), names, fontsize="small")
            ax.set_yticks(range(4), names, fontsize="small")
            ax.set_title(f"task of the {part.removesuffix('_of')}")
            for (i, j), value in np.ndenumerate(means):
                colour = "white" if value > 60 else "black"
                ax.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour,
                        fontsize="small")  # fmt: skip
        for ax in found.bottom:
            ax.set_xlabel("values of")
        for ax in found.left:
            ax.set_ylabel("keys of")
    return found.figure


def whole_rows(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the rows of ``swapped`` in which keys and values are of tuned prefixes."""
    return [row for row in rows if RANDOM not in (row["keys_of"], row["values_of"])]


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": swapped_figure(whole_rows(tables(result)["swapped"]))}
