"""Prefix-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prefix_interp.errors import check_choice, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.inject import mixture_hooks
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.tasks import Task
from prefix_interp.tuning.evaluate import as_task, evaluate
from prefix_interp.tuning.presets import adjusted, get_preset
from prefix_interp.tuning.sweep import ContextFit, check_rates, start_seeds, tune_side_by_side


@dataclass(frozen=True)
class PrefixFit(ContextFit):
    """A tuned prefix, bound to its model (see `ContextFit` for the rest)."""

    prefix: Prefix


def tune_prefix(
    model: Model,
    task: Task | str,
    n_slots: int = 1,
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
        n_slots: slots, at least 1.
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
        n_slots,
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
    model: Model,
    task: Task | str,
    n_slots: int,
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
        n_slots: slots, at least 1.
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
    check_positive("n_slots", n_slots)
    check_choice("parameterization", parameterization, get_args(Parameterization))
    check_rates(lrs)
    recipes = [
        adjusted(chosen.prefix, steps=steps, lr=r, batch_size=batch_size, init_std=init_std)
        for r in lrs
    ]
    starts = [
        Prefix.random(model, n_slots, each, parameterization, recipes[0].init_std).tensors
        for each in start_seeds(seed, restarts)
    ]
    tuned = tune_side_by_side(
        model, task, starts, recipes,
        lambda stacked: mixture_hooks(model, host_of(model).keys_values(stacked)),
        preset=preset, seed=seed, identity={"prefix": parameterization, "slots": n_slots},
        checkpoint=checkpoint, progress=progress,
        description=f"{parameterization} prefix, {n_slots} slots, {task.name}",
    )  # fmt: skip
    fits = []
    for one in tuned:
        prefix = Prefix(
            parameterization, **one.tensors, model_id=model_id(model), metadata=one.metadata
        )
        score = evaluate(model, task, prefix, seed=seed)
        fits.append(PrefixFit(one.history, score, one.recipe, one.start, prefix))
    return fits
