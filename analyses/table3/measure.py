"""Table 3, one seed: prefixes of a deep model for its own skills, for two in a row, for a new one.

The model is pretrained on an unlabelled mixture of four tasks. A prefix of ten slots is tuned for
each of them, for ascending-then-+1, which combines two, and for the double histogram, which it has
never seen. The paper (40 layers): 100, 93 and 1 %; its notebook (4 layers): 100, 72 and 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from analyses.kept import Kept
from analyses.scores import score_rows
from analyses.study import Job, Rows
from prefix_interp.models.host import Model
from prefix_interp.models.toy import ToyConfig
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import FOUR_SKILLS, get_task
from prefix_interp.tuning.content_blind import content_blind_log_probs
from prefix_interp.tuning.contexts import sweep
from prefix_interp.tuning.evaluate import scored
from prefix_interp.tuning.recipes import preset_settings
from prefix_interp.tuning.train import ModelFit, pretrain

MIXTURE = "four_skills"
COMBINED, NEW = "sort_ascending_add_one", "double_histogram"
TASKS = (*FOUR_SKILLS, COMBINED, NEW)
PREFIXES = "prefixes"  # group of the kept contexts


@dataclass(frozen=True)
class Trial:
    """One way to tune a prefix: every start at every rate; the lowest training loss counts.

    For a task that the model was not pretrained on, the best start and rate are tuned once more,
    from the beginning, for longer.

    Attributes:
        parameterization: ``"residual"`` or ``"kv"``.
        lrs: learning rates.
        steps: of every start and rate.
        steps_unseen: of the longer run.
        restarts: starts, each tuned at every rate.
    """

    parameterization: Parameterization
    lrs: tuple[float, ...]
    steps: int
    steps_unseen: int
    restarts: int = 1


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes; all other settings come from the preset itself.

    Attributes:
        model: the toy that is pretrained.
        pretrain_steps: of pretraining.
        pretrain_lr: of pretraining.
        trials: the prefixes that are tuned for each task.
        n_slots: of each prefix.
        n_test: test sequences.
        n_count: training sequences on which the content-blind rule is counted.
    """

    model: ToyConfig
    pretrain_steps: int
    pretrain_lr: float
    trials: tuple[Trial, ...]
    n_slots: int = 10
    n_test: int = 3200
    n_count: int = 400_000


def toy(n_layers: int, n_slots: int = 10) -> ToyConfig:
    """Return the shape of the paper's deep models: 4 heads, width 256, all norms."""
    return ToyConfig(n_layers=n_layers, n_heads=4, d_model=256, n_prefix=n_slots)


_LRS = (1e-2, 3e-2, 1e-1)
PROTOCOLS = {
    "fast": Protocol(toy(4), 8000, 1e-3, (
        Trial("residual", _LRS, 500, 3000), Trial("kv", _LRS, 500, 3000),
    )),
    "paper": Protocol(toy(4), 40_000, 5e-4, (Trial("residual", (5e-5,), 20_000, 500_000),)),
    "smoke": Protocol(replace(toy(2, 2), d_model=32), 20, 2e-3, (
        Trial("residual", (1e-2, 1e-1), 3, 4), Trial("kv", (1e-2,), 3, 4),
    ), n_slots=2, n_test=100, n_count=10_000),
}  # fmt: skip

# The paper's depth. A step costs ten times as much, so there are fewer rates and steps.
DEEP_PROTOCOLS = {
    "fast": Protocol(toy(40), 4000, 5e-4, (
        Trial("residual", (1e-2, 3e-2), 300, 1500), Trial("kv", (1e-2, 3e-2), 300, 1500),
    )),
    "smoke": replace(PROTOCOLS["smoke"], model=replace(PROTOCOLS["smoke"].model, n_layers=3)),
}  # fmt: skip


def settings(preset: str, protocols: Mapping[str, Protocol] = PROTOCOLS) -> dict[str, Any]:
    """Return what a result records about a preset besides the protocol."""
    return {"model": asdict(protocols[preset].model), "preset": preset_settings(preset)}


def measure(job: Job) -> dict[str, Rows]:
    """Return one seed's table ``rows``: one row per model or prefix and task.

    Keys: ``method`` (``pretrained``, ``content-blind``, ``prefix``, or one of the controls
    ``random prefix`` and ``norm-matched prefix``), ``tuned_on``, ``parameterization``, ``n_slots``,
    ``n_layers``, ``start``, ``lr``, ``steps``, ``seed``, ``task``, ``train_loss``, ``evaluation``,
    and ``chosen``: whether its training loss is the lowest of its trial. Other prefixes are scored
    only on their own task.

    Args:
        job: the seed, its protocol, and the place for its model and prefixes.
    """
    rows: Rows = []
    fit = pretrained(job)
    scores = partial(_score, job, rows, fit.model)
    loss = float(fit.history["loss"].iloc[-1])
    job.part("pretrained", rows, partial(scores, "pretrained", TASKS, train_loss=loss))
    if job.keeps is not None:
        seen = [row["evaluation"] for row in rows if row["task"] in FOUR_SKILLS]
        job.keeps.save_toy(
            toy_name(job.protocol.model), fit, task=MIXTURE, preset=job.preset, seed=job.seed,
            evaluation=seen,
        )  # fmt: skip
    job.part("content-blind", rows, partial(_blind, job, rows))
    for task in TASKS:
        for trial in job.protocol.trials:
            name = f"{task}-{trial.parameterization}"
            job.part(name, rows, partial(_trial, job, rows, fit.model, trial, task))
    return {"rows": rows}


def pretrained(job: Job) -> ModelFit:
    """Return the model of a seed, pretrained on the mixture.

    Args:
        job: with a `Protocol`.
    """
    size = job.protocol
    recipe = job.recipe("pretrain", lr=size.pretrain_lr, steps=size.pretrain_steps)
    return pretrain(
        size.model, MIXTURE, recipe=recipe, checkpoint=job.checkpoint("pretrain"),
        seed=job.seed, progress=job.progress,
    )  # fmt: skip


def toy_name(config: ToyConfig) -> str:
    """Return the name of a model in the zoo, e.g. ``four-skills-4l4h``."""
    return f"four-skills-{config.n_layers}l{config.n_heads}h"


def _blind(job: Job, rows: Rows) -> None:
    """Add the best rule that does not look at the content: its last token and its place decide."""
    for task in map(get_task, TASKS):
        batch = task.sample(job.protocol.n_test, "test", job.seed)
        log_probs = content_blind_log_probs(task, batch, job.seed, job.protocol.n_count)
        right = log_probs.argmax(dim=-1) == batch.answers
        loss = -log_probs.gather(-1, batch.answers[..., None])[..., 0].mean(dim=-1)
        rows.append({
            **_about(job, "content-blind"), "parameterization": None, "n_slots": None,
            "task": task.name, "baseline": "none", "train_loss": None, "test_seed": job.seed,
            "evaluation": scored(task.name, batch, right, loss).to_dict(),
        })  # fmt: skip


def _trial(job: Job, rows: Rows, model: Model, trial: Trial, task: str) -> None:
    kind, name = trial.parameterization, f"{task}-{trial.parameterization}"
    recipe = job.recipe("prefix", steps=trial.steps)
    starts = Prefix.random_starts(
        model, job.protocol.n_slots, trial.restarts, job.seed, kind, recipe.init_std
    )
    common = {"seed": job.seed, "progress": job.progress}
    fits = sweep(
        model, task, starts, trial.lrs, recipe=recipe, checkpoint=job.checkpoint(name), **common
    )
    best = min(fits, key=lambda fit: fit.train_loss)
    if task not in FOUR_SKILLS:
        (longer,) = sweep(
            model, task, [starts[best.start]], [best.recipe.lr],
            recipe=replace(recipe, steps=trial.steps_unseen),
            checkpoint=job.checkpoint(f"{name}-longer"), **common,
        )  # fmt: skip
        about = {**longer.context.metadata, "start": best.start}
        context = replace(longer.context, metadata=about)
        fits.append(replace(longer, start=best.start, context=context))
        best = min(fits, key=lambda fit: fit.train_loss)
    own = {"tuned_on": task}
    for fit in fits:
        _score(
            job, rows, model, "prefix", TASKS if fit is best else (task,), fit.prefix,
            train_loss=fit.train_loss, start=fit.start, lr=fit.recipe.lr, chosen=fit is best,
            steps=fit.recipe.steps, **own,
        )  # fmt: skip
    rng = derive_generator(job.seed, "norm-matched", name)
    controls = {
        "random prefix": starts[0],
        "norm-matched prefix": norm_matched(best.prefix, rng),
    }
    for method, prefix in controls.items():
        _score(job, rows, model, method, (task,), prefix, steps=best.recipe.steps, **own)
    if job.keeps is not None:
        job.keeps.save_context(PREFIXES, name, best.prefix)


def _score(
    job: Job,
    rows: Rows,
    model: Model,
    method: str,
    tasks: tuple[str, ...],
    prefix: Prefix | None = None,
    *,
    train_loss: float | None = None,
    tuned_on: str | None = None,
    steps: int | None = None,
    start: int | None = None,
    lr: float | None = None,
    chosen: bool = True,
) -> None:
    about = _about(job, method) | {
        "tuned_on": tuned_on,
        "steps": steps,
        "start": start,
        "lr": lr,
        "chosen": chosen,
    }
    rows += score_rows(
        about, model, tasks, prefix, n=job.protocol.n_test, train_loss=train_loss,
        baseline=job.recipe("pretrain").baseline,
    )  # fmt: skip


def _about(job: Job, method: str) -> dict[str, Any]:
    return {
        "seed": job.seed, "method": method, "tuned_on": None, "steps": None, "start": None,
        "lr": None, "chosen": True, "n_layers": job.protocol.model.n_layers,
    }  # fmt: skip


def export_zoo(kept: Kept, zoo: Path) -> list[Path]:
    """Copy one seed's model and prefixes into a zoo; return their folders.

    Args:
        kept: models of a finished seed; the shipped zoo is seed 0, not a seed picked by its result.
        zoo: e.g. ``prefix_interp/models/trained``.

    Raises:
        PrefixInterpError: the zoo cannot be written.
    """
    name = toy_name(PROTOCOLS["fast"].model)
    copies = [kept.export_toy(name, zoo / name)]
    for key, prefix in kept.contexts(PREFIXES).items():
        copies.append(prefix.save(zoo / name / "prefixes" / key))
    return copies
