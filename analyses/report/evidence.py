"""What the sections of the report read: results, summaries and the shipped models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from analyses.runs import run_study
from analyses.study import RESULTS, Study, Tables, committed_result, named, result_file
from prefix_interp.results import Result

Made = TypeVar("Made")


class Evidence:
    """Everything that a section may use; each item is read or computed only once.

    Args:
        studies: whose results these are.
        results: a folder of result files, or the results themselves.
        seed: chooses the test sequences of new measurements.
        device: where models run.
        progress: show bars for new measurements.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        results: str | Path | Sequence[Result] = RESULTS,
        *,
        seed: int = 0,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.studies = studies
        self.seed, self.device, self.progress = seed, device, progress
        self._results: dict[tuple[str, str], Result | None] = {}
        self._folder = Path(results) if isinstance(results, (str, Path)) else None
        if not isinstance(results, (str, Path)):
            self._results |= {(result.name, result.preset): result for result in results}
        self._tables: dict[tuple[str, str], Tables] = {}
        self._made: dict[Any, Any] = {}

    def result(self, name: str, preset: str = "fast") -> Result | None:
        """Return a study's result, or None if it is missing; a live study is measured now.

        Args:
            name: of the study.
            preset: which protocol.
        """
        if (name, preset) not in self._results:
            self._results[name, preset] = self._read(name, preset)
        return self._results[name, preset]

    def tables(self, name: str, preset: str = "fast") -> Tables:
        """Return the summaries of a study's result (`Study.tables`).

        Args:
            name: of the study.
            preset: which protocol.

        Raises:
            PrefixInterpError: the result is missing.
        """
        if (name, preset) not in self._tables:
            result = self.result(name, preset) or committed_result(name, preset)
            self._tables[name, preset] = named(self.studies, name).tables(result)
        return self._tables[name, preset]

    def once(self, make: Callable[[Evidence], Made]) -> Made:
        """Return ``make(self)``, computed on the first call and kept for later ones.

        Sections load and run shipped models through this method.

        Args:
            make: a module-level function, which identifies the value.
        """
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    def _read(self, name: str, preset: str) -> Result | None:
        study = named(self.studies, name)
        if study.live:
            if preset not in study.protocols:
                return None
            return run_study(
                study, preset, [self.seed], device=self.device, progress=self.progress,
                evidence=self, studies=self.studies,
            )  # fmt: skip
        if self._folder is None or not (self._folder / result_file(name, preset)).exists():
            return None
        return committed_result(name, preset, self._folder)


def numbers(tables: Tables) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return non-empty tables in the form of the report's JSON."""
    return {name: rows for name, rows in tables.items() if rows}
