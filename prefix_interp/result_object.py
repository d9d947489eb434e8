"""Common base of results: each can become a table, a picture, a line of text or a folder."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache, reduce
from importlib import import_module
from operator import or_
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import pandas as pd
from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

from prefix_interp.errors import PrefixInterpError, check_keys
from prefix_interp.estimates import Estimate
from prefix_interp.records import Schema, one_line
from prefix_interp.results import package_versions
from prefix_interp.storage import ANY_NUMBER, load_folder, save_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEM = "result"
ROWS_SHOWN = 5  # of the table in a notebook
# Types of columns that a file can hold; pandas would take others, e.g. of any number of bytes.
_COLUMNS = re.compile(
    "object|category|str(ing)?|bool(ean)?|U?int(8|16|32|64)|float(16|32|64)", re.I
)
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
    def plot(self) -> Figure:
        """Return a matplotlib figure of the result.

        Raises:
            PrefixInterpError: there is nothing to draw.
        """

    @abstractmethod
    def caption(self) -> str:
        """Return one line: what was measured, on how much, and the main numbers."""

    def save(self, path: str | Path) -> Path:
        """Write the result to the folder `path`, atomically; return the folder.

        Tensors go to ``result.safetensors``, all else to ``result.json`` with their checksum.

        Raises:
            PrefixInterpError: the folder cannot be written, or a value that cannot be saved.
        """
        tensors: dict[str, Tensor] = {}
        fields = {k: _encoded(v, k, tensors) for k, v in self._fields_on_disk().items()}
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
            check_keys(f"{file} in 'fields'", record["fields"], _names(cls))
            reader = _Reader(tensors, {c.__name__: c for c in _nested_classes(cls)})
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


def _encoded(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; an object in it has one key, which names its kind."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Estimate):
        ends = (value.value, value.low, value.high)
        return {"estimate": [_encoded(x, place, tensors) for x in ends]}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Tensor):
        while place in tensors:  # names that contain dots can collide
            place += "'"
        tensors[place] = value.detach().cpu().clone()
        return {"tensor": place}
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"dict": {k: _encoded(v, f"{place}.{k}", tensors) for k, v in value.items()}}
    if type(value) in (list, tuple):
        items = [_encoded(x, f"{place}.{i}", tensors) for i, x in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, pd.DataFrame) and value.index.equals(pd.RangeIndex(len(value))):
        columns = [(name, value.loc[:, name]) for name in value.columns]
        return {"table": [_column(x, f"{place}.{name}", tensors) for name, x in columns]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {n: _encoded(getattr(value, n), f"{place}.{n}", tensors) for n in _names(type(value))}
        return {"object": [type(value).__name__, own]}
    raise PrefixInterpError(
        f"{place} is a {type(value).__name__}, which no file can hold; leave it out"
    )


def _column(column: pd.Series, place: str, tensors: dict[str, Tensor]) -> list[Any]:
    if not _COLUMNS.fullmatch(str(column.dtype)):
        raise PrefixInterpError(
            f"{place} is a column of {column.dtype}, which no file can hold; convert it"
        )
    cells = [None if x is pd.NA else _encoded(x, place, tensors) for x in column.tolist()]
    return [column.name, str(column.dtype), cells]


class _Reader:
    """Turns JSON that `_encoded` made back into values."""

    def __init__(self, tensors: Mapping[str, Tensor], classes: Mapping[str, type]) -> None:
        self.tensors, self.classes = tensors, classes
        self.unread = set(tensors)

    def decoded(self, x: Any) -> Any:
        if isinstance(x, list):
            return [self.decoded(item) for item in x]
        if not isinstance(x, dict):
            return x
        ((kind, held),) = x.items()
        if kind == "tensor":
            self.unread.discard(held)
            return self.tensors[held]
        if kind == "float":
            return float(held)
        if kind == "estimate":
            return Estimate(*(self.decoded(end) for end in held))
        if kind == "tuple":
            return tuple(self.decoded(item) for item in held)
        if kind == "dict":
            return {name: self.decoded(item) for name, item in held.items()}
        if kind == "table":
            if any(not _COLUMNS.fullmatch(dtype) for _, dtype, _ in held):
                raise ValueError("a column of a type that no table has")
            if len({len(cells) for _, _, cells in held}) > 1:
                raise ValueError("columns of different lengths")
            columns = {name: (self.decoded(cells), dtype) for name, dtype, cells in held}
            return pd.DataFrame({n: pd.Series(x, dtype=dtype) for n, (x, dtype) in columns.items()})
        if kind == "object":
            name, fields = held
            check_keys(name, fields, _names(self.classes[name]))
            made = {n: self.decoded(item) for n, item in fields.items()}
            check_fields(self.classes[name], made)
            return self.classes[name](**made)
        raise KeyError(kind)


def check_fields(cls: type, fields: Mapping[str, Any]) -> None:
    """Raise unless each value has the type that its field of a dataclass is annotated with.

    Raises:
        TypeError: a value of another type, or a field that is missing.
    """
    try:
        _adapter(cls).validate_python(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise TypeError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter(cls: type) -> Any:
    hints = get_type_hints(cls)
    typed: Any = TypedDict(cls.__name__, {name: _by_class(hints[name]) for name in _names(cls)})  # type: ignore[misc]
    return TypeAdapter(with_config(ConfigDict(strict=True, arbitrary_types_allowed=True))(typed))


def _by_class(hint: Any) -> Any:
    """Return a type in which dataclasses, checked when they were made, count by their class."""
    parts = get_args(hint)
    if is_dataclass(hint):
        return InstanceOf[hint]
    if not parts or get_origin(hint) is Literal:
        return hint
    parts = tuple(map(_by_class, parts))
    if isinstance(hint, UnionType):
        return reduce(or_, parts)
    return get_origin(hint)[parts]  # type: ignore[index]


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _nested_classes(cls: type) -> set[type]:
    """Return the dataclasses that fields of `cls` are annotated with, at any depth."""
    found: set[type] = set()
    todo = list(_parts(get_type_hints(cls)))
    while todo:
        part = todo.pop()
        if isinstance(part, type) and dataclasses.is_dataclass(part) and part not in found:
            found.add(part)
            todo += [*part.__subclasses__(), *_parts(get_type_hints(part))]
        elif isinstance(part, type) and part.__module__.startswith("prefix_interp."):
            todo += part.__subclasses__()  # a base class also stands for its subclasses
    return found


def _parts(hints: Mapping[str, Any]) -> Iterator[Any]:
    """Return all types that occur in some annotations."""
    todo = list(hints.values())
    while todo:
        hint = todo.pop()
        yield hint
        todo += get_args(hint)
