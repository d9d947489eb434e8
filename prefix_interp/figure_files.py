"""Sizes of figures for papers, and the files that hold a figure. Loads no plotting library."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = tuple[float | int, float | int]  # width and height in inches
Width = Literal["column", "page"]
WIDTHS: dict[str, float] = {"column": 3.25, "page": 6.75}  # inches
ENDINGS = (".svg", ".pdf", ".png")
_UNDATED: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {},
}  # fmt: skip


def save_figure(path: str | Path, draw: Callable[[], Figure], svg: Callable[[], str]) -> Path:
    """Write a figure to `path`, as its ending says, atomically; return the path.

    Args:
        path: a name that ends in ``.svg``, ``.pdf`` or ``.png``.
        draw: makes the figure, once the ending is known to be right.
        svg: makes the text of an SVG file.

    Raises:
        PrefixInterpError: another ending, or the file cannot be written.
    """
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise PrefixInterpError(
            f"path={str(path)!r} has {f'the ending {ending!r}' if ending else 'no ending'}; "
            f"savefig writes {', '.join(ENDINGS)}"
        )
    if ending == ".svg":
        return write_file(path, svg())
    buffer = io.BytesIO()
    draw().savefig(buffer, format=ending[1:], metadata=_UNDATED[ending])
    return write_file(path, buffer.getvalue())


def refuse_figure(path: str | Path) -> None:
    """Raise if `path` has the ending of a figure: data would be in it, which no viewer opens.

    Raises:
        PrefixInterpError: it has.
    """
    ending = Path(path).suffix.lower()
    if ending in ENDINGS:
        raise PrefixInterpError(
            f"path={str(path)!r} ends in {ending}, but save writes data to load again; call "
            "savefig for a picture"
        )
