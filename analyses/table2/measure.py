"""Table 2: a prefix picks one of the skills that a one-layer, four-head model has.

The model is pretrained on an unlabelled mixture of four tasks, so that it must guess which one
is asked for; one prefix slot a task makes it do that task. The paper: 90-98 % with the prefix,
about 25 % without, at most 1 % on the other tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.seed_runs import (
    Rows,
    finished_seed,
    keep_toy,
    measure_seeds,
    score_rows,
    seed_folder,
)
from prefix_interp.models.host import Model
from prefix_interp.models.toy import ToyConfig, read_toy, save_toy
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.results import Result
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tuning.objective import has_fast_bfloat16
from prefix_interp.tuning.prefixes import PrefixFit, sweep_prefixes
from prefix_interp.tuning.presets import get_preset
from prefix_interp.tuning.train import pretrain

MODEL = ToyConfig(n_layers=1, n_heads=4, d_model=256, n_prefix=1, skip_ln1=True)
MIXTURE, NAME = "four_skills", "four-skills-1l4h"

# What the paper prints, in percent: mean and standard deviation. Rows: the model alone, then the
# prefix tuned for each skill; columns: the skills in the same order.
PAPER = {
    None: ((25, 13), (25, 12), (24, 11), (22, 7)),
    "sort_ascending": ((95, 2), (0, 0), (0, 0), (0, 0)),
    "sort_descending": ((0, 0), (90, 3), (1, 1), (1, 1)),
    "add_one": ((0, 0), (1, 3), (95, 6), (0, 1)),
    "add_two": ((0, 0), (0, 0), (1, 2), (98, 5)),
}


@dataclass(frozen=True)
class Trial:
    """One way to tune a prefix: every start at every rate, the lowest training loss counts."""

    parameterization: Parameterization
    init_std: float
    restarts: int
    lrs: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes for Table 2; what it leaves open comes from the preset itself."""

    pretrain_steps: int
    pretrain_lr: float
    prefix_steps: int
    trials: tuple[Trial, ...]
    n_test: int = 3200


PROTOCOLS = {
    # Without ln_1 a slot's norm counts. From N(0, 1) a fifth of the runs end in a bad
    # optimum, from N(0, 0.1^2) one in a hundred: the third trial keeps that on record.
    "fast": Protocol(8000, 2e-3, 500, (
        Trial("residual", 0.1, 3, (3e-2, 1e-1)),
        Trial("kv", 0.1, 2, (3e-2, 1e-1)),
        Trial("residual", 1.0, 3, (1e-1,)),
    )),
    "paper": Protocol(20_000, 5e-4, 30_000, (Trial("residual", 1.0, 1, (5e-5,)),)),
    "smoke": Protocol(30, 2e-3, 20, (
        Trial("residual", 0.1, 2, (1e-2, 1e-1)),
        Trial("kv", 0.1, 1, (1e-2,)),
    ), n_test=200),
}  # fmt: skip


def table2(
    preset: str = "fast",
    seeds: Sequence[int] = range(10),
    *,
    work: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return Table 2 measured on `seeds`.

    Each record is one model or prefix on one task: ``method`` (``pretrained``, ``prefix``, or
    one of the controls ``random prefix`` and ``norm-matched prefix``), ``tuned_on``,
    ``parameterization``, ``n_slots``, ``init_std``, ``start``, ``lr``, ``seed``, ``task``,
    ``train_loss``, ``evaluation``, and ``chosen``: whether its training loss is the lowest of
    its trial. Prefixes that were not chosen are scored on their own task alone. The other-task
    control is the matrix itself, off its diagonal.

    Args:
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        seeds: initialisation and data; each is a model of its own.
        work: folder for checkpoints and finished seeds, to resume after an interruption, and
            for the trained models and prefixes; None keeps nothing.
        n_jobs: processes; by default one a core.
        progress: show a bar.
    """
    get_preset(preset)
    settings = _settings(preset) | {"bfloat16_used": has_fast_bfloat16() and preset != "paper"}
    run_seed = partial(table2_seed, preset=preset, work=work)
    return measure_seeds(
        "table2", preset, seeds, run_seed, settings, n_jobs=n_jobs, progress=progress
    )


def _settings(preset: str) -> dict[str, Any]:
    protocol = asdict(PROTOCOLS[preset])
    protocol["trials"] = [t | {"lrs": list(t["lrs"])} for t in protocol["trials"]]
    return {"model": asdict(MODEL), "preset": asdict(get_preset(preset)), "protocol": protocol}


def table2_seed(seed: int, preset: str = "fast", work: str | Path | None = None) -> dict[str, Any]:
    """Return one seed's records and its seconds; finished work in `work` is taken from there."""
    folder = seed_folder(work, seed)
    return finished_seed(folder, _settings(preset), _Seed(seed, preset, folder).run)


class _Seed:
    """One seed's trainings in order, and the rows they give."""

    def __init__(self, seed: int, preset: str, folder: Path | None) -> None:
        self.seed, self.preset, self.folder = seed, preset, folder
        self.protocol, self.baseline = PROTOCOLS[preset], get_preset(preset).baseline
        self.rows: Rows = []

    def run(self) -> Rows:
        fit = pretrain(
            MODEL, MIXTURE, preset=self.preset, seed=self.seed, lr=self.protocol.pretrain_lr,
            steps=self.protocol.pretrain_steps, checkpoint=self._file("pretrain"), progress=False,
        )  # fmt: skip
        self._score("pretrained", fit.model, train_loss=fit.history["loss"].iloc[-1])
        if self.folder is not None:
            keep_toy(self.folder / NAME, fit, MIXTURE, self.preset, self.seed, self.rows)
        for trial in self.protocol.trials:
            for task in FOUR_SKILLS:
                self._trial(fit.model, trial, task)
        return self.rows

    def _trial(self, model: Model, trial: Trial, task: str) -> None:
        name = f"{task}-{trial.parameterization}-std-{trial.init_std:g}"
        fits = sweep_prefixes(
            model, task, 1, trial.lrs, parameterization=trial.parameterization,
            preset=self.preset, seed=self.seed, steps=self.protocol.prefix_steps,
            init_std=trial.init_std, restarts=trial.restarts, checkpoint=self._file(name),
            progress=False,
        )  # fmt: skip
        best = min(fits, key=lambda fit: fit.train_loss)
        for fit in fits:
            own = {"tuned_on": task, "init_std": trial.init_std, "start": fit.start,
                   "lr": fit.recipe.lr, "chosen": fit is best}  # fmt: skip
            self._score("prefix", model, fit.prefix, train_loss=fit.train_loss, **own)
        own = {"tuned_on": task, "init_std": trial.init_std}
        start = Prefix.random(model, 1, self.seed, trial.parameterization, trial.init_std)
        self._score("random prefix", model, start, **own)
        rng = derive_generator(self.seed, "norm-matched", name)
        self._score("norm-matched prefix", model, norm_matched(best.prefix, rng), **own)
        if self.folder is not None:
            self._keep(name, fits, best)

    def _keep(self, name: str, fits: Sequence[PrefixFit], best: PrefixFit) -> None:
        """Save the best prefix, and the best of each start to compare starts with."""
        assert self.folder is not None
        folder = self.folder / NAME / "prefixes"
        best.prefix.save(folder / name)
        for start in sorted({fit.start for fit in fits}):
            own = min((f for f in fits if f.start == start), key=lambda fit: fit.train_loss)
            own.prefix.save(self.folder / "starts" / f"{name}-start-{start}")

    def _score(
        self,
        method: str,
        model: Model,
        prefix: Prefix | None = None,
        *,
        tuned_on: str | None = None,
        init_std: float | None = None,
        start: int | None = None,
        lr: float | None = None,
        chosen: bool = True,
        train_loss: float | None = None,
    ) -> None:
        about = {
            "seed": self.seed, "method": method, "tuned_on": tuned_on, "init_std": init_std,
            "start": start, "lr": lr, "chosen": chosen,
        }  # fmt: skip
        tasks = FOUR_SKILLS if chosen or tuned_on is None else (tuned_on,)
        self.rows += score_rows(
            about, model, tasks, prefix, baseline=self.baseline, n=self.protocol.n_test,
            train_loss=train_loss,
        )  # fmt: skip

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / "checkpoints" / f"{name}.safetensors"


def table2_toy(seed: int, preset: str, table2_work: str | Path | None = None) -> Path:
    """Return the folder of one seed's model of Table 2, its prefixes beneath it.

    Args:
        seed: which one.
        preset: of Table 2.
        table2_work: what `table2` was given as `work`; by default ``work/table2-<preset>``.

    Raises:
        PrefixInterpError: that seed is not finished there.
    """
    root = Path("work") / f"table2-{preset}" if table2_work is None else Path(table2_work)
    if not (root / f"seed-{seed}" / "records.json").exists():
        raise PrefixInterpError(
            f"table2_work={str(root)!r} holds no finished seed {seed}; make it with prefix-interp "
            f"reproduce table2 --preset {preset}, or name the folder that has it"
        )
    return root / f"seed-{seed}" / NAME


def export_zoo(work: str | Path, zoo: str | Path, seed: int = 0) -> list[Path]:
    """Copy one seed's model and prefixes from a work folder into a zoo; return their folders.

    Args:
        work: what `table2` was given, after it has finished.
        zoo: e.g. ``prefix_interp/models/trained``.
        seed: which one; the shipped zoo is seed 0, not a seed picked by its result.

    Raises:
        PrefixInterpError: the seed is not in the work folder, or the zoo cannot be written.
    """
    source, target = Path(work) / f"seed-{seed}", Path(zoo) / NAME
    model, metadata = read_toy(source / NAME)
    copies = [save_toy(model, target, metadata)]
    for task in FOUR_SKILLS:
        for kind, name in (("residual", task), ("kv", f"{task}-kv-1")):
            prefix = Prefix.load(source / NAME / "prefixes" / f"{task}-{kind}-std-0.1")
            copies.append(prefix.save(target / "prefixes" / name))
    return copies
