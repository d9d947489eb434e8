"""Values of results as JSON and tensors, and back, checked against the types of their fields."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd
from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from prefix_interp.errors import PrefixInterpError, check_keys
from prefix_interp.estimates import Estimate

# Types of columns that a file can hold; pandas would take others, e.g. of any number of bytes.
_COLUMNS = re.compile(
    "object|category|str(ing)?|bool(ean)?|U?int(8|16|32|64)|float(16|32|64)", re.I
)


def encoded(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON; an object in it has one key, which names its kind.

    Args:
        value: of a field.
        place: where it stands, e.g. ``"held.0"``.
        tensors: takes the tensors in `value`, by place.

    Raises:
        PrefixInterpError: a value that no file can hold.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Estimate):
        ends = (value.value, value.low, value.high)
        return {"estimate": [encoded(x, place, tensors) for x in ends]}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Tensor):
        while place in tensors:  # names that contain dots can collide
            place += "'"
        tensors[place] = value.detach().cpu().clone()
        return {"tensor": place}
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"dict": {k: encoded(v, f"{place}.{k}", tensors) for k, v in value.items()}}
    if type(value) in (list, tuple):
        items = [encoded(x, f"{place}.{i}", tensors) for i, x in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, pd.DataFrame) and value.index.equals(pd.RangeIndex(len(value))):
        columns = [(name, value.loc[:, name]) for name in value.columns]
        return {"table": [_column(x, f"{place}.{name}", tensors) for name, x in columns]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {
            n: encoded(getattr(value, n), f"{place}.{n}", tensors) for n in field_names(type(value))
        }
        return {"object": [type(value).__name__, own]}
    raise PrefixInterpError(
        f"{place} is a {type(value).__name__}, which no file can hold; leave it out"
    )


def _column(column: pd.Series, place: str, tensors: dict[str, Tensor]) -> list[Any]:
    if not _COLUMNS.fullmatch(str(column.dtype)):
        raise PrefixInterpError(
            f"{place} is a column of {column.dtype}, which no file can hold; convert it"
        )
    cells = [None if x is pd.NA else encoded(x, place, tensors) for x in column.tolist()]
    return [column.name, str(column.dtype), cells]


class Reader:
    """Turns JSON that `encoded` made back into values.

    Attributes:
        tensors: those of the file, by name.
        classes: that may occur in it, by name.
        unread: names of tensors that nothing has asked for.
    """

    def __init__(self, tensors: Mapping[str, Tensor], classes: Mapping[str, type]) -> None:
        self.tensors, self.classes = tensors, classes
        self.unread = set(tensors)

    def decoded(self, x: Any) -> Any:
        """Return the value that some JSON stands for."""
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
            check_keys(name, fields, field_names(self.classes[name]))
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
    # A field with a default may be missing: files of an older version do not have it.
    given = {f.name for f in dataclasses.fields(cls) if _has_default(f)}
    fields = {name: _by_class(hints[name]) for name in field_names(cls)}
    fields = {k: NotRequired[hint] if k in given else hint for k, hint in fields.items()}
    typed: Any = TypedDict(cls.__name__, fields)  # type: ignore[misc]
    return TypeAdapter(with_config(ConfigDict(strict=True, arbitrary_types_allowed=True))(typed))


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


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


def field_names(cls: type) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [f.name for f in dataclasses.fields(cls)]


def nested_classes(cls: type) -> set[type]:
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
