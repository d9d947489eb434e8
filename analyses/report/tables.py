"""Numbers over seeds as the report prints them, and tables for the README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prefix_interp.views.page_tables import Column as Column
from prefix_interp.views.page_tables import Table as Table
from prefix_interp.views.page_tables import decimals as decimals
from prefix_interp.views.page_tables import percent as percent
from prefix_interp.views.page_tables import power as power
from prefix_interp.views.page_tables import rows_table as rows_table
from prefix_interp.views.page_tables import whole as whole

Spread = Mapping[str, float | None]


def share(spread: Spread) -> str:
    """Return a share over seeds in percent: mean ± sd [95% interval]."""
    if spread["sd"] is None:
        return percent(spread["mean"] or 0.0)
    sd = f"{100 * spread['sd']:.1f}"
    return f"{percent(spread['mean'] or 0.0)} ± {sd}\n[{_ends(spread)}]"


def mean_share(spread: Spread) -> str:
    """Return the mean of a share over seeds in percent with its interval, on one line."""
    return f"{percent(spread['mean'] or 0.0)} ({_ends(spread, ' to ')})"


def _ends(spread: Spread, between: str = ", ") -> str:
    return between.join(percent(spread[end] or 0.0) for end in ("low", "high"))


def mean_and_sd(spread: Spread) -> str:
    """Return a share over seeds in percent: mean ± sd, for the findings."""
    mean, sd = (100 * (spread[key] or 0.0) for key in ("mean", "sd"))
    return f"{mean:.1f} ± {sd:.1f}"


def mean_of(digits: int) -> Callable[[Spread], str]:
    """Return what writes the mean of a spread and its interval with as many decimals.

    Args:
        digits: how many.
    """

    def text(spread: Spread) -> str:
        mean, low, high = (decimals(digits)(spread[k] or 0.0) for k in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"

    return text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table for the README or the findings.

    Args:
        lines: the header, then the rows.
    """
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
