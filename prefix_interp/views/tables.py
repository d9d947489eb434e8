"""Numbers as the report prints them: rows of text, one table each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from prefix_interp.experiments.summary import sweep_rows, table1_rows
from prefix_interp.experiments.table1 import NEW, OLD
from prefix_interp.results import Result
from prefix_interp.views.style import variant_label

# The formulas of the claims as HTML; the JSON has them as plain text.
FORMULAS = {
    "eq6": "A<sup>pt</sup><sub>ij</sub> = (1 − g<sub>i</sub>) A<sub>ij</sub>",
    "relative-attention": "A<sup>pt</sup><sub>ij</sub> / (1 − g<sub>i</sub>) = A<sub>ij</sub>",
    "eq7": "z<sub>pt</sub> = (1 − g) t + Σ<sub>p</sub> A<sub>p</sub> v<sub>p</sub>",
    "bias-rank": "rank(z<sub>pt</sub> − (1 − g) t) ≤ n<sub>s</sub>",
    "plain-difference": "rank(z<sub>pt</sub> − t) &gt; n<sub>s</sub>",
    "gate-mean": "g = Σ<sub>p</sub> A<sub>p</sub>",
    "gate-max": "g = Σ<sub>p</sub> A<sub>p</sub>",
    "injections": "slots = mixture (= cache)",
    "suffix-is-prefix": "suffix = prefix, behind the slots",
    "fine-tuning-attention": "A<sup>ft</sup> ≠ A",
    "no-content": "output = f(index, token before)",
    "no-prefix-learns": "exact match = 0",
    "no-prefix-learns-any-lr": "exact match = 0",
}
_LAYER_RANK = "rank(z<sub>pt</sub> − (1 − g) t) ≤ n<sub>s</sub> · heads"
VERDICT_CLASS = {"holds": "holds", "does not hold": "fails"}


@dataclass(frozen=True)
class Table:
    """A table as text: what stands above the columns, and the rows."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def frame_table(frame: pd.DataFrame, digits: int = 3) -> Table:
    """Return a DataFrame as text, numbers to `digits` significant digits."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return "" if pd.isna(value) else f"{value:.{digits}g}"
        return str(value)

    header = tuple(str(c) for c in frame.columns)
    rows = frame.astype(object).itertuples(index=False, name=None)
    return Table(header, tuple(tuple(cell(v) for v in row) for row in rows))


def percent(x: float) -> str:
    """Return a share in percent; a share near 0 or 100 % is not rounded to it."""
    if 0 < x < 0.0005 or 0.9995 <= x < 1:
        return f"{100 * x:.3f}"
    return f"{100 * x:.1f}"


def table1_table(result: Result) -> Table:
    """Return Table 1 beside the paper's numbers.

    Args:
        result: from `table1`.
    """
    header = (
        "Model", "Prefix", "Baseline", "Exact match, ascending (%)", "Paper (%)",
        "Exact match, descending (%)", "Paper (%)", "Token accuracy, descending (%)",
        "Test loss, descending (nats)",
    )  # fmt: skip
    rows = []
    for row in table1_rows(result):
        cells = [row["method"], variant_label(row["parameterization"], row["n_slots"])]
        cells.append(row["baseline"] if row["n_slots"] is None else "with the prefix")
        for task in (OLD, NEW):
            cells.append(share(row[task]["exact_match"]))
            paper = row["paper"]
            cells.append("–" if paper is None else f"{paper[task][0]} ± {paper[task][1]}")
        cells += [share(row[NEW]["token_accuracy"]), loss(row[NEW]["loss"])]
        rows.append(tuple(cells))
    return Table(header, tuple(rows))


def table1_more(result: Result) -> Table:
    """Return what `table1_table` leaves out: rates, extremes over seeds, and the old task."""
    header = (
        "Model", "Prefix", "Seeds", "Learning rates chosen (seeds)",
        "Exact match, descending: smallest and largest seed (%)",
        "Token accuracy, ascending (%)", "Test loss, ascending (nats)",
    )  # fmt: skip
    rows = []
    for row in table1_rows(result):
        rates = ", ".join(f"{c['lr']:g} ({c['seeds']})" for c in row["lrs"])
        exact = row[NEW]["exact_match"]
        rows.append(
            (
                row["method"],
                variant_label(row["parameterization"], row["n_slots"]),
                str(row["n_seeds"]),
                rates or "–",
                f"{percent(exact['min'])} to {percent(exact['max'])}",
                share(row[OLD]["token_accuracy"]),
                loss(row[OLD]["loss"]),
            )
        )
    return Table(header, tuple(rows))


def sweep_table(result: Result) -> Table:
    """Return the learning-rate sweep, tested on the new task."""
    header = (
        "Prefix", "Learning rate", "Chosen by (seeds)", "Training loss (nats)",
        "Exact match (%)", "Largest seed (%)", "Token accuracy (%)", "Test loss (nats)",
    )  # fmt: skip
    rows = [
        (
            variant_label(row["parameterization"], row["n_slots"]),
            f"{row['lr']:g}",
            f"{row['chosen']} of {row['n_seeds']}",
            f"{row['train_loss']:.3g}",
            share(row["exact_match"]),
            percent(row["exact_match"]["max"]),
            share(row["token_accuracy"]),
            loss(row["loss"]),
        )
        for row in sweep_rows(result)
    ]
    return Table(header, tuple(rows))


def share(spread: Mapping[str, float | None]) -> str:
    """Return a share over seeds in percent: mean ± sd [95% interval]."""
    low, high = percent(spread["low"] or 0.0), percent(spread["high"] or 0.0)
    if spread["sd"] is None:
        return percent(spread["mean"] or 0.0)
    small = 0 < spread["sd"] < 0.0005
    sd = f"{100 * spread['sd']:.1g}" if small else f"{100 * spread['sd']:.1f}"
    return f"{percent(spread['mean'] or 0.0)} ± {sd}\n[{low}, {high}]"


def loss(spread: Mapping[str, float | None]) -> str:
    """Return a loss over seeds: mean ± sd [95% interval]."""
    sd = "" if spread["sd"] is None else (
        f" ± {spread['sd']:.2g}\n[{spread['low']:.3g}, {spread['high']:.3g}]"
    )  # fmt: skip
    return f"{spread['mean']:.3g}{sd}"


@dataclass(frozen=True)
class ClaimRow:
    """One claim about one subject, ready to print."""

    subject: str
    level: str
    baseline: str
    quantity: str
    value: str
    tolerance: str
    verdict: str
    css: str
    note: str


@dataclass(frozen=True)
class ClaimGroup:
    """A claim in words with its formula, and what was measured for each subject."""

    claim: str
    statement: str
    formula: Markup
    rows: tuple[ClaimRow, ...]


def claim_groups(claims: Result) -> list[ClaimGroup]:
    """Return the claims in the order they were measured, one group a statement.

    Args:
        claims: from `measure_claims`.
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for record in claims.records:
        grouped.setdefault(record["statement"], []).append(record)
    groups = []
    for statement, records in grouped.items():
        claim = records[0]["claim"]
        text = _LAYER_RANK if "layer" in records[0]["level"] else FORMULAS[claim]
        rows = tuple(_claim_row(r) for r in records)
        groups.append(ClaimGroup(claim, statement, Markup(text), rows))
    return groups


def _claim_row(record: Mapping[str, Any]) -> ClaimRow:
    is_share = record["claim"].startswith("no-")
    value = f"{percent(record['value'])} %" if is_share else _number(record["value"])
    if record["low"] is not None:
        value += f" [{percent(record['low'])}, {percent(record['high'])}]"
    sign = {"at most": "≤", "above": ">", None: ""}[record["comparison"]]
    line = "–" if record["tolerance"] is None else f"{sign} {record['tolerance']:g}"
    subject = record["subject"]
    if record["n_slots"] is not None and not is_share:
        subject = variant_label(record["parameterization"], record["n_slots"])
    where = "whole model"
    if record["layer"] is not None:
        level = "all heads" if record["level"] == "layer" else record["level"]
        where = f"{level}, layer {record['layer']}"
    return ClaimRow(
        subject, where, record["baseline"], record["quantity"], value, line, record["verdict"],
        VERDICT_CLASS.get(record["verdict"], "measured"), record["note"],
    )  # fmt: skip


def _number(x: float) -> str:
    # A gate next to 1 is not 1: what is left of the content would be lost.
    return f"1 − {1 - x:.1e}" if 0.9995 <= x < 1 else f"{x:.3g}"


def json_rows(result: Result | None) -> dict[str, Sequence[Mapping[str, Any]]] | None:
    """Return Table 1 and its sweep as plain values for the report's JSON; None if not shipped."""
    if result is None:
        return None
    return {"rows": table1_rows(result), "sweep": sweep_rows(result)}
