"""Results on disk: named tables with the versions, seeds and settings that made them."""

from __future__ import annotations

import html
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.records import MAX_DEPTH, Schema, one_line
from prefix_interp.storage import json_bytes, read_json, write_json
from prefix_interp.words import counted

_PACKAGES = (
    "prefix-interp", "torch", "transformer-lens", "transformers", "einops", "numpy", "pandas",
)  # fmt: skip
_COMMON = {
    "name": str, "preset": str, "seeds": list[int], "settings": dict[str, Any],
    "versions": dict[str, str], "timing": dict[str, float | None],
}  # fmt: skip
_TABLES = dict[str, dict[str, list[Any]]]
SCHEMAS = {  # 1 and 2 have no checksum
    1: Schema(1, {**_COMMON, "records": list[dict[str, Any]]}),
    **{number: Schema(number, {**_COMMON, "tables": _TABLES}) for number in (2, 3)},
}
MAX_CELLS = 2_000_000  # seven times the largest result of the paper; rows take much memory
ONLY_TABLE = "rows"  # name of the table of a format-1 file without parts

Record = Mapping[str, Any]
Records = Sequence[Record]


def package_versions() -> dict[str, str]:
    """Return the versions that a result depends on, including Python and processor type."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True, repr=False)
class Result:
    """What a study measured: tables of records, and the settings and versions behind them.

    All records of a table have the same keys: missing keys are added with the value None. NaN
    becomes None and tuples become lists, so a loaded result equals the saved one.

    >>> result = Result("demo", "fast", [0], {}, {"rows": [{"seed": 0, "loss": 0.5}]})
    >>> result.rows()[0]["loss"]
    0.5

    Attributes:
        name: the study, e.g. ``"table1"``.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        seeds: every seed that was run.
        settings: recipes and sizes.
        tables: records by table name; a record is one measurement, in plain JSON values.
        versions: of Python and the packages that matter.
        timing: wall-clock seconds and the like; the one part that differs between equal runs.
    """

    name: str
    preset: str
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    tables: Mapping[str, Records]
    versions: Mapping[str, str] = field(default_factory=package_versions)
    timing: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = {name: _one_shape(records) for name, records in self.tables.items()}
        object.__setattr__(self, "tables", whole)
        object.__setattr__(self, "settings", plain(self.settings))

    def caption(self) -> str:
        """Return one line: study, preset, seeds and the sizes of the tables."""
        tables = ", ".join(f"{name} {counted(len(r), 'row')}" for name, r in self.tables.items())
        return f"{self.name}, {self.preset}, {counted(len(self.seeds), 'seed')}: {tables}"

    def __repr__(self) -> str:
        return f"Result({self.caption()})"

    def _repr_html_(self) -> str:
        shown = [f"<p><strong>Result</strong>: {html.escape(self.caption())}</p>"]
        for name in self.tables:
            first = self.to_dataframe(name).head(3).to_html(index=False, border=0)
            shown.append(f"<p>{html.escape(name)}</p>{first}")
        return f"<div>{''.join(shown)}</div>"

    def rows(self, table: str | None = None) -> Records:
        """Return the records of one table.

        Args:
            table: its name; may be left out if there is only one.

        Raises:
            PrefixInterpError: there is no such table, or the name was left out among several.
        """
        if table is None and len(self.tables) == 1:
            (table,) = self.tables
        check_choice("table", table, self.tables)
        return self.tables[table]  # type: ignore[index]

    def to_dataframe(self, table: str | None = None) -> pd.DataFrame:
        """Return one table, one row per record; nested values become columns ``outer.inner``.

        Args:
            table: its name; may be left out if there is only one.

        Raises:
            PrefixInterpError: there is no such table, or the name was left out among several.
        """
        records = self.rows(table)
        nested = {key for r in records for key, value in r.items() if isinstance(value, Mapping)}
        return pd.json_normalize(
            [{k: v for k, v in r.items() if v is not None or k not in nested} for r in records]
        )

    def save(self, path: str | Path) -> Path:
        """Write the result as columns in JSON, atomically; return the path.

        A path that ends in ``.gz`` is compressed. Equal results give equal bytes.

        Raises:
            PrefixInterpError: the file cannot be written, a value is infinite or not plain JSON,
                or a key contains a dot.
        """
        return write_json(path, self._record(path), compact=True)

    def to_bytes(self) -> bytes:
        """Return what `save` writes to a file that is not compressed.

        Raises:
            PrefixInterpError: as in `save`.
        """
        return json_bytes(self._record(""), compact=True)

    def _record(self, path: str | Path) -> dict[str, Any]:
        fields = ("name", "preset", "seeds", "settings")
        record = {"format": max(SCHEMAS)} | {key: getattr(self, key) for key in fields}
        record["tables"] = {name: _to_columns(rows) for name, rows in self.tables.items()}
        _check_size(path, record["tables"])
        return record | {"versions": self.versions, "timing": self.timing}

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Return the result in a file that `save` wrote.

        Files of an older version, which have no checksum, are read with a warning. Format 1 had one
        plain list of records, which is split into tables here.

        Raises:
            PrefixInterpError: the file is missing, altered, or no result.
        """
        record = read_json(path, SCHEMAS)
        try:
            if record.pop("format") == 1:
                record["tables"] = _format_1(record.pop("records"))
                _check_size(path, {k: _columns_of(rows) for k, rows in record["tables"].items()})
            else:
                _check_size(path, record["tables"])
                record["tables"] = {name: _to_rows(path, t) for name, t in record["tables"].items()}
        except (AttributeError, KeyError, TypeError) as error:
            raise PrefixInterpError(
                f"path={str(path)!r} has tables that make no rows ({one_line(repr(error))}); make "
                "it again"
            ) from None
        return cls(**record)


def _one_shape(records: Records) -> list[dict[str, Any]]:
    """Return records that all have the same keys in the same order, NaN replaced by None."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: plain(record.get(key)) for key in keys} for record in records]


def plain(value: Any) -> Any:
    """Return a value as a result holds it: NaN is None, a tuple a list."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def _to_columns(records: Records) -> dict[str, list[Any]]:
    """Return one list per key; a dict with the same keys in all records becomes ``outer.inner``."""
    columns: dict[str, list[Any]] = {}
    if records and not records[0]:
        raise PrefixInterpError(
            f"table has {len(records)} records without keys, which no column can hold; leave them "
            "out"
        )
    for key in records[0] if records else ():
        if "." in str(key):
            raise PrefixInterpError(
                f"key={key!r} contains a dot, which stands for nesting in a file; rename it"
            )
        values = [record[key] for record in records]
        if all(isinstance(v, Mapping) and v and list(v) == list(values[0]) for v in values):
            inner = _to_columns(values)
            columns |= {f"{key}.{name}": column for name, column in inner.items()}
        else:
            columns[key] = values
    return columns


def _columns_of(rows: Records) -> dict[str, Records]:
    """Return what stands for the columns of rows that need not have the same keys."""
    return dict.fromkeys((str(key) for row in rows for key in row), rows) or {"": rows}


def _check_size(path: str | Path, tables: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Raise if tables are too large to be read as rows, or nested too deep."""
    columns = [(name, len(column)) for table in tables.values() for name, column in table.items()]
    cells = sum(rows * (1 + name.count(".")) for name, rows in columns)
    if cells > MAX_CELLS or any(name.count(".") > MAX_DEPTH for name, _ in columns):
        raise PrefixInterpError(
            f"path={str(path)!r} would hold {cells:,} cells, where {MAX_CELLS:,} in columns nested "
            f"at most {MAX_DEPTH} deep are allowed; make several results"
        )


def _to_rows(path: str | Path, columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return the records of a table whose columns `_to_columns` made."""
    if len({len(column) for column in columns.values()}) > 1:
        raise PrefixInterpError(
            f"path={str(path)!r} has columns of different lengths; make it again"
        )
    records: list[dict[str, Any]] = [{} for _ in next(iter(columns.values()), [])]
    for name, column in columns.items():
        *outer, last = name.split(".")
        for record, value in zip(records, column, strict=True):
            for key in outer:
                record = record.setdefault(key, {})
            record[last] = value
    return records


def _format_1(records: Records) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of a file of format 1, with today's names of the keys.

    Its records named their table in a key, ``part`` or ``record``.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        names = {"n_prefix": "n_slots"}
        if "after" in record:  # a soft prompt
            names |= {"after": "position", "level": "layers"}
        # If a record has both, n_slots is the study's own field.
        own = {k: v for k, v in record.items() if k != "n_prefix" or "n_slots" not in record}
        row = {names.get(key, key): value for key, value in own.items()}
        if "after" in record and row["layers"] == "layers":
            row["layers"] = "all"
        part = next((key for key in ("part", "record") if key in row), None)
        tables.setdefault(ONLY_TABLE if part is None else row.pop(part), []).append(row)
    return tables
