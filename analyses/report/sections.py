"""The parts of a report section: words, pictures, tables, and the numbers for the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from analyses.report.tables import Table, frame_table
from prefix_interp.views.style import data_uri


@dataclass(frozen=True)
class Picture:
    """A static figure with alternative text, caption and numbers.

    Attributes:
        id: unique in the page.
        src: the picture as a data URI.
        alt: description for readers who cannot see it.
        caption: how to read it, with baseline, level and layer.
        table: its numbers.
    """

    id: str
    src: str
    alt: str
    caption: str
    table: Table
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Drawing:
    """An SVG drawing inside the page, with the same texts and table as a `Picture`."""

    id: str
    svg: Markup
    alt: str
    caption: str
    table: Table
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True)
class Words:
    """A heading, a paragraph and a table, each optional.

    Attributes:
        title: the heading; empty for none.
        text: the paragraph; empty for none.
        table: what follows it.
        folded: whether the table is folded away.
        summary: text shown in place of a folded table.
        style: style of the paragraph: ``""`` or ``"note"``.
    """

    title: str
    text: str
    table: Table | None = None
    folded: bool = False
    summary: str = "The numbers"
    style: str = ""
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Interactive:
    """An attention figure with its caption and numbers."""

    div: Markup
    title: str
    caption: str
    table: Table
    kind: ClassVar[str] = "interactive"


@dataclass(frozen=True)
class SideBySide:
    """Attention figures next to each other if the page is wide enough."""

    items: Sequence[Interactive]
    kind: ClassVar[str] = "side by side"


@dataclass(frozen=True)
class Verdict:
    """One measured claim about one subject, ready to print."""

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
class Verdicts:
    """A claim in words, its formula, and the measurement for each subject."""

    statement: str
    formula: Markup
    rows: Sequence[Verdict]
    kind: ClassVar[str] = "verdicts"


Part = Picture | Drawing | Words | Interactive | SideBySide | Verdicts


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes:
        id: unique in the page.
        nav: its name in the row of links.
        title: its heading.
        intro: a paragraph; `Markup` if it has formulas.
        parts: what follows, in order.
        numbers: its numbers for the JSON, by name.
        findings: sentences for the summary.
    """

    id: str
    nav: str
    title: str
    intro: str
    parts: Sequence[Part]
    numbers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    findings: Sequence[str] = ()


def picture(
    id: str, figure: Figure, alt: str, caption: str | Markup, frame: pd.DataFrame
) -> Picture:
    """Return a figure with its DataFrame as its table."""
    return Picture(id, data_uri(figure), alt, caption, frame_table(frame))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a DataFrame as plain JSON values; missing values become None."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in plain.to_dict("records")]


def spread_frame(rows: Iterable[Mapping[str, Any]], metrics: Sequence[str]) -> pd.DataFrame:
    """Return summarised rows with the mean of each metric and its interval over seeds.

    Args:
        rows: plain values, and a spread per metric (see `summarise`); other spreads and missing
            metrics are left out.
        metrics: their keys.
    """
    flat = []
    for row in rows:
        cells = {k: v for k, v in row.items() if not isinstance(v, Mapping)}
        for metric in metrics:
            spread = row.get(metric)
            if spread is None:
                continue
            cells |= {metric: spread["mean"]}
            cells |= {f"{metric} {end}": spread[end] for end in ("low", "high")}
        flat.append(cells)
    return pd.DataFrame(flat)


def missing(name: str, preset: str = "fast") -> str:
    """Return the sentence that replaces a missing result.

    Args:
        name: of the study.
        preset: which protocol.
    """
    return (
        f"The result {name!r} under the preset {preset!r} is not committed; python -m analyses "
        f"{name} --preset {preset} makes it."
    )
