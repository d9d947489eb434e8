"""Swapped and mixed prefixes over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analyses.study import Rows, Tables
from analyses.summaries import spread
from prefix_interp.results import Result


def tables(result: Result) -> Tables:
    """Return ``swapped``, ``mixed`` and ``shares`` over seeds.

    Args:
        result: of this study.
    """
    return {
        "swapped": list(_summed(result.rows("swapped"), ("keys_of", "values_of", "task"))),
        "mixed": list(
            _summed(result.rows("mixed"), ("parameterization", "first", "second", "task"))
        ),
        "shares": [
            {"parameterization": kind, "pairs": len(own), "error": max(r["error"] for r in own)}
            for kind in ("kv", "residual")
            for own in [[r for r in result.rows("shares") if r["parameterization"] == kind]]
        ],
    }


def _summed(rows: Rows, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    for group, own in groups.items():
        scores = {metric: spread(own, metric) for metric in ("exact_match", "token_accuracy")}
        yield {**dict(zip(keys, group, strict=True)), "n_seeds": len(own), **scores}
