"""What a section of the page of `inspect` is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prefix_interp.views.page import Picture, Words
from prefix_interp.views.page_tables import Column, whole

ROWS = 20  # of a folded table; all are in the JSON
LAYER_HEAD = (Column("Layer", "layer", whole), Column("Head", "head", whole))


@dataclass(frozen=True)
class Finding:
    """One section.

    Attributes:
        id: unique in the page.
        nav: its name in the contents.
        title: the finding.
        text: two sentences.
        picture: the figure; None if `markup` is it.
        markup: what is shown in place of a picture.
        folded: numbers, controls and method.
        tables: names of its tables in the JSON.
    """

    id: str
    nav: str
    title: str
    text: str | Markup
    picture: Picture | None = None
    markup: Markup | str = ""
    folded: Sequence[Words] = ()
    tables: Sequence[str] = ()
