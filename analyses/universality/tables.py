"""Errors of one fixed head over seeds, and what no prefix can change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.summaries import summarise
from prefix_interp.results import Result

LIMITS = ("eq6", "eq7", "rank", "bound")
_KEYS = ("dim", "function", "method", "n_slots")

Rows = Sequence[Mapping[str, Any]]


def tables(result: Result) -> dict[str, Rows]:
    """Return the summaries over seeds.

    - ``fits``: one row per sphere, function, method and number of slots, for the report.
    - ``errors``: the same rows with the whole spread of ``rmse`` and ``max_error``.
    - ``limits``: one row per sphere and number of slots: the smallest and largest value of `LIMITS`
      over all methods and seeds.

    Args:
        result: of this study.
    """
    fits = result.rows("fit")
    flat = [
        {**row, "function": name, "rmse": rmse, "max_error": row["max_error"][name]}
        for row in fits
        for name, rmse in row["rmse"].items()
    ]
    errors = summarise(flat, _KEYS, {"rmse": math.inf, "max_error": math.inf})
    own: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in flat:
        own.setdefault(tuple(row[key] for key in _KEYS), []).append(row)
    shown = [_fit_row(row, own[tuple(row[key] for key in _KEYS)]) for row in errors]
    return {"fits": shown, "errors": errors, "limits": _limits(fits)}


def _fit_row(row: Mapping[str, Any], own: Rows) -> dict[str, Any]:
    rmse = row["rmse"]
    shown = {
        "sphere": row["dim"], "function": row["function"], "method": row["method"],
        "slots": row["n_slots"], "rmse": rmse["mean"], "low": rmse["low"], "high": rmse["high"],
        "largest error": _mean(own, "max_error"),
    }  # fmt: skip
    if row["n_slots"]:
        shown |= {"eq. 6": max(r["eq6"] for r in own), "rank": max(r["rank"] for r in own),
                  "bound": own[0]["bound"], "gate": _mean(own, "gate")}  # fmt: skip
    return shown


def _mean(rows: Rows, key: str) -> float:
    return sum(r[key] for r in rows) / len(rows)


def _limits(fits: Rows) -> list[dict[str, Any]]:
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in fits:
        if row["n_slots"]:
            groups.setdefault((row["dim"], row["n_slots"]), []).append(row)
    return [
        {
            "dim": dim,
            "n_slots": n_slots,
            **{
                key: {"min": min(r[key] for r in own), "max": max(r[key] for r in own)}
                for key in LIMITS
            },
        }
        for (dim, n_slots), own in groups.items()
    ]
