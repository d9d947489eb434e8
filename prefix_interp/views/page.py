"""What the pages of the library and of the report share: their style, template and parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from prefix_interp.views.page_tables import Table
from prefix_interp.views.pictures import compact_uri

_FOLDER = Path(__file__).parent


def page_template(name: str, *folders: Path) -> jinja2.Template:
    """Return a template of a page, which may import macros from ``page_parts.html.j2``.

    Args:
        name: of the file.
        folders: where to look before the folder of this module.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def page_style(*files: str | Path) -> Markup:
    """Return the style of a page: what all pages share, then its own files.

    Args:
        files: names in the folder of this module, or paths.
    """
    paths = [_FOLDER / file for file in ("page.css", *files)]
    return Markup("\n".join(path.read_text(encoding="utf-8") for path in paths))


@dataclass(frozen=True)
class Picture:
    """A static figure.

    Attributes:
        id: unique in the page.
        src: the picture as a data URI.
        alt: what it shows, for readers who cannot see it.
        caption: how to read it, with baseline, level and layer.
    """

    id: str
    src: str
    alt: str
    caption: str | Markup
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Words:
    """A heading, a paragraph and a table, each optional; only inside what is folded."""

    title: str
    text: str | Markup = ""
    table: Table | None = None
    kind: ClassVar[str] = "words"


def picture(
    id: str, figure: Figure, alt: str, caption: str | Markup, *, dense: bool = False
) -> Picture:
    """Return a figure as a picture of the page.

    Args:
        id: unique in the page.
        figure: drawn by matplotlib.
        alt: what it shows.
        caption: how to read it.
        dense: it has thousands of marks, which are smaller as pixels than as drawing.
    """
    return Picture(id, compact_uri(figure, dense), alt, caption)
