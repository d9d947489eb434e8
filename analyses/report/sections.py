"""What a section of the report is made of: one figure, two sentences, and what is folded away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from markupsafe import Markup

from prefix_interp.views.page import Picture as Picture
from prefix_interp.views.page import Words as Words
from prefix_interp.views.page import picture as picture

# The report's parts, in order: the key that a section names, and the heading.
PARTS: Mapping[str, str] = {
    "cannot": "What a prefix cannot do",
    "does": "What it does",
    "lives": "Where it lives",
    "reaches": "How far contexts reach",
    "about": "About this report",
}


@dataclass(frozen=True)
class Grid:
    """Small pictures of equal size, two in a row, under one caption."""

    id: str
    pictures: Sequence[Picture]
    caption: str | Markup
    kind: ClassVar[str] = "grid"


@dataclass(frozen=True)
class Live:
    """A figure that scripts make live; without them, and on paper, its still picture is shown.

    Attributes:
        still: the picture.
        markup: what the scripts fill, hidden until they run.
        script: the scripts, put once at the end of the page.
    """

    still: Picture
    markup: Markup
    script: Markup
    kind: ClassVar[str] = "live"


@dataclass(frozen=True)
class Card:
    """A result on the first screen.

    Attributes:
        number: the number alone, large.
        words: what it counts, in one short sentence.
        chart: a small drawing (`analyses.report.charts`).
        verdict: how the claim fared, in words.
        holds: whether it holds as the paper states it.
    """

    number: str
    words: str
    chart: Markup
    verdict: str
    holds: bool


@dataclass(frozen=True)
class Cell:
    """How one claim fares for one kind of prefix.

    Attributes:
        value: the measurement, as text.
        holds: whether the claim holds; None if there is no threshold to compare with.
    """

    value: str
    holds: bool | None = None


@dataclass(frozen=True)
class Claim:
    """One row of the claims table.

    Attributes:
        statement: the claim in words.
        cells: by kind of prefix (a column of the table), or ``"other"``.
        threshold: what the value was compared with, as text.
        section: id of the section that it links to; empty for that which has it.
    """

    statement: str | Markup
    cells: Mapping[str, Cell]
    threshold: str = ""
    section: str = ""


Shown = Picture | Grid | Live
Folded = Picture | Words


@dataclass(frozen=True)
class Section:
    """One section of the report.

    Attributes:
        id: unique in the page.
        nav: its name in the contents.
        title: the finding, as its heading.
        part: key of `PARTS`.
        text: two sentences; `Markup` if they have formulas.
        figure: what it shows; None only in the part about the report.
        folded: numbers, controls and method, shown when asked for.
        numbers: all its numbers for the JSON, by name.
        card: its result on the first screen.
        top: its picture on the first screen.
        claims: its rows of the claims table.
    """

    id: str
    nav: str
    title: str | Markup
    part: str
    text: str | Markup
    figure: Shown | None = None
    folded: Sequence[Folded] = ()
    numbers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    card: Card | None = None
    top: Picture | None = None
    claims: Sequence[Claim] = ()


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
