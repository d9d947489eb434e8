"""The record of one claim: words, formula, number, tolerance, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

EXACT = 1e-10  # float64 rounding is near 1e-16; a wrong formula is off by more than 1e-3
VISIBLE = 1e-6
HOLDS, FAILS, MEASURED = "holds", "does not hold", "measured, no threshold"
Comparison = Literal["at most", "above"]


def _verdict(value: float, comparison: Comparison | None, tolerance: float | None) -> str:
    if comparison is None or tolerance is None:
        return MEASURED
    good = value <= tolerance if comparison == "at most" else value > tolerance
    return HOLDS if good else FAILS


def claim_record(
    about: Mapping[str, Any],
    claim: str,
    statement: str,
    formula: str,
    quantity: str,
    value: float,
    comparison: Comparison | None = None,
    tolerance: float | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Return the record of one claim about one subject (see `measure`)."""
    return {
        "claim": claim,
        "statement": statement,
        "formula": formula,
        "quantity": quantity,
        "value": float(value),
        "comparison": comparison,
        "tolerance": tolerance,
        "verdict": _verdict(float(value), comparison, tolerance),
        **about,
        "low": low,
        "high": high,
        "note": note,
    }
