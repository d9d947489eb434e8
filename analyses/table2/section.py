"""Table 2 in the report: the matrix of prefixes and skills, and the starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Table, percent, share
from analyses.table2.skills import SKILL_WORDS
from analyses.table2.tables import table2_rows
from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.style import CONTENT_COLOURS, look

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return Table 2: which prefix does which task.

    Args:
        evidence: results of this study.
    """
    result, summary = evidence.result("table2"), evidence.tables("table2")
    assert result is not None
    rows, n_seeds = summary["rows"], len(result.seeds)
    frame = pd.DataFrame(
        [
            {
                "model": r["method"], "prefix": kind_label(r["parameterization"], r["init_std"]),
                "tuned on": r["tuned_on"], "tested on": task,
                **{k: r[task]["exact_match"][k] for k in ("mean", "sd", "low", "high")},
                "loss": r[task]["loss"]["mean"],
            }
            for r in rows for task in FOUR_SKILLS
        ]
    )  # fmt: skip
    matrix = picture(
        "matrix",
        matrix_figure(rows),
        "Heat maps of exact match, prefixes down and tasks across: high on the diagonal, near 0 "
        "elsewhere, about a quarter without a prefix.",
        f"Exact match in percent, mean over {n_seeds} seeds, the paper's mean in brackets. Whole "
        "model (one layer, four heads), one slot; each number is measured on "
        f"{result.settings['protocol']['n_test']:,} unseen inputs. No prefix: masked baseline.",
        frame,
    )
    parts = [
        matrix,
        Words(
            "The matrix with intervals and controls",
            "Mean ± standard deviation over seeds with the 95% t interval. A prefix counts at the "
            "start and learning rate with the lowest training loss. Random prefix: the untrained "
            "start; norm-matched: random directions with the tuned norms.",
            table2_table(rows), folded=True,
        ),
        Words(
            "Starts decide",
            "Without the norm before attention a slot's norm matters. How many starts found their "
            "skill (half of the test sequences right), by the standard deviation of the start:",
            restarts_table(summary["restarts"]),
        ),
    ]  # fmt: skip
    return Section(
        "skills", "Table 2", "Table 2: a prefix picks one of the model's skills",
        "One model is pretrained on four tasks without a label for the task. One vector "
        "in front of the input makes it do one of the tasks.",
        parts, {"table2": rows, "restarts": summary["restarts"]},
        _findings(summary["diagonal"], n_seeds),
    )  # fmt: skip


def _findings(diagonal: Rows, n_seeds: int) -> list[str]:
    found = []
    for row in diagonal:
        if row["method"] != "prefix":
            continue
        own = " / ".join(percent(row["own"][t]) for t in FOUR_SKILLS)
        found.append(
            f"Table 2, {kind_label(row['parameterization'], row['init_std'])}, {n_seeds} seeds: "
            f"{own} % on the prefix's own task (the paper, residual: 95 / 90 / 95 / 98), at most "
            f"{percent(row['other'])} % on another."
        )
    return found


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": matrix_figure(table2_rows(result))}


def kind_label(parameterization: str | None, init_std: float | None) -> str:
    """Return a kind of prefix of Table 2 in words, e.g. ``residual, start std 0.1``."""
    return "" if parameterization is None else f"{parameterization}, start std {init_std:g}"


def table2_table(rows: Rows) -> Table:
    """Return Table 2, with the paper's number below ours in each cell.

    Args:
        rows: from `table2_rows`.
    """
    header = ("Model", "Prefix", "Tuned on", *(f"{SKILL_WORDS[t]} (%)" for t in FOUR_SKILLS))
    lines = []
    for row in rows:
        cells = [row["method"], kind_label(row["parameterization"], row["init_std"]),
                 SKILL_WORDS.get(row["tuned_on"], "–")]  # fmt: skip
        for task in FOUR_SKILLS:
            paper = row["paper"] and row["paper"][task]
            cells.append(
                share(row[task]["exact_match"])
                + (f"\npaper {paper[0]} ± {paper[1]}" if paper else "")
            )
        lines.append(tuple(cells))
    return Table(header, tuple(lines))


def restarts_table(rows: Rows) -> Table:
    """Return how many starts found their skill, and in how many seeds the chosen one did.

    Args:
        rows: from `restart_rows`.
    """
    header = (
        "Prefix", "Tuned on", "Runs (starts × rates × seeds)", "Runs that found the skill",
        "Seeds whose chosen run did", "Median exact match (%)", "Median training loss (nats)",
    )  # fmt: skip
    lines = [
        (
            kind_label(r["parameterization"], r["init_std"]),
            SKILL_WORDS[r["tuned_on"]],
            str(r["runs"]),
            f"{r['found']} of {r['runs']}",
            f"{r['seeds_found']} of {r['seeds']}",
            percent(r["exact_match"]),
            f"{r['train_loss']:.3g}",
        )
        for r in rows
    ]
    return Table(header, tuple(lines))


def matrix_figure(rows: Rows) -> Figure:
    """Plot Table 2 as heat maps, one per kind of prefix, with the paper's mean in brackets.

    Args:
        rows: from `table2_rows`.

    Raises:
        PrefixInterpError: `rows` has no prefixes.
    """
    (plain,) = [r for r in rows if r["method"] == "pretrained"]
    tuned = [r for r in rows if r["method"] == "prefix"]
    kinds = list(dict.fromkeys((r["parameterization"], r["init_std"]) for r in tuned))
    if not kinds:
        raise PrefixInterpError("rows has no prefixes; give those of a whole Table 2")
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


def _matrix(ax: Axes, rows: Rows) -> None:
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
