"""Table 2 in the report: the matrix of prefixes and skills, and the starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.names import task_lines
from analyses.panels import panels
from analyses.report.charts import Bar, bars
from analyses.report.evidence import Evidence
from analyses.report.sections import Card, Cell, Claim, Section, Words, picture
from analyses.report.tables import Table, percent, share
from analyses.table2.skills import SKILL_WORDS
from analyses.table2.tables import PAPER, table2_rows
from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import CONTENT_COLOURS
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return Table 2: which prefix does which task.

    Args:
        evidence: results of this study.
    """
    result, summary = evidence.result("table2"), evidence.tables("table2")
    assert result is not None
    rows, n_test = summary["rows"], result.settings["protocol"]["n_test"]
    tuned = [r for r in summary["diagonal"] if r["method"] == "prefix"]
    kept = [r for r in tuned if _paper_kind(r)] or tuned
    (plain,) = [r for r in rows if r["method"] == "pretrained"]
    own, other = min(min(r["own"].values()) for r in kept), max(r["other"] for r in kept)
    most_plain = max(plain[t]["exact_match"]["mean"] for t in FOUR_SKILLS)
    lost = [r for r in summary["restarts"] if r["found"] < r["runs"]]
    how = (
        f"Exact match in percent, mean over {counted(len(result.seeds), 'seed')}, the paper's "
        "mean in "
        f"brackets. Whole model (one layer, four heads), one slot, {n_test:,} unseen inputs. No "
        "prefix: masked baseline."
    )
    alt = (
        "Heat map of exact match, prefixes down and tasks across: high on the diagonal, near 0 "
        "elsewhere, about a quarter without a prefix."
    )
    holds = all(
        r["own"][t] >= _floor(t) and r["other"] <= _CEILING for r in kept for t in FOUR_SKILLS
    )
    return Section(
        "skills", "One vector, one skill",
        f"One vector makes the model do one of its four skills: at least {percent(own)} % right on "
        f"its own task, at most {percent(other)} % on another",
        "does",
        "The model was pretrained on four tasks with no label that says which, so alone it gets "
        f"at most {percent(most_plain)} % of each. "
        + _starts(lost, summary["restarts"]),
        picture("matrix", matrix_figure(rows), alt, how),
        [
            Words(
                "The matrix with intervals and controls",
                "Mean ± standard deviation over seeds; in brackets the 95% interval for new "
                "seeds and new test sequences. A "
                "prefix counts at the start and learning rate with the lowest training loss. "
                "Random prefix: the untrained start; norm-matched: random directions with the "
                "tuned norms. The claim counts as holding if each prefix reaches the paper's mean "
                "less its standard deviation on its own task, and stays below "
                f"{100 * _CEILING:.0f} % on the others.",
                table2_table(rows),
            ),
            Words(
                "Starts decide",
                "Without the norm before attention a slot's norm matters. How many starts found "
                "their skill (half of the test sequences right), by the standard deviation of the "
                "start:",
                restarts_table(summary["restarts"]),
            ),
        ],
        {"table2": rows, "restarts": summary["restarts"]},
        card=Card(
            f"{percent(own)} %",
            f"at least, on the task a prefix was tuned for; at most {percent(other)} % on others",
            bars(
                [Bar(SKILL_WORDS[t], share, f"{percent(share)} %")
                 for t in FOUR_SKILLS
                 for share in [min(r["own"][t] for r in kept)]]
                + [Bar("other tasks", other, f"{percent(other)} %", "orange")],
                "Share of sequences right, each prefix on its own task, and at most on another.",
            ),
            "holds: one vector picks one skill" if holds else "not as in the paper",
            holds,
        ),
        top=picture(
            "matrix-first", matrix_figure([r for r in rows if r is plain or _paper_kind(r)]), alt,
            "Exact match in percent of each prefix (rows) on each task, the paper's in brackets.",
        ),
        claims=[_claim(tuned)],
    )  # fmt: skip


_CEILING = 0.05  # of the exact match on other tasks; the paper's largest mean is 1 %, sd 3


def _floor(task: str) -> float:
    mean, sd = PAPER[task][FOUR_SKILLS.index(task)]
    return (mean - sd) / 100


def _paper_kind(row: Mapping[str, Any]) -> bool:
    """Whether a row is the paper's kind of prefix, at the start that suits it."""
    return row["parameterization"] == "residual" and (row["init_std"] or 1.0) < 1.0


def _starts(lost: Rows, restarts: Rows) -> str:
    """Return a sentence on the starts that missed their skill."""
    if not lost:
        return "Every start found its skill."
    kinds = dict.fromkeys(kind_label(r["parameterization"], r["init_std"]) for r in restarts)
    words = []
    for kind in kinds:
        own = [r for r in restarts if kind_label(r["parameterization"], r["init_std"]) == kind]
        found, runs = (sum(r[key] for r in own) for key in ("found", "runs"))
        words.append(f"{found} of {counted(runs, 'run')} ({kind})")
    return f"The start decides whether tuning finds the skill: {', '.join(words)} did."


def _claim(diagonal: Rows) -> Claim:
    """Return how the claim fares for each kind of prefix at the smaller start."""
    cells = {}
    for row in diagonal:
        if (row["init_std"] or 1.0) < 1.0:
            good = all(row["own"][t] >= _floor(t) for t in FOUR_SKILLS)
            least = min(row["own"].values())
            cells[f"{row['parameterization']}, 1 slot"] = Cell(
                f"{percent(least)} % / {percent(row['other'])} %",
                good and row["other"] <= _CEILING,
            )
    return Claim(
        "A prefix calls up its own skill and no other: least exact match on its own task / "
        "largest on another",
        cells, f"the paper's mean − sd / ≤ {100 * _CEILING:.0f} %",
    )  # fmt: skip


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
            f"{r['train_loss']:.4f}",
        )
        for r in rows
    ]
    return Table(header, tuple(lines))


def matrix_figure(rows: Rows, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
    """Plot Table 2 as heat maps, one per kind of prefix, with the paper's mean in brackets.

    Args:
        rows: from `table2_rows`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: `rows` has no prefixes.
    """
    (plain,) = [r for r in rows if r["method"] == "pretrained"]
    tuned = [r for r in rows if r["method"] == "prefix"]
    kinds = list(dict.fromkeys((r["parameterization"], r["init_std"]) for r in tuned))
    if not kinds:
        raise PrefixInterpError("rows has no prefixes; give those of a whole Table 2")
    with sheet(figsize, width) as room:
        found = panels(room, len(kinds), size=(3.2, 3.0), beside=(0.8, 0.0), each=1.6)
        for ax, kind in zip(found.axes, kinds, strict=True):
            own = [r for r in tuned if (r["parameterization"], r["init_std"]) == kind]
            _matrix(ax, [plain, *own])
            ax.set_title(kind_label(*kind))
        for ax in found.bottom:
            ax.set_xlabel("tested on")
        for ax in found.left:
            ax.set_ylabel("prefix tuned on")
    return found.figure


def _matrix(ax: Axes, rows: Rows) -> None:
    means = np.array([[100 * r[t]["exact_match"]["mean"] for t in FOUR_SKILLS] for r in rows])
    ax.imshow(means, cmap=CONTENT_COLOURS, vmin=0, vmax=100, aspect="auto")
    ax.grid(False)
    ax.tick_params(length=0)
    ax.set_xticks(range(len(FOUR_SKILLS)), [task_lines(t) for t in FOUR_SKILLS], fontsize="small")
    names = ["no prefix", *(SKILL_WORDS[r["tuned_on"]] for r in rows[1:])]
    ax.set_yticks(range(len(rows)), names)
    for i, row in enumerate(rows):
        for j, task in enumerate(FOUR_SKILLS):
            text = f"{means[i, j]:.1f}"
            if row["paper"]:
                text += f"\n({row['paper'][task][0]})"
            colour = "white" if means[i, j] > 60 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize="x-small", color=colour)
