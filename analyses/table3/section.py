"""Table 3 in the report: a deep model's own skills, two in a row, and a new one, by prefixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analyses.names import task_lines
from analyses.report.charts import Bar, bars
from analyses.report.evidence import Evidence
from analyses.report.sections import Card, Section, Words, picture
from analyses.report.tables import Column, decimals, mean_of, percent, rows_table, share
from analyses.table3.tables import COMBINED, NEW, SEEN, TASKS, own_rows, prefix_scores
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks.words import task_words
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]
_CONTROLS = ("random prefix", "norm-matched prefix")


def section(evidence: Evidence, name: str = "table3") -> Section:
    """Return what prefixes of a deep model do, with every number beside the paper's.

    Args:
        evidence: results of this study.
        name: of the study.
    """
    result, summary = evidence.result(name), evidence.tables(name)
    assert result is not None
    rows, size = summary["rows"], result.settings["protocol"]
    seen = min(_mean(r) for r in prefix_scores(rows, SEEN))
    combined, new = (max(_mean(r) for r in prefix_scores(rows, (t,))) for t in (COMBINED, NEW))
    layers, seeds = size["model"]["n_layers"], counted(len(result.seeds), "seed")
    blind = max(_mean(r) for r in rows if (r["method"], r["task"]) == ("content-blind", NEW))
    how = (
        f"Exact match, mean over {seeds} with 95% intervals; {layers} layers, 4 heads, "
        f"{counted(size['n_slots'], 'slot')}. The crosses are the paper's notebook (4 layers) or "
        "slides (40). A prefix counts at the rate with the lowest training loss."
    )
    return Section(
        name, "Combining skills" if name == "table3" else f"With {layers} layers",
        f"A prefix calls up each of four skills ({percent(seen)} % or more), combines two "
        f"({percent(combined)} %) and learns no new one ({percent(new)} %)",
        "does",
        f"The model has {counted(layers, 'layer')} and was pretrained on four tasks. Ascending, "
        "then +1, was never trained, but its parts were; the double histogram was not, and the "
        f"best rule that does not look at the content gets {percent(blind)} % of it.",
        picture(
            f"{name}-tasks", table3_figure(rows),
            "Exact match for six tasks: prefixes near 100 % on the four skills, lower on the "
            "combination, and near 0 on the histogram.",
            how,
        ),
        [
            Words("Table 3", how, rows_table(rows, [
                Column("Model", "method"), Column("Prefix", "parameterization", _or_dash),
                Column("Task", "task", task_words), Column("Exact match (%)", "exact_match", share),
                Column("Paper (%)", "paper", _or_dash),
                Column("Tokens (%)", "token_accuracy", share),
                Column("Loss (nats)", "loss", mean_of(3))])),
            Words("Every rate", "What was tried: all starts and rates, with the training loss that "
                  "decides.",
                  rows_table(summary["rates"], [
                      Column("Prefix", "parameterization"), Column("Task", "task", task_words),
                      Column("Rate", "lr", decimals(3)), Column("Steps", "steps"),
                      Column("Runs", "runs"), Column("Chosen", "chosen"),
                      Column("Training loss (nats)", "train_loss", decimals(4)),
                      Column("Exact match (%)", "exact_match", share)])),
            Words("On other tasks", "The task on which a prefix does best of those that it was not "
                  "tuned for.",
                  rows_table(summary["others"], [
                      Column("Prefix", "parameterization"),
                      Column("Tuned on", "tuned_on", task_words),
                      Column("Tested on", "task", task_words),
                      Column("Exact match (%)", "exact_match", percent)])),
        ],
        {name: rows, f"{name} rates": summary["rates"], f"{name} others": summary["others"]},
        card=Card(
            f"{percent(combined)} %",
            f"of sequences sorted, then +1: two skills in a row, with {counted(layers, 'layer')}",
            bars(
                [Bar(task_words(t), best, f"{percent(best)} %", "blue" if t != NEW else "orange")
                 for t in TASKS
                 for best in [max(_mean(r) for r in prefix_scores(rows, (t,)))]],
                "Share of sequences right, the better parameterization on its own task.",
            ),
            _verdict(combined, new, blind),
            combined > 0.5 and new <= blind + 0.02,
        ),
    )  # fmt: skip


def _verdict(combined: float, new: float, blind: float) -> str:
    joins = "combines" if combined > 0.5 else "does not combine"
    learns = "learns no new one" if new <= blind + 0.02 else "learns some of a new one"
    return f"{joins} skills, {learns}"


def _mean(row: Mapping[str, Any]) -> float:
    return row["exact_match"]["mean"]


def _or_dash(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float | int) else str(value)


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": table3_figure(own_rows(result))}


def table3_figure(rows: Rows, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
    """Plot the exact match of each model and prefix on each task, the paper's as crosses.

    Args:
        rows: from `own_rows`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    shown = [r for r in rows if r["method"] not in _CONTROLS]
    kinds = list(dict.fromkeys((r["method"], r["parameterization"]) for r in shown))
    places = np.arange(len(TASKS), dtype=float)
    with sheet(figsize, width) as room:
        figure = room.figure(7.0, 3.2)
        ax = figure.subplots()
        for i, (method, kind) in enumerate(kinds):
            own = {r["task"]: r for r in shown if (r["method"], r["parameterization"]) ==
                   (method, kind)}  # fmt: skip
            at = [places[TASKS.index(t)] + 0.16 * (i - (len(kinds) - 1) / 2) for t in own]
            means, low, high = (
                np.array([100 * r["exact_match"][end] for r in own.values()])
                for end in ("mean", "low", "high")
            )
            name = method if kind is None else f"{method}, {kind}"
            errors = np.clip([means - low, high - means], 0, None)
            ax.errorbar(
                at, means, yerr=errors, fmt=MARKERS[i], color=COLOURS[i], markersize=5, label=name
            )
            for x, row in zip(at, own.values(), strict=True):
                if row["paper"] is not None:
                    ax.plot(x, row["paper"], "x", color="black", markersize=7)
        ax.set_xticks(places, [task_lines(t) for t in TASKS], fontsize="small")
        ax.set(ylim=(-3, 103), ylabel="sequences right (%)")
        ax.grid(visible=False, axis="x")
        legend_below(figure, ax)
    return figure
