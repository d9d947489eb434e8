"""The common frame of all studies of the paper: what a study is (`runs` runs it).

To add one, write ``analyses/<name>.py`` (or a folder if it is long) that defines a `Study`, add it
to ``analyses/registry.py``, run ``python -m analyses <name>`` and commit the result file. The
commands, the report and the findings find it there. A folder has ``__init__.py`` (the
`Study`), ``measure.py`` (one seed), ``tables.py`` (summaries over seeds) and ``section.py`` (words
and pictures), so a change of words leaves finished work valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analyses.kept import Kept
from analyses.report.sections import Section
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import Model
from prefix_interp.results import Result
from prefix_interp.tuning.recipes import Recipe

Evidence = Any  # that of analyses.report.evidence, which imports this module
Rows = list[dict[str, Any]]
Tables = Mapping[str, Sequence[Mapping[str, Any]]]

RESULTS = Path(__file__).parent.parent / "results"
WORK = Path("work")


@dataclass(frozen=True)
class Job:
    """One seed's work, as `Study.measure` gets it: everything it may depend on.

    Attributes:
        seed: decides initialisation, data and every random choice.
        preset: name of the preset.
        protocol: the study's sizes under that preset.
        needs: models and contexts that each needed study keeps for this seed, by study name.
        next_needs: those of the next seed of the run (after the last seed, the first), for studies
            in `Study.needs_next`; empty in a run of one seed.
        keeps: where this seed keeps models and contexts; None keeps nothing.
        device: where models run.
        precision: of every training (see `Recipe`).
        progress: show bars.
        model: the model that was handed in, for a study with `Study.model`.
        evidence: results and shipped models, for a study that is `Study.live`.
    """

    seed: int
    preset: str
    protocol: Any
    needs: Mapping[str, Kept] = field(default_factory=dict)
    next_needs: Mapping[str, Kept] = field(default_factory=dict)
    keeps: Kept | None = None
    device: str = "cpu"
    precision: str = "float32"
    progress: bool = False
    model: Model | None = None
    evidence: Evidence | None = None

    def recipe(self, stage: str, **changes: Any) -> Recipe:
        """Return the preset's recipe in the precision of this run.

        Args:
            stage: ``"pretrain"``, ``"fine_tune"`` or ``"prefix"``.
            changes: new values for its other fields.
        """
        return Recipe.from_preset(self.preset, stage, precision=self.precision, **changes)

    def checkpoint(self, name: str) -> Path | None:
        """Return the file from which a training resumes; None if nothing is kept.

        Args:
            name: name of the training, unique in this seed.
        """
        return self.keeps and self.keeps.folder / "checkpoints" / f"{name}.safetensors"

    def part(self, name: str, rows: Rows, work: Callable[[], object]) -> None:
        """Do a part of the work, which adds to `rows`; add what it added if it is finished.

        So a run that is killed again and again still comes to its end.

        Args:
            name: name of the part, unique in this seed.
            rows: where its rows go.
            work: does the part.
        """
        finished = self.keeps and self.keeps.rows(name)
        if finished is not None:
            rows += finished
            return
        before = len(rows)
        work()
        if self.keeps is not None:
            self.keeps.save_rows(name, rows[before:])

    def tables(self, name: str, make: Callable[[], Tables]) -> dict[str, Rows]:
        """Return the tables of a part of the work, which is done only if it is not finished.

        Args:
            name: name of the part, unique in this seed.
            make: does the part; a table without rows is left out.
        """
        rows: Rows = []

        def work() -> None:
            for table, own in make().items():
                rows.extend({"table": table, "row": dict(row)} for row in own)

        self.part(name, rows, work)
        found: dict[str, Rows] = {}
        for each in rows:
            found.setdefault(each["table"], []).append(each["row"])
        return found


@dataclass(frozen=True)
class ModelOption:
    """An external model that a study measures: `--model` and `--model-name` of the command.

    Attributes:
        help: what may be passed.
        load: turns the argument into a model.
        settings: what the result records, from the model and its name.
        usual: returns the path of the model that is measured if none is passed, named by its last
            part; None if one must be passed.
    """

    help: str
    load: Callable[[str], Model]
    settings: Callable[[Model, str], Mapping[str, Any]]
    usual: Callable[[], Path] | None = None


@dataclass(frozen=True)
class Study:
    """One question, its measurement, and how the answer is summarised and shown.

    Attributes:
        name: its command and the stem of its result, e.g. ``"long-prefixes"``.
        claim: what it asks and what the paper says, in one line.
        protocols: the sizes of each preset, frozen dataclasses; stored in the result's settings as
            ``protocol``.
        measure: does one seed's work; returns rows by table name.
        tables: summaries of the result over seeds, by name; computed once per result.
        section: its section of the report, or several; not called if its own result is missing.
        needs: studies whose kept models it measures.
        needs_next: those of `needs` for which it also measures models of the next seed.
        exports: copies the kept models of one seed into a zoo; returns their folders.
        seeds: default number of seeds.
        settings: what else the result should record about a preset.
        live: measured anew for each report, from shipped models, and never committed.
        findings: Markdown of its blocks in the findings, by name.
        figures: pictures that the command writes beside the result, by the suffix of their stem
            (``""`` for the result's own stem).
        model: an external model that it needs.
    """

    name: str
    claim: str
    protocols: Mapping[str, Any]
    measure: Callable[[Job], Tables]
    tables: Callable[[Result], Tables]
    section: Callable[[Evidence], Section | Sequence[Section]]
    needs: tuple[str, ...] = ()
    needs_next: tuple[str, ...] = ()
    exports: Callable[[Kept, Path], list[Path]] | None = None
    seeds: int = 10
    settings: Callable[[str], Mapping[str, Any]] | None = None
    live: bool = False
    findings: Mapping[str, Callable[[Evidence], str]] = field(default_factory=dict)
    figures: Callable[[Result], Mapping[str, Figure]] | None = None
    model: ModelOption | None = None


def named(studies: Sequence[Study], name: str) -> Study:
    """Return the study of that name.

    Raises:
        PrefixInterpError: there is none; the message gives the nearest name.
    """
    check_choice("study", name, [study.name for study in studies])
    return next(study for study in studies if study.name == name)


def result_file(name: str, preset: str) -> str:
    """Return the file name of a result."""
    return f"{name}-{preset}.json.gz"


def committed_result(name: str, preset: str = "fast", folder: Path = RESULTS) -> Result:
    """Return a committed result, as the report shows it.

    Args:
        name: of the study.
        preset: ``"paper"`` or ``"fast"``.
        folder: where results are.

    Raises:
        PrefixInterpError: there is no such result.
    """
    path = Path(folder) / result_file(name, preset)
    if not path.exists():
        raise PrefixInterpError(
            f"name={name!r}, preset={preset!r} is not among the committed results; make it with "
            f"python -m analyses {name} --preset {preset}"
        )
    return Result.load(path)
