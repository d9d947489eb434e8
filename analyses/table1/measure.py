"""Table 1, one seed: a model that sorts ascending is fine-tuned and prefix-tuned to descend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analyses.kept import Kept
from analyses.scores import score_rows
from analyses.study import Job, Rows
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model
from prefix_interp.models.model import clone
from prefix_interp.models.toy import ToyConfig
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tuning.contexts import ContextFit, sweep, tune_prefix
from prefix_interp.tuning.recipes import preset_settings
from prefix_interp.tuning.train import ModelFit, fine_tune, pretrain

MODEL = ToyConfig(n_layers=1, n_heads=1, d_model=96, n_prefix=1)
OLD, NEW = "sort_ascending", "sort_descending"
PRETRAINED, FINE_TUNED = "sort-ascending-1l1h", "sort-descending-1l1h-fine-tuned"
GROUP = "prefixes"  # group of the kept contexts


@dataclass(frozen=True)
class Sweep:
    """One set of prefixes tuned side by side, one per learning rate."""

    parameterization: Parameterization
    n_slots: int
    lrs: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes; steps and rates for training weights come from the preset itself.

    Attributes:
        sweeps: the prefixes to tune.
        other_task: whether to test a prefix tuned on the old task on the new one. Under the paper's
            protocol this would double the prefix steps (80,000 per seed and sweep), so it is left
            out there.
        late: steps of fine-tuning after which the weights are scored, one by one and averaged.
        n_test: number of test sequences.
    """

    sweeps: tuple[Sweep, ...]
    other_task: bool = True
    late: tuple[int, ...] = ()
    n_test: int = 3200


_WIDE = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
PROTOCOLS = {
    "fast": Protocol(tuple(Sweep(p, n, _WIDE) for p in ("residual", "kv") for n in (1, 10))),
    # As published: one residual vector, one rate. The other variants are in the fast preset. At a
    # constant rate the last weights differ much from those a little earlier, so these count too.
    "paper": Protocol(
        (Sweep("residual", 1, (5e-4,)),), other_task=False, late=tuple(range(8000, 10_001, 200))
    ),
    "smoke": Protocol(
        tuple(Sweep(p, n, (1e-2, 1e-1)) for p in ("residual", "kv") for n in (1, 2)),
        late=(10, 20),
        n_test=200,
    ),
}  # fmt: skip


def settings(preset: str) -> dict[str, Any]:
    """Return what a result records about a preset besides the protocol."""
    return {
        "model": asdict(MODEL),
        "preset": preset_settings(preset),
    }


def measure(job: Job) -> dict[str, Rows]:
    """Return one seed's table ``rows``: one row per model or prefix and task.

    Keys: ``method`` (``pretrained``, ``fine-tuned``, ``prefix`` or one of the controls ``random
    prefix``, ``norm-matched prefix``, ``other-task prefix``), ``parameterization``, ``n_slots``,
    ``lr``, ``seed``, ``task``, ``train_loss``, ``evaluation``, and ``chosen``: whether its final
    training loss is the lowest of its sweep. ``fine-tuned, late`` has rows for each of the late
    ``step``, ``fine-tuned, averaged`` those of the mean of their weights.

    Args:
        job: the seed, its protocol, and the place for models.
    """
    return {"rows": _Seed(job).run()}


class _Seed:
    """One seed's trainings in order, and their rows."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.common: dict[str, Any] = {"seed": job.seed, "progress": job.progress}
        self.rows: Rows = []
        self.late: dict[int, dict[str, Tensor]] = {}

    def run(self) -> Rows:
        job, common = self.job, self.common
        old = pretrain(
            MODEL, OLD, recipe=job.recipe("pretrain"), checkpoint=job.checkpoint("pretrain"),
            **common,
        )  # fmt: skip
        job.part("pretrained", self.rows, partial(self._weights, "pretrained", old))
        self._keep_toy(PRETRAINED, old, OLD)
        tuned = fine_tune(
            old.model, NEW, recipe=job.recipe("fine_tune"), checkpoint=job.checkpoint("fine-tune"),
            at_step=self._keep, **common,
        )  # fmt: skip
        job.part("fine-tuned", self.rows, partial(self._weights, "fine-tuned", tuned))
        self._keep_toy(FINE_TUNED, tuned, NEW)
        if job.protocol.late:
            job.part("fine-tuned-late", self.rows, partial(self._late, tuned.model))
        for each in job.protocol.sweeps:
            job.part(f"sweep-{_name(each)}", self.rows, partial(self._sweep, old.model, each))
        return self.rows

    def _keep(self, step: int, model: Model) -> None:
        """Keep the weights after a late step."""
        if step in self.job.protocol.late:
            own = {name: p.detach().clone() for name, p in model.named_parameters()}
            self._kept(step, lambda: own)

    def _kept(self, step: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if step not in self.late:
            keeps = self.job.keeps
            self.late[step] = make() if keeps is None else keeps.tensors(f"late-{step}", make)
        return self.late[step]

    def _late(self, tuned: Model) -> None:
        """Score the weights after each late step, and their mean."""
        model, steps, found = clone(tuned), self.job.protocol.late, []
        for step in steps:
            found.append(self._kept(step, partial(_lost, step)))
            self._score("fine-tuned, late", _loaded(model, found[-1]), step=step)
        mean = {name: torch.stack([own[name] for own in found]).mean(0) for name in found[0]}
        self._score("fine-tuned, averaged", _loaded(model, mean), step=steps[-1])

    def _weights(self, method: str, fit: ModelFit) -> None:
        self._score(method, fit.model, train_loss=fit.history["loss"].iloc[-1])

    def _sweep(self, model: Model, each: Sweep) -> None:
        job, name = self.job, _name(each)
        starts = Prefix.random_starts(model, each.n_slots, 1, job.seed, each.parameterization)
        fits = sweep(
            model, NEW, starts, each.lrs, recipe=job.recipe("prefix"),
            checkpoint=job.checkpoint(name), **self.common,
        )  # fmt: skip
        losses = [fit.train_loss for fit in fits]
        best = losses.index(min(losses))
        for i, fit in enumerate(fits):
            self._score(
                "prefix", model, fit.prefix, lr=fit.recipe.lr,
                train_loss=losses[i], chosen=i == best,
            )  # fmt: skip
        self._controls(model, each, fits[best])
        if job.keeps is not None:
            job.keeps.save_context(GROUP, f"{NEW}-{name}", fits[best].prefix)

    def _controls(self, model: Model, each: Sweep, fit: ContextFit) -> None:
        kind, n_slots, seed = each.parameterization, each.n_slots, self.job.seed
        rng = derive_generator(seed, "norm-matched", kind, n_slots)
        self._score("random prefix", model, Prefix.random(model, n_slots, seed, kind))
        self._score("norm-matched prefix", model, norm_matched(fit.prefix, rng))
        if not self.job.protocol.other_task:
            return
        file = self.job.checkpoint(f"other-task-{kind}-{n_slots}")
        other = tune_prefix(
            model, OLD, n_slots, parameterization=kind, recipe=fit.recipe, checkpoint=file,
            **self.common,
        )  # fmt: skip
        self._score(
            "other-task prefix", model, other.prefix, lr=fit.recipe.lr, train_loss=other.train_loss
        )

    def _score(
        self,
        method: str,
        model: Model,
        prefix: Prefix | None = None,
        *,
        lr: float | None = None,
        train_loss: float | None = None,
        chosen: bool = True,
        step: int | None = None,
    ) -> None:
        job = self.job
        at = {} if step is None else {"step": step}
        self.rows += score_rows(
            {"seed": job.seed, "method": method, "lr": lr, "chosen": chosen, **at},
            model, (OLD, NEW), prefix, baseline=job.recipe("pretrain").baseline,
            n=job.protocol.n_test, train_loss=train_loss,
        )  # fmt: skip

    def _keep_toy(self, name: str, fit: ModelFit, task: str) -> None:
        if self.job.keeps is not None:
            # The two rows just measured: this model on both tasks.
            scores = [row["evaluation"] for row in self.rows[-2:]]
            self.job.keeps.save_toy(
                name, fit, task=task, preset=self.job.preset, seed=self.job.seed, evaluation=scores
            )


def _loaded(model: Model, weights: Mapping[str, Tensor]) -> Model:
    """Return the model, with other weights."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def _lost(step: int) -> dict[str, Tensor]:
    raise PrefixInterpError(
        f"the weights of step {step} are not among the kept work, but the training is; delete the "
        "seed's folder"
    )


def _name(each: Sweep) -> str:
    return f"{each.parameterization}-{each.n_slots}"


def export_zoo(kept: Kept, zoo: Path) -> list[Path]:
    """Copy one seed's models and prefixes into a zoo; return their folders.

    Args:
        kept: models of a finished seed; the shipped zoo is seed 0, not a seed picked by its result.
        zoo: e.g. ``prefix_interp/models/trained``.

    Raises:
        PrefixInterpError: the zoo cannot be written.
    """
    copies = [kept.export_toy(name, zoo / name) for name in (PRETRAINED, FINE_TUNED)]
    for name, prefix in kept.contexts(GROUP).items():
        # The paper's own kind of prefix is named by its task only.
        key = NEW if name == f"{NEW}-residual-1" else name
        copies.append(prefix.save(zoo / PRETRAINED / "prefixes" / key))
    return copies
