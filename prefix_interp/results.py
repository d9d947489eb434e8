"""Results on disk: rows with the versions, seeds and settings that made them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from prefix_interp.errors import PrefixInterpError, check_keys
from prefix_interp.storage import read_json, to_json, write_file

_PACKAGES = ("prefix-interp", "torch", "transformer-lens", "numpy", "pandas")
_KEYS = ("format", "name", "preset", "seeds", "settings", "records", "versions", "timing")


def package_versions() -> dict[str, str]:
    """Return the versions that a result depends on, Python and processor type included."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True)
class Result:
    """What a command measured.

    Attributes:
        name: the analysis, e.g. ``"table1"``.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        seeds: every seed that was run.
        settings: recipes and sizes.
        records: one row a measurement, plain JSON values.
        versions: of Python and the packages that matter.
        timing: wall-clock seconds and the like; the one part that differs between equal runs.
    """

    name: str
    preset: str
    seeds: Sequence[int]
    settings: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str] = field(default_factory=package_versions)
    timing: Mapping[str, float] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the records, one row each; nested values become columns ``outer.inner``."""
        return pd.json_normalize([dict(r) for r in self.records])

    def save(self, path: str | Path) -> Path:
        """Write the result as JSON, atomically; return the path.

        Raises:
            PrefixInterpError: the file cannot be written, or a value is NaN or infinite.
        """
        record = {"format": 1} | {key: getattr(self, key) for key in _KEYS[1:]}
        return write_file(path, to_json(record))

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Return the result in a JSON file.

        Raises:
            PrefixInterpError: the file is missing, no JSON, or has missing or unknown keys.
        """
        record = read_json(path)
        check_keys(str(path), record, _KEYS)
        missing = [key for key in _KEYS if key not in record]
        if missing or record["format"] != 1:
            what = f"lacks the key {missing[0]!r}" if missing else "is of another format"
            raise PrefixInterpError(f"path={str(path)!r} {what}; make it again")
        return cls(**{key: record[key] for key in _KEYS[1:]})


def committed_result(name: str, preset: str) -> Result:
    """Return a result that ships with the package, as the report shows it.

    Args:
        name: the analysis, e.g. ``"table1"``.
        preset: ``"paper"`` or ``"fast"``.

    Raises:
        PrefixInterpError: no such result is shipped.
    """
    package = Path(__file__).parent
    # A wheel carries the results inside the package, a checkout beside it.
    for folder in (package / "_results", package.parent / "results"):
        path = folder / f"{name}-{preset}.json"
        if path.exists():
            return Result.load(path)
    raise PrefixInterpError(
        f"name={name!r}, preset={preset!r} is not among the shipped results; make it with "
        f"prefix-interp reproduce {name} --preset {preset}, or with its script in analyses/"
    )
