"""Depth over seeds: scores by number of layers, drift and terms by layer, and the findings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.depth.measure import TASKS
from analyses.report.evidence import Evidence
from analyses.report.sections import missing
from analyses.report.tables import markdown, mean_and_sd
from analyses.study import Rows, Tables
from analyses.summaries import summarise
from prefix_interp.results import Result
from prefix_interp.tasks.words import task_words

Row = Mapping[str, Any]
_SCORES = {"exact_match": 1.0, "token_accuracy": 1.0, "loss": math.inf}
_MODEL = ("n_layers", "attn_only")
_PREFIX = (*_MODEL, "method", "parameterization", "task")


def tables(result: Result) -> Tables:
    """Return the summaries over seeds: ``models``, ``scores``, ``drift`` and ``terms``.

    Args:
        result: of this study.
    """
    return {
        "models": summarise(_flat(result.rows("models")), (*_MODEL, "task"), _SCORES),
        "scores": _of_tasks(summarise(_flat(result.rows("scores")), _PREFIX, _SCORES)),
        "drift": _of_tasks(
            summarise(result.rows("drift"), (*_PREFIX, "layer"), {"distance": 1.0, "flips": 1.0})
        ),
        "terms": _of_tasks(
            summarise(
                result.rows("terms"), (*_PREFIX, "layer", "term"),
                {"rms_in_row": math.inf, "error": math.inf},
            )
        ),
    }  # fmt: skip


def _flat(rows: Rows) -> Rows:
    return [{**row, **{key: row["evaluation"][key] for key in _SCORES}} for row in rows]


def _of_tasks(rows: Rows) -> Rows:
    return [row for row in rows if row["task"] is not None]


def best_by_depth(
    scores: Sequence[Row], task: str, attn_only: bool, method: str = "prefix"
) -> list[Row]:
    """Return the row of the better parameterization at each depth, in order of depth.

    Args:
        scores: the table.
        task: on which.
        attn_only: of models without MLPs.
        method: ``"prefix"`` or the control.
    """
    own = [
        row for row in scores
        if (row["task"], row["attn_only"], row["method"]) == (task, attn_only, method)
    ]  # fmt: skip
    by_depth: dict[int, Row] = {}
    for row in sorted(own, key=lambda row: row["exact_match"]["mean"]):
        by_depth[row["n_layers"]] = row
    return [by_depth[n] for n in sorted(by_depth)]


def findings_block(evidence: Evidence) -> str:
    """Return exact match by depth in Markdown, the better parameterization of each.

    Args:
        evidence: with the result of this study.
    """
    if evidence.result("depth") is None:
        return missing("depth")
    scores = evidence.tables("depth")["scores"]
    depths = sorted({row["n_layers"] for row in scores})
    lines = [["", *(f"{n} layer{'s' * (n > 1)}" for n in depths)]]
    for attn_only in (False, True):
        for task in TASKS:
            by = {r["n_layers"]: r for r in best_by_depth(scores, task, attn_only)}
            if by:
                what = "attention only" if attn_only else "with MLPs"
                cells = [mean_and_sd(by[n]["exact_match"]) if n in by else "–" for n in depths]
                lines.append([f"{task_words(task)}, {what}", *cells])
    return markdown(lines)
