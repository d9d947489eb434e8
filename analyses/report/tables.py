"""Numbers as the report prints them: tables with rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table as text: its header and rows."""

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
    """Return a share in percent; a share near 0 or 100 % is never rounded to it."""
    if 0 < x < 0.0005 or 0.9995 <= x < 1:
        return f"{100 * x:.3f}"
    return f"{100 * x:.1f}"


def share(spread: Mapping[str, float | None]) -> str:
    """Return a share over seeds in percent: mean ± sd [95% interval]."""
    low, high = percent(spread["low"] or 0.0), percent(spread["high"] or 0.0)
    if spread["sd"] is None:
        return percent(spread["mean"] or 0.0)
    small = 0 < spread["sd"] < 0.0005
    sd = f"{100 * spread['sd']:.1g}" if small else f"{100 * spread['sd']:.1f}"
    return f"{percent(spread['mean'] or 0.0)} ± {sd}\n[{low}, {high}]"


def mean_and_sd(spread: Mapping[str, float | None]) -> str:
    """Return a share over seeds in percent: mean ± sd, for the README."""
    mean, sd = (100 * (spread[key] or 0.0) for key in ("mean", "sd"))
    return f"{mean:.1f} ± {sd:.1f}"


def loss(spread: Mapping[str, float | None]) -> str:
    """Return a loss over seeds: mean ± sd [95% interval]."""
    sd = "" if spread["sd"] is None else (
        f" ± {spread['sd']:.2g}\n[{spread['low']:.3g}, {spread['high']:.3g}]"
    )  # fmt: skip
    return f"{spread['mean']:.3g}{sd}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table for the README.

    Args:
        lines: the header, then the rows.
    """
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
