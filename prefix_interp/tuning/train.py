"""Pretraining, full fine-tuning and prefix-tuning, all on the one loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.dropout import dropout_hooks
from prefix_interp.models.toy import ToyConfig, build_toy, clone, model_id, reserved_slots
from prefix_interp.prefixes.baselines import fast_baseline
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.inject import mixture_hooks
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.prefixes.support import to_keys_values
from prefix_interp.seeds import derive_generator, derive_seed
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

    model: HookedTransformer
    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe


@dataclass(frozen=True)
class PrefixFit:
    """A tuned prefix.

    Attributes:
        prefix: bound to its model.
        history: step, run, loss, lr.
        evaluation: on the task it was tuned for.
        recipe: how it was tuned.
        start: which of the random starts it came from, 0-based.
    """

    prefix: Prefix
    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe
    start: int = 0

    @property
    def train_loss(self) -> float:
        """Return the mean training loss since the last but one logging point, in nats."""
        return float(self.history["loss"].iloc[-1])


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
    model: HookedTransformer,
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
    model: HookedTransformer,
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
        n_prefix = reserved_slots(model) or 0
        tokens, placing = fast_baseline(model, n_prefix, batch.tokens, preset.baseline)
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
            "content_start": reserved_slots(model),
            "baseline": preset.baseline,
        },
        checkpoint=checkpoint,
        progress=progress,
        description=f"{what} {task.name}",
    )
    model.eval()
    score = evaluate(model, task, seed=seed, baseline=preset.baseline)
    return ModelFit(model, history, score, recipe)


def tune_prefix(
    model: HookedTransformer,
    task: Task | str,
    n_prefix: int = 1,
    *,
    parameterization: Parameterization | str = "residual",
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    init_std: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> PrefixFit:
    """Return a prefix tuned on `task` while the weights of `model` stay frozen.

    Args:
        model: a supported HookedTransformer.
        task: a task or its name.
        n_prefix: slots, at least 1.
        parameterization: ``"residual"`` (the paper's) or ``"kv"`` (PEFT's).
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        seed: initialisation, normal noise, and data.
        steps: instead of the preset's.
        lr: instead of the preset's.
        batch_size: instead of the preset's.
        init_std: standard deviation of the start, instead of the preset's 1.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, values out of range, an unsupported model, a loss that
            is not finite.
    """
    rate = get_preset(preset).prefix.lr if lr is None else lr
    return sweep_prefixes(
        model,
        task,
        n_prefix,
        [rate],
        parameterization=parameterization,
        preset=preset,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        init_std=init_std,
        checkpoint=checkpoint,
        progress=progress,
    )[0]


def sweep_prefixes(
    model: HookedTransformer,
    task: Task | str,
    n_prefix: int,
    lrs: Sequence[float],
    *,
    parameterization: Parameterization | str = "residual",
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    batch_size: int | None = None,
    init_std: float | None = None,
    restarts: int = 1,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> list[PrefixFit]:
    """Return one tuned prefix a start and learning rate, trained side by side.

    The prefixes are stacked on the batch axis and see the same data; see `tune_prefix` for the
    arguments. Take the one with the lowest `train_loss`, and say how many there were: some
    starts end in a bad optimum.

    Args:
        model: a supported HookedTransformer.
        task: a task or its name.
        n_prefix: slots, at least 1.
        lrs: peak learning rates, at least one, all different.
        parameterization: ``"residual"`` or ``"kv"``.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        seed: initialisation and data.
        steps: instead of the preset's.
        batch_size: instead of the preset's.
        init_std: standard deviation of the starts, instead of the preset's 1.
        restarts: random starts; each is tuned at every rate.
        checkpoint: file to save to and resume from.
        progress: show a bar.
    """
    task, chosen = as_task(task), get_preset(preset)
    check_positive("restarts", restarts)
    check_positive("n_prefix", n_prefix)
    check_choice("parameterization", parameterization, get_args(Parameterization))
    if not lrs or len(set(lrs)) != len(lrs):
        raise PrefixInterpError(f"lrs={list(lrs)!r} must hold at least one rate, all different")
    recipes = [
        adjusted(chosen.prefix, steps=steps, lr=r, batch_size=batch_size, init_std=init_std)
        for r in lrs
    ]
    recipe = recipes[0]
    check_free(model)
    check_room(model, task)
    starts = [
        Prefix.random(
            model,
            n_prefix,
            derive_seed(seed, "restart", i) if i else seed,
            parameterization,
            recipe.init_std,
        )
        for i in range(restarts)
    ]
    grid = [(i, each) for i in range(restarts) for each in recipes]
    runs = [_prefix_run(starts[i], f"start={i} lr={r.lr:g}", r.lr) for i, r in grid]

    def loss(batch: Batch, step: int) -> Float[Tensor, " run"]:
        stacked = {
            name: torch.stack([run.parameters[name] for run in runs]) for name in starts[0].tensors
        }
        repeated = Batch(*(x.repeat(len(runs), *[1] * (x.ndim - 1)) for x in batch))
        hooks = mixture_hooks(model, to_keys_values(model, stacked))
        losses = sequence_losses(model, task, repeated, recipe, hooks)
        return losses.unflatten(0, (len(runs), -1)).mean(dim=-1)

    with frozen(model), _evaluation_mode(model):
        history = optimise(
            runs,
            loss,
            task,
            recipe,
            seed=seed,
            identity={
                "model": model_id(model),
                "content_start": reserved_slots(model),
                "prefix": parameterization,
                "slots": n_prefix,
                "starts": restarts,
            },
            checkpoint=checkpoint,
            progress=progress,
            description=f"{parameterization} prefix, {n_prefix} slots, {task.name}",
        )
    fits = []
    for run, (start, each) in zip(runs, grid, strict=True):
        metadata = {
            "task": task.name,
            "preset": preset,
            "seed": seed,
            "start": start,
            "recipe": each.to_dict(),
        }
        tensors = {k: v.detach().clone() for k, v in run.parameters.items()}
        prefix = Prefix(parameterization, **tensors, model_id=model_id(model), metadata=metadata)
        own = history[history["run"] == run.label].reset_index(drop=True)
        score = evaluate(model, task, prefix, seed=seed)
        fits.append(PrefixFit(prefix, own, score, each, start))
    return fits


def _prefix_run(start: Prefix, label: str, lr: float) -> Run:
    parameters = {k: v.detach().clone().requires_grad_(True) for k, v in start.tensors.items()}
    return Run(label, parameters, lr, frozenset(parameters))


@contextmanager
def _evaluation_mode(model: HookedTransformer) -> Iterator[None]:
    training = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(training)


@contextmanager
def frozen(model: HookedTransformer) -> Iterator[None]:
    """Spare the weights their gradients inside the block; which had them is put back after."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        model.requires_grad_(False)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
