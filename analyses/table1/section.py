"""Table 1 in the report: the table for both presets, and the learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from analyses.report.evidence import Evidence
from analyses.report.sections import Part, Picture, Section, Words, missing
from analyses.table1.tables import main_table, more_table, sweep_rows, sweep_table
from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result
from prefix_interp.views.style import (
    COLOURS,
    MARKERS,
    data_uri,
    legend_below,
    look,
    variant_label,
)

_TITLES = {"fast": "Fast protocol", "paper": "The paper's protocol"}


def sections(evidence: Evidence) -> list[Section]:
    """Return Table 1, and the scores of its prefixes at every learning rate.

    Args:
        evidence: results of this study.
    """
    parts: list[Part] = []
    numbers = {}
    for preset, title in _TITLES.items():
        result = evidence.result("table1", preset)
        if result is None:
            parts.append(Words(title, missing("table1", preset)))
            continue
        summary = evidence.tables("table1", preset)
        parts += _tables(title, result, summary["rows"])
        numbers |= {f"{preset} {name}": rows for name, rows in summary.items()}
    table = Section(
        "table1", "Table 1", "Table 1: can a prefix teach a new attention pattern?", "", parts,
        numbers,
    )  # fmt: skip
    result, sweep = evidence.result("table1"), evidence.tables("table1")["sweep"]
    assert result is not None
    rates = Section(
        "rates", "Learning rates", "Learning rates",
        "A prefix that fails at one learning rate may be badly trained. So every variant "
        "was tuned at every rate.",
        [sweep_picture(sweep, len(result.seeds))], {"fast sweep": sweep},
    )  # fmt: skip
    return [table, rates]


def _tables(title: str, result: Result, rows: Sequence[Mapping[str, Any]]) -> list[Part]:
    n_test = result.settings["protocol"]["n_test"]
    how = (
        f"Level: whole model (one layer, one head). Mean ± standard deviation over "
        f"{len(result.seeds)} seeds, with the 95% t interval over seeds in brackets, cut off at 0 "
        f"and 100. Each seed has its own model, tested on {n_test} unseen sequences. A prefix "
        "counts at the learning rate with the lowest training loss. Exact match: all ten outputs "
        "right."
    )
    note = (
        "An interval of width 0 means that all seeds agree, not that the rate is exact: no hit "
        f"among {n_test} sequences still allows a rate of about {384 / n_test:.2f} %. Controls: an "
        "untrained random prefix, random directions with the tuned norms, and a prefix tuned in "
        "the same way for the old task. “–”: the paper prints no number."
    )
    more = "Learning rates, extremes over seeds and the old task's other numbers"
    return [
        Words(title, how, main_table(rows)),
        Words("", note, more_table(rows), folded=True, summary=more, style="note"),
    ]


def sweep_picture(rows: Sequence[Mapping[str, Any]], n_seeds: int) -> Picture:
    """Return the learning-rate sweep of Table 1.

    Args:
        rows: from `sweep_rows`.
        n_seeds: number of seeds that they summarise.
    """
    return Picture(
        "sweep",
        data_uri(sweep_figure(rows)),
        "Exact match, token accuracy and loss on sort descending against the learning rate, one "
        "line per parameterization and number of slots.",
        "Prefix tuning for sort descending at every learning rate of the sweep, whole model, "
        f"{n_seeds} seeds, test split: lines are means, bands go from the smallest to the "
        "largest seed.",
        sweep_table(rows),
    )


def sweep_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot exact match, token accuracy and loss against the learning rate of prefix tuning.

    Lines are means over seeds, bands go from the smallest to the largest seed.

    Args:
        rows: from `sweep_rows`.

    Raises:
        PrefixInterpError: no rows, or more variants than can be told apart.
    """
    variants = list(dict.fromkeys((r["parameterization"], r["n_slots"]) for r in rows))
    if not 1 <= len(variants) <= len(COLOURS):
        raise PrefixInterpError(
            f"rows has {len(variants)} kinds of prefix; give 1 to {len(COLOURS)} to tell them apart"
        )
    metrics = {
        "exact_match": "exact match (share of sequences)",
        "token_accuracy": "token accuracy (share of outputs)",
        "loss": "test loss (nats per output)",
    }
    with look():
        figure = Figure(figsize=(9.6, 3.5), layout="constrained")
        axes = figure.subplots(1, 3)
        for i, (kind, n) in enumerate(variants):
            own = [r for r in rows if (r["parameterization"], r["n_slots"]) == (kind, n)]
            lrs = [r["lr"] for r in own]
            for ax, metric in zip(axes, metrics, strict=True):
                low, high = ([r[metric][end] for r in own] for end in ("min", "max"))
                ax.fill_between(lrs, low, high, color=COLOURS[i], alpha=0.18, linewidth=0)
                ax.plot(
                    lrs, [r[metric]["mean"] for r in own], color=COLOURS[i], marker=MARKERS[i],
                    markersize=5 if i else 7, label=variant_label(kind, n),
                )  # fmt: skip
        for ax, (metric, words) in zip(axes, metrics.items(), strict=True):
            ax.set(xscale="log", xlabel="learning rate", title=words)
            ax.set_ylim(bottom=0)
            if metric != "loss":
                ax.set_ylim(-0.02, 1.02)
        legend_below(figure, axes[0])
    return figure


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": sweep_figure(sweep_rows(result))}
