"""Table 2 as the report shows it: the matrix of prefixes and skills, and the starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.table2_summary import restart_rows, table2_rows
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.style import CONTENT_COLOURS, look
from prefix_interp.views.tables import Table, percent, share

SKILL_WORDS = {
    "sort_ascending": "ascending",
    "sort_descending": "descending",
    "add_one": "+1",
    "add_two": "+2",
}


def kind_label(parameterization: str | None, init_std: float | None) -> str:
    """Return a kind of prefix of Table 2 in words, e.g. ``residual, start std 0.1``."""
    return "" if parameterization is None else f"{parameterization}, start std {init_std:g}"


def table2_table(result: Result) -> Table:
    """Return Table 2, the paper's number below ours in each cell.

    Args:
        result: from `table2`.
    """
    header = ("Model", "Prefix", "Tuned on", *(f"{SKILL_WORDS[t]} (%)" for t in FOUR_SKILLS))
    rows = []
    for row in table2_rows(result):
        cells = [row["method"], kind_label(row["parameterization"], row["init_std"]),
                 SKILL_WORDS.get(row["tuned_on"], "–")]  # fmt: skip
        for task in FOUR_SKILLS:
            paper = row["paper"] and row["paper"][task]
            cells.append(
                share(row[task]["exact_match"])
                + (f"\npaper {paper[0]} ± {paper[1]}" if paper else "")
            )
        rows.append(tuple(cells))
    return Table(header, tuple(rows))


def restarts_table(result: Result) -> Table:
    """Return how many starts found their skill, and how many seeds did with the chosen one.

    Args:
        result: from `table2`.
    """
    header = (
        "Prefix", "Tuned on", "Runs (starts × rates × seeds)", "Runs that found the skill",
        "Seeds whose chosen run did", "Median exact match (%)", "Median training loss (nats)",
    )  # fmt: skip
    rows = [
        (
            kind_label(r["parameterization"], r["init_std"]),
            SKILL_WORDS[r["tuned_on"]],
            str(r["runs"]),
            f"{r['found']} of {r['runs']}",
            f"{r['seeds_found']} of {r['seeds']}",
            percent(r["exact_match"]),
            f"{r['train_loss']:.3g}",
        )
        for r in restart_rows(result)
    ]
    return Table(header, tuple(rows))


def matrix_figure(result: Result) -> Figure:
    """Return Table 2 as heat maps, one a kind of prefix, the paper's mean in brackets.

    Args:
        result: from `table2`.

    Raises:
        PrefixInterpError: the result has no prefixes.
    """
    rows = table2_rows(result)
    (plain,) = [r for r in rows if r["method"] == "pretrained"]
    tuned = [r for r in rows if r["method"] == "prefix"]
    kinds = list(dict.fromkeys((r["parameterization"], r["init_std"]) for r in tuned))
    if not kinds:
        raise PrefixInterpError("result has no prefixes; give one of table2")
    with look():
        figure = Figure(figsize=(3.2 * len(kinds) + 0.8, 3.0), layout="constrained")
        axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for ax, kind in zip(axes, kinds, strict=True):
            own = [r for r in tuned if (r["parameterization"], r["init_std"]) == kind]
            _matrix(ax, [plain, *own])
            ax.set_title(kind_label(*kind))
            ax.set_xlabel("tested on")
        axes[0].set_ylabel("prefix tuned on")
    return figure


def _matrix(ax: Any, rows: Sequence[dict[str, Any]]) -> None:
    means = np.array([[100 * r[t]["exact_match"]["mean"] for t in FOUR_SKILLS] for r in rows])
    ax.imshow(means, cmap=CONTENT_COLOURS, vmin=0, vmax=100, aspect="auto")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.set_xticks(range(len(FOUR_SKILLS)), [SKILL_WORDS[t] for t in FOUR_SKILLS], fontsize=9)
    names = ["no prefix", *(SKILL_WORDS[r["tuned_on"]] for r in rows[1:])]
    ax.set_yticks(range(len(rows)), names, fontsize=9)
    for i, row in enumerate(rows):
        for j, task in enumerate(FOUR_SKILLS):
            text = f"{means[i, j]:.1f}"
            if row["paper"]:
                text += f"\n({row['paper'][task][0]})"
            colour = "white" if means[i, j] > 60 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=7.5, color=colour)
