"""Common base of results: each can become a table, a picture, a line of text or a folder."""

from __future__ import annotations

import dataclasses
import html
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_keys
from prefix_interp.figure_files import Size, Width, refuse_figure, save_figure
from prefix_interp.records import Schema, one_line
from prefix_interp.result_values import Reader, check_fields, encoded, field_names, nested_classes
from prefix_interp.results import package_versions
from prefix_interp.storage import ANY_NUMBER, load_folder, save_folder
from prefix_interp.tables import to_csv, to_latex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEM = "result"
ROWS_SHOWN = 5  # of the table in a notebook
_RECORD = {"class": str, "versions": dict[str, str], "fields": dict[str, Any]}
SCHEMAS = {number: Schema(number, _RECORD) for number in (1, 2)}  # 1 has no checksum
_Result = TypeVar("_Result", bound="ResultObject")


def drawing(name: str) -> Callable[..., Any]:
    """Return a function of `prefix_interp.views`, which is loaded now.

    It is named here, not imported: views know the results that they draw, results no views.

    Args:
        name: of module and function, e.g. ``"fits.history_figure"``.
    """
    module, _, function = name.partition(".")
    return getattr(import_module(f"prefix_interp.views.{module}"), function)


class ResultObject(ABC):
    """A result with its own table, picture and files.

    Results are frozen dataclasses with ``repr=False``: they print as one line, and a notebook
    shows their caption, their picture and the first rows of their table.
    """

    @abstractmethod
    def to_dataframe(self) -> pd.DataFrame:
        """Return the numbers as a table."""

    @abstractmethod
    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return a matplotlib figure of the result, in the fonts of the caller's rcParams.

        Args:
            figsize: width and height in inches; None for a size of its own.
            width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

        Raises:
            PrefixInterpError: there is nothing to draw, or a size that is not possible.
        """

    @abstractmethod
    def caption(self) -> str:
        """Return one line: what was measured, on how much, and the main numbers."""

    def savefig(
        self, path: str | Path, *, figsize: Size | None = None, width: Width | None = None
    ) -> Path:
        """Write the picture of the result to a file, atomically; return the path.

        Args:
            path: a name that ends in ``.svg``, ``.pdf`` or ``.png``.
            figsize: as for `plot`.
            width: as for `plot`.

        Raises:
            PrefixInterpError: another ending, nothing to draw, or the file cannot be written.
        """

        def draw() -> Figure:
            return self.plot(figsize=figsize, width=width)

        return save_figure(path, draw, lambda: drawing("style.svg")(draw()))

    def to_latex(self, path: str | Path | None = None, digits: int = 3) -> str:
        """Return the table as LaTeX for the package booktabs, and write it if `path` is given.

        Args:
            path: a file ending in ``.tex``, or None.
            digits: of the largest number of each column; all of a column have equal decimals.

        Raises:
            PrefixInterpError: another ending, or the file cannot be written.
        """
        from prefix_interp.tasks.words import task_words

        frame = self.to_dataframe()
        if "task" in frame:
            frame = frame.assign(task=frame["task"].map(task_words))
        return to_latex(frame, path, digits)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the table as CSV, and write it if `path` is given.

        Args:
            path: a file ending in ``.csv``, or None.

        Raises:
            PrefixInterpError: another ending, or the file cannot be written.
        """
        return to_csv(self.to_dataframe(), path)

    def save(self, path: str | Path) -> Path:
        """Write the result to the folder `path`, atomically; return the folder.

        Tensors go to ``result.safetensors``, all else to ``result.json`` with their checksum.
        `savefig` writes a picture.

        Raises:
            PrefixInterpError: a name that ends as a picture's, the folder cannot be written, or a
                value that cannot be saved.
        """
        refuse_figure(path)
        tensors: dict[str, Tensor] = {}
        fields = {k: encoded(v, k, tensors) for k, v in self._fields_on_disk().items()}
        record = {
            "format": max(SCHEMAS),
            "class": type(self).__name__,
            "versions": package_versions(),
            "fields": fields,
        }
        return save_folder(path, STEM, tensors, record)

    @classmethod
    def load(cls: type[_Result], path: str | Path) -> _Result:
        """Return the result in the folder `path`; its tensors are on the CPU.

        Raises:
            PrefixInterpError: files are missing, altered, or of another class or format.
        """
        return cls._from_fields(path, cls._read_fields(path))

    @classmethod
    def _from_fields(cls: type[_Result], path: str | Path, fields: Mapping[str, Any]) -> _Result:
        """Return the result with these fields, if their types are right."""
        try:
            check_fields(cls, fields)
            return cls(**fields)
        except TypeError as error:
            raise PrefixInterpError(
                f"path={str(path)!r} is not a whole {cls.__name__} ({one_line(error)}); save "
                "it again"
            ) from None

    def _fields_on_disk(self) -> dict[str, Any]:
        """Return the fields that `save` writes, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def _read_fields(cls, path: str | Path) -> dict[str, Any]:
        """Return the fields that `save` wrote, by name."""
        tensors, record = load_folder(path, STEM, SCHEMAS, numbers=ANY_NUMBER)
        file = f"path={str(Path(path) / STEM) + '.json'!r}"
        if record["class"] != cls.__name__:
            raise PrefixInterpError(
                f"{file} holds a {one_line(record['class'])[:80]}, not a {cls.__name__}; load it "
                "with the class that saved it"
            )
        try:
            check_keys(f"{file} in 'fields'", record["fields"], field_names(cls))
            reader = Reader(tensors, {c.__name__: c for c in nested_classes(cls)})
            fields = {name: reader.decoded(x) for name, x in record["fields"].items()}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, PrefixInterpError):
                raise
            reason = one_line(f"{type(error).__name__}: {error}")
            raise PrefixInterpError(f"{file} is damaged ({reason}); save it again") from None
        if reader.unread:
            raise PrefixInterpError(
                f"{file} names no field for the tensor {min(reader.unread)!r}; save it again"
            )
        return fields

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.caption()})"

    def _repr_html_(self) -> str:
        caption = html.escape(self.caption(), quote=True)
        return (
            f"<div><p><strong>{type(self).__name__}</strong>: {caption}</p>"
            f"{self._picture()}{self._first_rows()}</div>"
        )

    def _picture(self) -> str:
        """Return the picture as HTML; nothing where there is nothing to draw."""
        try:
            source = drawing("style.data_uri")(self.plot())
        except PrefixInterpError:
            return ""
        return f'<img src="{source}" alt="{html.escape(self.caption(), quote=True)}">'

    def _first_rows(self) -> str:
        try:
            frame = self.to_dataframe()
        except PrefixInterpError as error:
            return f"<p>{html.escape(str(error))}</p>"
        table = frame.head(ROWS_SHOWN).to_html(index=False, border=0, float_format="{:.4g}".format)
        more = len(frame) - ROWS_SHOWN
        return table + (f"<p>{more} more rows in to_dataframe()</p>" if more > 0 else "")
