"""Numbers as a page prints them: tables with rows of text, one number of digits a column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Table:
    """A table as text: its header and rows."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: in words, with the unit.
        key: of the rows.
        text: writes a value, the same way in all rows.
    """

    heading: str
    key: str
    text: Callable[[Any], str] = str


def rows_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> Table:
    """Return rows as a table; a missing value is an empty cell.

    Args:
        rows: plain values or spreads, by key.
        columns: what to show of them.
    """

    def cell(row: Mapping[str, Any], column: Column) -> str:
        value = row.get(column.key)
        return "" if value is None or value != value else column.text(value)

    return Table(
        tuple(column.heading for column in columns),
        tuple(tuple(cell(row, column) for column in columns) for row in rows),
    )


def decimals(digits: int) -> Callable[[float], str]:
    """Return what writes a number with as many decimals.

    Args:
        digits: how many.
    """
    nothing = f"-{0:.{digits}f}"

    def text(x: float | int) -> str:
        written = f"{x:,.{digits}f}"
        return written.removeprefix("-") if written == nothing else written.replace("-", "−")

    return text


def whole(x: float | int) -> str:
    """Return a whole number."""
    return f"{x:,.0f}"


def power(x: float | int, digits: int = 1) -> str:
    """Return a number times its power of ten with raised digits; one near 1 without a power.

    Args:
        x: any number.
        digits: decimals of what stands before the power.
    """
    number, exponent = f"{x:.{digits}e}".split("e")
    if int(exponent) in (-1, 0):
        return decimals(digits + 1)(x)
    raised = f"10{str(int(exponent)).translate(_RAISED)}"
    return raised if number == "1" else f"{number}\u00a0×\u00a0{raised}"


def percent(x: float | int) -> str:
    """Return a share in percent with one decimal; one near 0 or 100 % is not rounded to it."""
    if 0 < x < 0.0005:
        return "< 0.1"
    if 0.9995 <= x < 1:
        return "> 99.9"
    return decimals(1)(100 * x)
