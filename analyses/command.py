"""Run the studies of the paper and write their report.

    python -m analyses table1                 # one study: results/table1-fast.json.gz
    python -m analyses all --zoo DIR          # every study, each after the studies it needs
    python -m analyses report --out report    # report.html and report.json

Finished seeds are kept in --work and not repeated. Files of another run are replaced only with
--overwrite.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from analyses import registry
from analyses.outputs import check_report, check_result, check_zoo
from analyses.registry import find_study
from analyses.runs import finished_seed, result_settings, run_study
from analyses.study import WORK, Study, result_file
from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.files import check_target, check_writable, write_together
from prefix_interp.models.device import check_device
from prefix_interp.results import Result
from prefix_interp.tuning.recipes import chosen_precision


class _Parser(argparse.ArgumentParser):
    """A parser whose error message is one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"analyses: {message}; see python -m analyses --help\n")


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 2 with one line on bad input, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        _check(arguments)
        if arguments.name == "report":
            _report(arguments)
        else:
            for planned in _planned(arguments):
                _run(planned, arguments)
    except PrefixInterpError as error:
        print(f"analyses: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        left = "the same command resumes where it stopped"
        if _is_live(arguments.name):
            left = "nothing was written"
        print(f"analyses: interrupted; {left}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {study.name:16s}{study.claim}" for study in registry.STUDIES]
    parser = _Parser(
        prog="python -m analyses",
        description="\n".join([str(__doc__), "studies:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", help="a study, all or report")
    add("--preset", default="fast", help="paper, fast or smoke (fast)")
    add("--seeds", type=int, help="how many (the study's default)")
    add("--seed", type=int, default=0, help="first seed; in a report, of the test inputs (0)")
    add("--jobs", type=int, help="processes (one per core)")
    add("--work", type=Path, default=WORK, help=f"finished and half-done work ({WORK})")
    add("--out", type=Path, help="folder (results; report if nothing is committed)")
    add("--zoo", type=Path, help="also write the first seed's models here")
    add("--keep-old", action="store_true", help="also use work of older code or other versions")
    add("--device", default="cpu", help="cpu, cuda or mps (cpu)")
    add("--precision", default="float32", help="of trainings: float32, bfloat16 or auto (float32)")
    add("--model", help="a folder or file, for a study that measures your own model")
    add("--model-name", default="", help="name of that model")
    add("--quiet", action="store_true", help="no progress bars")
    add("--overwrite", action="store_true", help="replace the files of another run")
    return parser


@dataclass(frozen=True)
class _Planned:
    """A study that is about to run, with the model that was handed in for it."""

    study: Study
    path: Path  # of its result
    seeds: list[int]
    model: dict[str, Any]  # arguments of `run_study`


def _is_live(name: str) -> bool:
    """Return whether a command trains nothing, and keeps no finished work."""
    return name == "report" or (name != "all" and find_study(name).live)


def _check(arguments: argparse.Namespace) -> None:
    check_choice("name", arguments.name, [*(s.name for s in registry.STUDIES), "all", "report"])
    check_device(arguments.device)
    if (precision := chosen_precision(arguments.precision)) != arguments.precision:
        print(f"precision: {precision}, which this processor multiplies faster")
        arguments.precision = precision
    if arguments.model is not None and arguments.name != "all":
        taking = [study.name for study in registry.STUDIES if study.model]
        check_choice("--model with name", arguments.name, taking)
    for option in ("seeds", "jobs"):
        if getattr(arguments, option) is not None:
            check_positive(option, getattr(arguments, option))
    arguments.out = arguments.out or Path("report" if _is_live(arguments.name) else "results")
    for folder in filter(None, (arguments.out, arguments.work, arguments.zoo)):
        check_writable(folder)
    if arguments.zoo is not None and arguments.name != "all":
        exporting = [study.name for study in registry.STUDIES if study.exports]
        check_choice("--zoo with name", arguments.name, exporting)
    if arguments.zoo is not None and not arguments.overwrite:
        check_zoo(arguments.zoo, arguments.preset, arguments.seed)


def _planned(arguments: argparse.Namespace) -> list[_Planned]:
    """Return what runs; raise if a model cannot be read, or another run's file is in the way."""
    planned = []
    for study in _chosen(arguments):
        check_choice("preset", arguments.preset, study.protocols)
        path = arguments.out / result_file(study.name, arguments.preset)
        check_target(path)
        first, n = arguments.seed, arguments.seeds or study.seeds
        model: dict[str, Any] = {}
        if study.model is not None and (chosen := _model_path(study, arguments)) is not None:
            name = arguments.model_name or Path(chosen).stem
            model = {"model": study.model.load(str(chosen)), "model_name": name}
        planned.append(_Planned(study, path, list(range(first, first + n)), model))
        if not arguments.overwrite:
            settings = result_settings(
                study, arguments.preset, precision=arguments.precision, **model
            )
            check_result(path, study.name, arguments.preset, planned[-1].seeds, settings)
    return planned


def _model_path(study: Study, arguments: argparse.Namespace) -> str | Path | None:
    """Return the model that a study measures: the one that is named, or its usual one."""
    usual = study.model and study.model.usual
    return arguments.model if arguments.model is not None or usual is None else usual()


def _chosen(arguments: argparse.Namespace) -> list[Study]:
    """Return the studies to run, each after the studies it needs."""
    if arguments.name != "all":
        return [find_study(arguments.name)]
    able = []
    for study in registry.STUDIES:
        if study.live or arguments.preset not in study.protocols:
            continue
        if study.model is not None and arguments.model is None:
            print(f"{study.name}: left out, it measures a model of yours; give --model")
            continue
        able.append(study)
    ordered: list[Study] = []

    def add(study: Study) -> None:
        for need in study.needs:
            add(find_study(need))
        if study not in ordered:
            ordered.append(study)

    for study in able:
        add(study)
    return ordered


def _run(planned: _Planned, arguments: argparse.Namespace) -> None:
    study, seeds = planned.study, planned.seeds
    common: dict[str, Any] = {
        "work": arguments.work, "keep_old": arguments.keep_old, "device": arguments.device,
        "precision": arguments.precision, "studies": registry.STUDIES,
    }  # fmt: skip
    handed = dict(planned.model)
    if study.live:
        handed["evidence"] = registry.evidence_of(seed=arguments.seed, device=arguments.device)
    result = run_study(
        study, arguments.preset, seeds, n_jobs=arguments.jobs, progress=not arguments.quiet,
        **common, **handed,
    )  # fmt: skip
    for file in _write(study, result, planned.path):
        print(file)
    if study.exports is not None and arguments.zoo is not None:
        kept = finished_seed(study, arguments.preset, seeds[0], seeds=seeds, **common)
        for folder in study.exports(kept, arguments.zoo):
            print(folder)


def _write(study: Study, result: Result, path: Path) -> list[Path]:
    """Write a result and its figures so that none stands beside one of another run."""
    with TemporaryDirectory() as folder:
        files = {path: result.save(Path(folder) / path.name).read_bytes()}
    stem = path.name.removesuffix(".json.gz")
    for end, figure in (study.figures(result) if study.figures else {}).items():
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, format="png")
        files[path.with_name(f"{stem}{end}.png")] = picture.getvalue()
    return write_together(files)


def _report(arguments: argparse.Namespace) -> None:
    from analyses.report.page import write_report  # plotting is imported only if needed

    if not arguments.overwrite:
        check_report(arguments.out, arguments.seed, arguments.device)
    path = write_report(
        arguments.out,
        seed=arguments.seed,
        device=arguments.device,
        progress=not arguments.quiet,
    )
    print(path)
