"""Table 2, one seed: a prefix picks one of the skills that a one-layer, four-head model has.

The model is pretrained on an unlabelled mixture of four tasks, so it must guess the task. One
prefix slot per task makes it do that task. The paper: 90-98 % with the prefix, about 25 % without,
at most 1 % on the other tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from analyses.kept import Kept
from analyses.scores import score_rows
from analyses.study import Job, Rows
from analyses.table2.models import (
    INIT_STD,
    MIXTURE,
    MODEL,
    NAME,
    PREFIXES,
    STARTS,
    start_name,
    variant,
)
from prefix_interp.models.host import Model
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tuning.contexts import ContextFit, sweep
from prefix_interp.tuning.recipes import preset_settings
from prefix_interp.tuning.train import ModelFit, pretrain


@dataclass(frozen=True)
class Trial:
    """One way to tune a prefix: every start at every rate; the lowest training loss counts."""

    parameterization: Parameterization
    init_std: float
    restarts: int
    lrs: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes; all other settings come from the preset itself."""

    pretrain_steps: int
    pretrain_lr: float
    prefix_steps: int
    trials: tuple[Trial, ...]
    n_test: int = 3200


PROTOCOLS = {
    # Without ln_1 a slot's norm matters. From N(0, 1) a fifth of the runs end in a bad optimum,
    # from N(0, 0.1^2) one in a hundred; the third trial keeps this on record.
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


def settings(preset: str) -> dict[str, Any]:
    """Return what a result records about a preset besides the protocol."""
    return {
        "model": asdict(MODEL),
        "preset": preset_settings(preset),
    }


def measure(job: Job) -> dict[str, Rows]:
    """Return one seed's table ``rows``: one row per model or prefix and task.

    Keys: ``method`` (``pretrained``, ``prefix``, or one of the controls ``random prefix`` and
    ``norm-matched prefix``), ``tuned_on``, ``parameterization``, ``n_slots``, ``init_std``,
    ``start``, ``lr``, ``seed``, ``task``, ``train_loss``, ``evaluation``, and ``chosen``: whether
    its training loss is the lowest of its trial. Other prefixes are scored only on their own task.
    The matrix itself, off its diagonal, is the other-task control.

    Args:
        job: the seed, its protocol, and the place for its model and prefixes.
    """
    return {"rows": _Seed(job).run()}


class _Seed:
    """One seed's trainings in order, and their rows."""

    def __init__(self, job: Job) -> None:
        self.job, self.protocol = job, job.protocol
        self.common: dict[str, Any] = {"seed": job.seed, "progress": job.progress}
        size = job.protocol
        self.recipe = job.recipe("pretrain", lr=size.pretrain_lr, steps=size.pretrain_steps)
        self.rows: Rows = []

    def run(self) -> Rows:
        file = self.job.checkpoint("pretrain")
        fit = pretrain(MODEL, MIXTURE, recipe=self.recipe, checkpoint=file, **self.common)
        loss, part = fit.history["loss"].iloc[-1], self.job.part
        work = partial(self._score, "pretrained", fit.model, train_loss=loss)
        part("pretrained", self.rows, work)
        self._keep_toy(fit)
        for trial in self.protocol.trials:
            for task in FOUR_SKILLS:
                name = variant(task, trial.parameterization, trial.init_std)
                part(name, self.rows, partial(self._trial, fit.model, trial, task))
        return self.rows

    def _trial(self, model: Model, trial: Trial, task: str) -> None:
        kind, std, seed = trial.parameterization, trial.init_std, self.job.seed
        name = variant(task, kind, std)
        recipe = self.job.recipe("prefix", steps=self.protocol.prefix_steps, init_std=std)
        starts = Prefix.random_starts(model, 1, trial.restarts, seed, kind, std)
        fits = sweep(
            model, task, starts, trial.lrs, recipe=recipe, checkpoint=self.job.checkpoint(name),
            **self.common,
        )  # fmt: skip
        best = min(fits, key=lambda fit: fit.train_loss)
        own: dict[str, Any] = {"tuned_on": task, "init_std": std}
        for fit in fits:
            self._score(
                "prefix", model, fit.prefix, train_loss=fit.train_loss, start=fit.start,
                lr=fit.recipe.lr, chosen=fit is best, **own,
            )  # fmt: skip
        self._score("random prefix", model, Prefix.random(model, 1, seed, kind, std), **own)
        rng = derive_generator(seed, "norm-matched", name)
        self._score("norm-matched prefix", model, norm_matched(best.prefix, rng), **own)
        self._keep_prefixes(name, fits, best)

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
            "seed": self.job.seed, "method": method, "tuned_on": tuned_on, "init_std": init_std,
            "start": start, "lr": lr, "chosen": chosen,
        }  # fmt: skip
        tasks = FOUR_SKILLS if chosen or tuned_on is None else (tuned_on,)
        self.rows += score_rows(
            about, model, tasks, prefix, baseline=self.recipe.baseline,
            n=self.protocol.n_test, train_loss=train_loss,
        )  # fmt: skip

    def _keep_toy(self, fit: ModelFit) -> None:
        if self.job.keeps is not None:
            scores = [row["evaluation"] for row in self.rows]  # so far only those of this model
            self.job.keeps.save_toy(
                NAME, fit, task=MIXTURE, preset=self.job.preset, seed=self.job.seed,
                evaluation=scores,
            )  # fmt: skip

    def _keep_prefixes(self, trial: str, fits: Sequence[ContextFit], best: ContextFit) -> None:
        """Keep the best prefix, and the best of each start for the comparison of starts."""
        if self.job.keeps is None:
            return
        self.job.keeps.save_context(PREFIXES, trial, best.prefix)
        for start in sorted({fit.start for fit in fits}):
            own = min((f for f in fits if f.start == start), key=lambda fit: fit.train_loss)
            self.job.keeps.save_context(STARTS, start_name(trial, start), own.prefix)


def export_zoo(kept: Kept, zoo: Path) -> list[Path]:
    """Copy one seed's model and prefixes into a zoo; return their folders.

    Args:
        kept: models of a finished seed; the shipped zoo is seed 0, not a seed picked by its result.
        zoo: e.g. ``prefix_interp/models/trained``.

    Raises:
        PrefixInterpError: the zoo cannot be written.
    """
    copies = [kept.export_toy(NAME, zoo / NAME)]
    for task in FOUR_SKILLS:
        for kind, name in (("residual", task), ("kv", f"{task}-kv-1")):
            prefix = kept.context(PREFIXES, variant(task, kind, INIT_STD))
            copies.append(prefix.save(zoo / NAME / "prefixes" / name))
    return copies
