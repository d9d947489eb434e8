"""Reachability over seeds: scores, outputs, construction, read-out, distances; the findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.sections import missing
from analyses.report.tables import markdown, mean_and_sd
from analyses.study import Rows, Tables
from analyses.summaries import summarise
from prefix_interp.results import Result

Summary = Sequence[Mapping[str, Any]]
SCORES = {"exact_match": 1.0, "token_accuracy": 1.0, "loss": math.inf}
BOUND, BUILT = "any length", "built from the table"


def tables(result: Result) -> Tables:
    """Return the summaries over seeds.

    ``scores`` and ``outputs`` (by method and n_slots), ``search`` (last loss of each start),
    ``starts`` (loss on other sequences), ``construction``, ``read_out``, ``distance``, ``floor``.

    Args:
        result: of this study.
    """
    scores = [{**row, **{key: row["evaluation"][key] for key in SCORES}}
              for row in result.rows("scores")]  # fmt: skip
    outputs = [
        {**row, "output": i + 1, "share": share}
        for row in scores for i, share in enumerate(row["by_output"])
    ]  # fmt: skip
    last = max(row["step"] for row in result.rows("search"))
    search = [row for row in result.rows("search") if row["step"] == last]
    return {
        "scores": summarise(scores, ("method", "n_slots"), SCORES),
        "outputs": summarise(outputs, ("method", "n_slots", "output"), {"share": 1.0}),
        "search": summarise(search, ("run", "step"), {"loss": math.inf}),
        "starts": summarise(result.rows("starts"), ("start",), {"loss": math.inf}),
        "construction": _construction(result.rows("construction")),
        "read_out": summarise(result.rows("read_out"), ("output",), {"r2": 1.0, "r2_min": 1.0}),
        "distance": summarise(result.rows("distance"), ("method", "n_slots"), {"share": 1.0}),
        "floor": summarise(result.rows("floor"), ("method",), {"share": 1.0}),
    }


def _construction(rows: Rows) -> Rows:
    built = [row for row in rows if row["built"]]
    return [
        {
            "seeds": len(rows), "built": len(built),
            "n_slots": max((row["n_slots"] for row in built), default=0),
            "mass_error": max((row["mass_error"] for row in built), default=0.0),
            "value_error": max((row["value_error"] for row in built), default=0.0),
            "alone": min(row["alone"] for row in rows),
        }
    ]  # fmt: skip


def score_of(summary: Summary, method: str, n_slots: int | None = None) -> Mapping[str, Any] | None:
    """Return the row of a method, or None if no seed has it.

    Args:
        summary: the table ``scores``.
        method: its name.
        n_slots: of a tuned prefix.
    """
    found = [r for r in summary if (r["method"], r["n_slots"]) == (method, n_slots)]
    return found[0] if found else None


def label(row: Mapping[str, Any]) -> str:
    """Return the name of a row in words."""
    slots = row["n_slots"]
    if slots is None:
        return row["method"]
    return f"{row['method']}, {slots} slot{'' if slots == 1 else 's'}"


def findings_block(evidence: Evidence) -> str:
    """Return the scores on sort descending in Markdown, one line per method.

    Args:
        evidence: with the result of this study.
    """
    if evidence.result("reachability") is None:
        return missing("reachability")
    lines = [["one layer, sort descending", "sequences (%)", "outputs (%)", "loss (nats)"]]
    lines += [
        [label(row), mean_and_sd(row["exact_match"]), mean_and_sd(row["token_accuracy"]),
         f"{row['loss']['mean']:.3f}"]
        for row in evidence.tables("reachability")["scores"]
    ]  # fmt: skip
    return markdown(lines)
