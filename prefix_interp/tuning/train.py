"""Pretraining and full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from prefix_interp.models.dropout import dropout_hooks
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import clone, model_id
from prefix_interp.models.toy import ToyConfig, build_toy
from prefix_interp.prefixes.baselines import fast_baseline
from prefix_interp.prefixes.guard import check_free
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.evaluate import Evaluation, as_task, evaluate
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.objective import check_room, sequence_losses
from prefix_interp.tuning.presets import Preset, Recipe, adjusted, get_preset


@dataclass(frozen=True)
class ModelFit:
    """A trained model.

    Attributes:
        model: in evaluation mode.
        history: step, run, loss, lr.
        evaluation: on the task it was trained on.
        recipe: how it was trained.
    """

    model: Model
    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe


def pretrain(
    cfg: ToyConfig,
    task: Task | str,
    *,
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> ModelFit:
    """Return a toy trained on `task` from scratch.

    Args:
        cfg: the shape.
        task: a task or its name.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``; also decides what stands at the slots
            (attended placeholders in ``"paper"``, nothing otherwise).
        seed: initialisation and data.
        steps: instead of the preset's.
        lr: instead of the preset's.
        batch_size: instead of the preset's.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, values out of range, a loss that is not finite.
    """
    task, chosen = as_task(task), get_preset(preset)
    recipe = adjusted(chosen.pretrain, steps=steps, lr=lr, batch_size=batch_size)
    model = build_toy(cfg, seed)
    return _train_weights(model, task, chosen, recipe, seed, checkpoint, progress, "pretraining")


def fine_tune(
    model: Model,
    task: Task | str,
    *,
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> ModelFit:
    """Return a copy of `model` with all its weights trained on `task`.

    Args:
        model: where to start; it stays as it is.
        task: a task or its name.
        preset: see `pretrain`.
        seed: data.
        steps: instead of the preset's.
        lr: instead of the preset's.
        batch_size: instead of the preset's.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: as `pretrain`.
    """
    task, chosen = as_task(task), get_preset(preset)
    recipe = adjusted(chosen.fine_tune, steps=steps, lr=lr, batch_size=batch_size)
    return _train_weights(
        clone(model), task, chosen, recipe, seed, checkpoint, progress, "fine-tuning"
    )


def _train_weights(
    model: Model,
    task: Task,
    preset: Preset,
    recipe: Recipe,
    seed: int,
    checkpoint: str | Path | None,
    progress: bool,
    what: str,
) -> ModelFit:
    check_free(model)
    check_room(model, task)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    # minGPT decays the matrices of its linear layers and nothing else.
    matrices = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U")
    decayed = frozenset(n for n in parameters if n.rsplit(".", 1)[-1].lstrip("_") in matrices)
    start = model_id(model)

    def loss(batch: Batch, step: int) -> Tensor:
        rng = derive_generator(seed, "dropout", what, step)
        hooks = dropout_hooks(model, recipe.dropout, rng)
        n_slots = host_of(model).n_reserved or 0
        tokens, placing = fast_baseline(model, n_slots, batch.tokens, preset.baseline)
        batch = batch._replace(tokens=tokens)
        return sequence_losses(model, task, batch, recipe, [*placing, *hooks]).mean()[None]

    model.train()
    history = optimise(
        [Run("weights", parameters, recipe.lr, decayed)],
        loss,
        task,
        recipe,
        seed=seed,
        identity={
            "what": what,
            "model": start,
            "content_start": host_of(model).n_reserved,
            "baseline": preset.baseline,
        },
        checkpoint=checkpoint,
        progress=progress,
        description=f"{what} {task.name}",
    )
    model.eval()
    score = evaluate(model, task, seed=seed, baseline=preset.baseline)
    return ModelFit(model, history, score, recipe)
