"""How a study runs: seeds side by side, finished work found again, one process in each folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from analyses.kept import Kept, digest, work_key
from analyses.study import WORK, Evidence, Job, Rows, Study, Tables, named
from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.files import check_writable, sweep
from prefix_interp.locks import locked
from prefix_interp.models.host import Model
from prefix_interp.results import Result
from prefix_interp.tuning.parallel import one_thread, run_parallel
from prefix_interp.tuning.recipes import chosen_precision

_FINISHED = "finished.json.gz"
KEPT_OLD = "kept_old"  # the setting that lists the work of older code in a result


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
    precision: str = "float32",
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
        precision: of every training: ``"float32"``, ``"bfloat16"`` or ``"auto"`` (see `Recipe`).
        progress: show a bar.
        model: handed in, for a study with `Study.model`.
        model_name: what it is called.
        evidence: results and shipped models, for a live study.
        studies: where those that it needs are looked up.

    Raises:
        PrefixInterpError: an unknown preset or precision, no seeds, kept models that are missing,
            or a seed that another process is working on.
    """
    check_choice("preset", preset, study.protocols)
    seeds = list(range(study.seeds) if seeds is None else seeds)
    check_positive("number of seeds", len(seeds))
    precision = chosen_precision(precision)
    work = None if work is None or study.live else Path(work)
    if work is not None:
        check_writable(work)
    if study.model is not None and model is None:
        raise PrefixInterpError(f"study={study.name!r} measures a model; hand one in with --model")
    keeps = _Keeps(work, preset, seeds, keep_old, device, precision, studies)
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
    settings = result_settings(
        study, preset, precision=precision, model=model, model_name=model_name
    )
    if keeps.old:
        settings[KEPT_OLD] = keeps.old
    return Result(study.name, preset, seeds, settings, tables, timing=timing)


def result_settings(
    study: Study, preset: str, *, precision: str = "float32", model: Model | None = None,
    model_name: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return the settings that a study's result will have, apart from `KEPT_OLD`.

    Args:
        study: which one.
        preset: which protocol.
        precision: of its trainings.
        model: handed in, for a study with `Study.model`.
        model_name: what it is called.
    """
    settings: dict[str, Any] = {
        "protocol": asdict(study.protocols[preset]), "precision": precision
    }  # fmt: skip
    if study.settings is not None:
        settings |= study.settings(preset)
    if study.model is not None and model is not None:
        settings |= study.model.settings(model, model_name)
    return settings


def finished_seed(
    study: Study, preset: str, seed: int, *, work: str | Path = WORK, device: str = "cpu",
    precision: str = "float32", keep_old: bool = False, seeds: Sequence[int] | None = None,
    studies: Sequence[Study] = (),
) -> Kept:  # fmt: skip
    """Return the models and contexts that a finished seed of a study keeps.

    Args:
        study: which one.
        preset: which protocol.
        seed: which seed.
        work: folder of finished work.
        device: where models ran.
        precision: of its trainings.
        keep_old: take it although code, versions or sizes have changed since.
        seeds: of its run; by default its own default ones.
        studies: where those that it needs are looked up.

    Raises:
        PrefixInterpError: that seed is not finished there.
    """
    seeds = list(seeds or range(study.seeds))
    keeps = _Keeps(Path(work), preset, seeds, keep_old, device, precision, studies)
    return keeps.finished(study, seed)


class _Keeps:
    """Finds the finished work of one run and of the studies that it needs."""

    def __init__(
        self, work: Path | None, preset: str, seeds: Sequence[int], keep_old: bool, device: str,
        precision: str, studies: Sequence[Study],
    ) -> None:  # fmt: skip
        self.work, self.preset, self.seeds = work, preset, seeds
        self.keep_old, self.studies = keep_old, studies
        self.where = {"device": device, "precision": precision}
        self.old: list[dict[str, Any]] = []

    def plan(self, study: Study, seed: int, **common: Any) -> _Plan:
        """Return one seed's work."""
        protocol = study.protocols[self.preset]
        job = Job(seed, self.preset, protocol, **self.where, **common)
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
            study.measure, protocol, self.preset, seed, **self.where,
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
    if plan.job.keeps is None:
        return _measured(plan), False
    folder = plan.job.keeps.folder
    with locked(folder):
        if (folder / _FINISHED).exists():  # by another run, since this one was planned
            return Result.load(folder / _FINISHED), True
        sweep(folder, recursive=True)
        result = _measured(plan)
        result.save(folder / _FINISHED)
    return result, False


def _measured(plan: _Plan) -> Result:
    began, job = time.perf_counter(), plan.job
    with one_thread():  # whatever the number of jobs and cores
        tables = plan.measure(job)
    seconds = {"seconds": time.perf_counter() - began}
    return Result("seed", job.preset, [job.seed], {"key": plan.key}, tables, timing=seconds)
