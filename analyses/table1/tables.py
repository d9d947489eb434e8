"""Table 1 over seeds: rows of numbers, tables of text, and the findings' block."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.tables import Table, markdown, mean_and_sd, mean_of, percent, share
from analyses.summaries import spread
from analyses.table1.measure import NEW, OLD
from prefix_interp.results import Result
from prefix_interp.views.style import variant_label
from prefix_interp.words import counted

METRICS = ("exact_match", "token_accuracy", "loss")
METHODS = (
    "pretrained",
    "fine-tuned",
    "fine-tuned, late",
    "fine-tuned, averaged",
    "prefix",
    "random prefix",
    "norm-matched prefix",
    "other-task prefix",
)

# The paper's numbers in percent: mean and standard deviation over ten seeds.
PAPER = {
    "pretrained": {OLD: (91, 5), NEW: (0, 0)},
    "fine-tuned": {OLD: (0, 0), NEW: (85, 5)},
    "prefix": {OLD: (0, 0), NEW: (0, 0)},
}

Rows = Sequence[Mapping[str, Any]]


def tables(result: Result) -> dict[str, Rows]:
    """Return ``rows`` (see `table1_rows`) and ``sweep`` (see `sweep_rows`)."""
    return {"rows": table1_rows(result), "sweep": sweep_rows(result)}


def table1_rows(result: Result) -> list[dict[str, Any]]:
    """Return the rows of Table 1: each method and variant, summarised over seeds.

    A prefix counts at the learning rate that had the lowest training loss for its seed. Keys:
    ``method``, ``parameterization``, ``n_slots``, ``baseline``, ``lrs`` (chosen rates, with the
    number of seeds), ``n_seeds``, ``paper`` (percent, mean and sd, by task) and, by task,
    ``exact_match``, ``token_accuracy`` and ``loss``, each with ``mean``, ``sd``, ``low``, ``high``,
    ``min`` and ``max``.

    Args:
        result: of this study.
    """
    chosen = [r for r in result.rows() if r["chosen"]]
    rows = []
    for method, parameterization, n_slots in _variants(chosen):
        own = [r for r in chosen if _variant(r) == (method, parameterization, n_slots)]
        # The paper's only prefix is residual with a single slot.
        published = parameterization in (None, "residual") and n_slots in (None, 1)
        row: dict[str, Any] = {
            "method": method,
            "parameterization": parameterization,
            "n_slots": n_slots,
            "baseline": own[0]["baseline"],
            "lrs": _counts(r["lr"] for r in own if r["task"] == NEW),
            "n_seeds": len({r["seed"] for r in own}),
            "paper": PAPER.get(method) if published else None,
        }
        for task in (OLD, NEW):
            of_task = [r for r in own if r["task"] == task]
            row[task] = {metric: spread(of_task, metric) for metric in METRICS}
        rows.append(row)
    return rows


def sweep_rows(result: Result, task: str = NEW) -> list[dict[str, Any]]:
    """Return one row per prefix variant and learning rate, summarised over seeds.

    Keys: ``parameterization``, ``n_slots``, ``lr``, ``n_seeds``, ``chosen`` (seeds for which
    this rate had the lowest training loss), ``train_loss`` (mean), and the metrics as in
    `table1_rows`.

    Args:
        result: of this study.
        task: the test task.
    """
    prefixes = [r for r in result.rows() if r["method"] == "prefix" and r["task"] == task]
    rows = []
    for _, parameterization, n_slots in _variants(prefixes):
        variant = [r for r in prefixes if _variant(r)[1:] == (parameterization, n_slots)]
        for lr in sorted({r["lr"] for r in variant}):
            own = [r for r in variant if r["lr"] == lr]
            rows.append(
                {
                    "parameterization": parameterization,
                    "n_slots": n_slots,
                    "lr": lr,
                    "n_seeds": len(own),
                    "chosen": sum(bool(r["chosen"]) for r in own),
                    "train_loss": statistics.fmean(r["train_loss"] for r in own),
                    **{metric: spread(own, metric) for metric in METRICS},
                }
            )
    return rows


def _variant(record: Mapping[str, Any]) -> tuple[str, str | None, int | None]:
    return record["method"], record["parameterization"], record["n_slots"]


def _variants(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, str | None, int | None]]:
    """Return the existing variants, in the order of the table."""

    def order(variant: tuple[str, str | None, int | None]) -> tuple[int, bool, int]:
        method, parameterization, n_slots = variant
        return METHODS.index(method), parameterization == "kv", n_slots or 0

    return sorted({_variant(r) for r in records}, key=order)


def _counts(lrs: Iterable[float | None]) -> list[dict[str, float | int]]:
    found = [lr for lr in lrs if lr is not None]
    return [{"lr": lr, "seeds": found.count(lr)} for lr in sorted(set(found))]


def main_table(rows: Rows) -> Table:
    """Return Table 1 beside the paper's numbers.

    Args:
        rows: from `table1_rows`.
    """
    header = (
        "Model", "Prefix", "Baseline", "Exact match, sort ascending (%)", "Paper (%)",
        "Exact match, sort descending (%)", "Paper (%)", "Token accuracy, sort descending (%)",
        "Test loss, sort descending (nats)",
    )  # fmt: skip
    lines = []
    for row in rows:
        cells = [row["method"], variant_label(row["parameterization"], row["n_slots"])]
        cells.append(row["baseline"] if row["n_slots"] is None else "with the prefix")
        for task in (OLD, NEW):
            cells.append(share(row[task]["exact_match"]))
            paper = row["paper"]
            cells.append("–" if paper is None else f"{paper[task][0]} ± {paper[task][1]}")
        cells += [share(row[NEW]["token_accuracy"]), mean_of(2)(row[NEW]["loss"])]
        lines.append(tuple(cells))
    return Table(header, tuple(lines))


def more_table(rows: Rows) -> Table:
    """Return what `main_table` leaves out: rates, extremes over seeds, and the old task.

    Args:
        rows: from `table1_rows`.
    """
    header = (
        "Model", "Prefix", "Seeds", "Learning rates chosen (seeds)",
        "Exact match, sort descending: smallest and largest seed (%)",
        "Token accuracy, sort ascending (%)", "Test loss, sort ascending (nats)",
    )  # fmt: skip
    lines = []
    for row in rows:
        rates = ", ".join(f"{c['lr']:g} ({c['seeds']})" for c in row["lrs"])
        exact = row[NEW]["exact_match"]
        lines.append(
            (
                row["method"],
                variant_label(row["parameterization"], row["n_slots"]),
                str(row["n_seeds"]),
                rates or "–",
                f"{percent(exact['min'])} to {percent(exact['max'])}",
                share(row[OLD]["token_accuracy"]),
                mean_of(2)(row[OLD]["loss"]),
            )
        )
    return Table(header, tuple(lines))


def sweep_table(rows: Rows) -> Table:
    """Return the learning-rate sweep, tested on the new task.

    Args:
        rows: from `sweep_rows`.
    """
    header = (
        "Prefix", "Learning rate", "Chosen by (seeds)", "Training loss (nats)",
        "Exact match (%)", "Largest seed (%)", "Token accuracy (%)", "Test loss (nats)",
    )  # fmt: skip
    lines = [
        (
            variant_label(row["parameterization"], row["n_slots"]),
            f"{row['lr']:.3f}",
            f"{row['chosen']} of {row['n_seeds']}",
            f"{row['train_loss']:.3f}",
            share(row["exact_match"]),
            percent(row["exact_match"]["max"]),
            share(row["token_accuracy"]),
            mean_of(2)(row["loss"]),
        )
        for row in rows
    ]
    return Table(header, tuple(lines))


def findings_block(evidence: Evidence) -> str:
    """Return Table 1 in Markdown: the paper's numbers and those of both presets, without controls.

    Args:
        evidence: results; a preset whose result is missing is left out.
    """
    by_variant: dict[tuple[Any, ...], dict[str, Any]] = {}
    head = ["", "the paper: ascending", "descending"]
    presets = [preset for preset in ("fast", "paper") if evidence.result("table1", preset)]
    for preset in presets:
        rows = evidence.tables("table1", preset)["rows"]
        n_seeds = max(row["n_seeds"] for row in rows)
        head += [
            f"`{preset}`, {counted(n_seeds, 'seed')}: ascending",
            "descending",
            "loss, descending",
        ]
        for row in rows:
            if not row["method"].endswith(" prefix"):
                key = (row["method"], row["parameterization"], row["n_slots"])
                by_variant.setdefault(key, {})[preset] = row
    lines = [head]
    for (method, parameterization, n_slots), by_preset in by_variant.items():
        variant = variant_label(parameterization, n_slots)
        name = f"{method}, {variant}" if parameterization else method
        paper = next(iter(by_preset.values()))["paper"]
        cells = [f"{paper[t][0]} ± {paper[t][1]}" if paper else "" for t in (OLD, NEW)]
        for preset in presets:
            row = by_preset.get(preset)
            if row is None:
                cells += [""] * 3
            else:
                mean_loss = f"{row[NEW]['loss']['mean']:.2f}"
                cells += [mean_and_sd(row[t]["exact_match"]) for t in (OLD, NEW)] + [mean_loss]
        lines.append([name, *cells])
    return markdown(lines)
