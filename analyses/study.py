"""The common frame of all studies of the paper: what a study is, and how it runs.

To add one, write ``analyses/<name>.py`` (or a folder if it is long) that defines a `Study`, add it
to ``analyses/registry.py``, run ``python -m analyses <name>`` and commit the result file. The
commands, the report and the README's tables find it there. A folder has ``__init__.py`` (the
`Study`), ``measure.py`` (one seed), ``tables.py`` (summaries over seeds) and ``section.py`` (words
and pictures), so a change of words leaves finished work valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analyses.kept import Kept, digest, work_key
from analyses.report.sections import Section
from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.host import Model
from prefix_interp.results import Result
from prefix_interp.storage import check_writable
from prefix_interp.tuning.parallel import one_thread, run_parallel

Evidence = Any  # that of analyses.report.evidence, which imports this module
Rows = list[dict[str, Any]]
Tables = Mapping[str, Sequence[Mapping[str, Any]]]

RESULTS = Path(__file__).parent.parent / "results"
WORK = Path("work")
_FINISHED = "finished.json.gz"


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
    progress: bool = False
    model: Model | None = None
    evidence: Evidence | None = None

    def checkpoint(self, name: str) -> Path | None:
        """Return the file from which a training resumes; None if nothing is kept.

        Args:
            name: name of the training, unique in this seed.
        """
        return self.keeps and self.keeps.folder / "checkpoints" / f"{name}.safetensors"


@dataclass(frozen=True)
class ModelOption:
    """An external model that a study measures: `--model` and `--model-name` of the command.

    Attributes:
        help: what may be passed.
        load: turns the argument into a model.
        settings: what the result records, from the model and its name.
    """

    help: str
    load: Callable[[str], Model]
    settings: Callable[[Model, str], Mapping[str, Any]]


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
        readme: Markdown of its blocks in the README, by name.
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
    readme: Mapping[str, Callable[[Evidence], str]] = field(default_factory=dict)
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


@dataclass(frozen=True)
class _Plan:
    """One seed's work with its key, ready to run in another process."""

    measure: Callable[[Job], Tables]
    job: Job
    key: Mapping[str, Any] | None
    finished: Path | None  # kept work that may be reused


def run_study(
    study: Study,
    preset: str = "fast",
    seeds: Sequence[int] | None = None,
    *,
    work: str | Path | None = WORK,
    n_jobs: int | None = None,
    keep_old: bool = False,
    device: str = "cpu",
    progress: bool = True,
    model: Model | None = None, model_name: str = "",
    evidence: Evidence | None = None, studies: Sequence[Study] = (),
) -> Result:  # fmt: skip
    """Return a study's result, all seeds side by side; finished seeds are not repeated.

    ``timing``: ``wall_s``, ``core_s`` (of all seeds), ``seeds_from_work`` (finished before).

    Args:
        study: of `STUDIES`, or one of your own.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``, if the study has it.
        seeds: by default the study's number of seeds, from 0 on.
        work: folder of checkpoints, finished seeds and kept models of all studies; None keeps
            nothing.
        n_jobs: number of processes; by default one per core.
        keep_old: also use work of older code or sizes; the settings record this (``kept_old``).
        device: where models run.
        progress: show a bar.
        model: handed in, for a study with `Study.model`.
        model_name: what it is called.
        evidence: results and shipped models, for a live study.
        studies: where those that it needs are looked up.

    Raises:
        PrefixInterpError: an unknown preset, no seeds, or kept models that are missing.
    """
    check_choice("preset", preset, study.protocols)
    seeds = list(range(study.seeds) if seeds is None else seeds)
    check_positive("number of seeds", len(seeds))
    work = None if work is None or study.live else Path(work)
    if work is not None:
        check_writable(work)
    if study.model is not None and model is None:
        raise PrefixInterpError(f"study={study.name!r} measures a model; hand one in with --model")
    keeps = _Keeps(work, preset, seeds, keep_old, device, studies)
    common = {"model": model, "progress": progress and len(seeds) == 1}
    if study.live:
        if evidence is None:
            raise PrefixInterpError(f"study={study.name!r} is live; give it evidence to look at")
        n_jobs, common["evidence"] = 1, evidence
    began = time.perf_counter()
    done = run_parallel(
        _one_seed, [keeps.plan(study, seed, **common) for seed in seeds], n_jobs=n_jobs,
        progress=progress, description=f"{study.name}, {preset}",
    )  # fmt: skip
    timing = {
        "wall_s": round(time.perf_counter() - began, 1),
        "core_s": round(sum(one.timing["seconds"] for one, _ in done), 1),
        "seeds_from_work": sum(from_work for _, from_work in done),
    }
    tables: dict[str, Rows] = {}
    for one, _ in done:
        for name, rows in one.tables.items():
            tables.setdefault(name, []).extend(map(dict, rows))
    settings = {"protocol": asdict(study.protocols[preset])}
    if study.settings is not None:
        settings |= study.settings(preset)
    if study.model is not None and model is not None:
        settings |= study.model.settings(model, model_name)
    if keeps.old:
        settings["kept_old"] = keeps.old
    return Result(study.name, preset, seeds, settings, tables, timing=timing)


def finished_seed(
    study: Study, preset: str, seed: int, *, work: str | Path = WORK, device: str = "cpu",
    keep_old: bool = False, seeds: Sequence[int] | None = None, studies: Sequence[Study] = (),
) -> Kept:  # fmt: skip
    """Return the models and contexts that a finished seed of a study keeps.

    Args:
        study: which one.
        preset: which protocol.
        seed: which seed.
        work: folder of finished work.
        device: where models ran.
        keep_old: take it although code, versions or sizes have changed since.
        seeds: of its run; by default its own default ones.
        studies: where those that it needs are looked up.

    Raises:
        PrefixInterpError: that seed is not finished there.
    """
    seeds = list(seeds or range(study.seeds))
    return _Keeps(Path(work), preset, seeds, keep_old, device, studies).finished(study, seed)


class _Keeps:
    """Finds the finished work of one run and of the studies that it needs."""

    def __init__(
        self, work: Path | None, preset: str, seeds: Sequence[int], keep_old: bool, device: str,
        studies: Sequence[Study],
    ) -> None:  # fmt: skip
        self.work, self.preset, self.seeds = work, preset, seeds
        self.keep_old, self.device, self.studies = keep_old, device, studies
        self.old: list[dict[str, Any]] = []

    def plan(self, study: Study, seed: int, **common: Any) -> _Plan:
        """Return one seed's work."""
        protocol = study.protocols[self.preset]
        job = Job(seed, self.preset, protocol, device=self.device, **common)
        if study.live:
            return _Plan(study.measure, job, None, None)
        here = {name: self._needed(study, name, seed) for name in study.needs}
        beyond: dict[str, Kept] = {}
        if len(self.seeds) > 1:
            following = self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]
            beyond = {name: self._needed(study, name, following) for name in study.needs_next}
        job = replace(job, needs=here, next_needs=beyond)
        if self.work is None:
            return _Plan(study.measure, job, None, None)
        key = work_key(
            study.measure, protocol, self.preset, seed, device=self.device,
            needs=here | {f"{name}, next seed": kept for name, kept in beyond.items()},
            model=job.model,
        )  # fmt: skip
        folder = self.work / f"{study.name}-{self.preset}" / f"seed-{seed}"
        job = replace(job, keeps=Kept(folder / digest(key)))
        return _Plan(study.measure, job, key, self._find(study.name, seed, folder, key))

    def finished(self, study: Study, seed: int) -> Kept:
        """Return the models and contexts of a finished seed; raise if it is not finished."""
        plan = self.plan(study, seed)
        if plan.finished is None:
            raise PrefixInterpError(
                f"work={str(self.work)!r} holds no seed {seed} of {study.name} that today's code "
                f"and sizes have finished; run python -m analyses {study.name} --preset "
                f"{self.preset}, or take older work with --keep-old"
            )
        return Kept(plan.finished.parent)

    def _needed(self, study: Study, name: str, seed: int) -> Kept:
        if self.work is None:
            raise PrefixInterpError(f"work=None has no {name} for {study.name}; name the folder")
        return self.finished(named(self.studies, name), seed)

    def _find(self, name: str, seed: int, folder: Path, key: Mapping[str, Any]) -> Path | None:
        """Return the file of finished work: today's or, if allowed, the newest older one."""
        today = folder / digest(key) / _FINISHED
        if today.exists():
            return today
        others = sorted(folder.glob(f"*/{_FINISHED}"), key=lambda file: file.stat().st_mtime)
        if not self.keep_old or not others:
            return None
        before = Result.load(others[-1]).settings["key"]
        differs = sorted(part for part in key if before.get(part) != key[part])
        note = {"study": name, "seed": seed, "differs": differs}
        self.old += [] if note in self.old else [note]
        return others[-1]


def _one_seed(plan: _Plan) -> tuple[Result, bool]:
    """Return one seed's tables and whether they were finished before."""
    if plan.finished is not None:
        return Result.load(plan.finished), True
    began, job = time.perf_counter(), plan.job
    with one_thread():  # whatever the number of jobs and cores
        tables = plan.measure(job)
    seconds = {"seconds": time.perf_counter() - began}
    result = Result("seed", job.preset, [job.seed], {"key": plan.key}, tables, timing=seconds)
    if job.keeps is not None:
        result.save(job.keeps.folder / _FINISHED)
    return result, False
