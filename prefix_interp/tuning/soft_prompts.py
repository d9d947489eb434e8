"""Tuning soft prompts and suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.host import Model
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.prefixes.soft_prompt import Level, SoftPrompt
from prefix_interp.tasks import Task
from prefix_interp.tuning.evaluate import as_task, evaluate
from prefix_interp.tuning.objective import check_room
from prefix_interp.tuning.presets import adjusted, get_preset
from prefix_interp.tuning.sweep import ContextFit, check_rates, start_seeds, tune_side_by_side


@dataclass(frozen=True)
class SoftPromptFit(ContextFit):
    """A tuned soft prompt, bound to its model (see `ContextFit` for the rest)."""

    prompt: SoftPrompt


def tune_soft_prompt(
    model: Model,
    task: Task | str,
    n_slots: int = 1,
    *,
    after: int = 0,
    level: Level | str = "embedding",
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    init_std: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> SoftPromptFit:
    """Return a soft prompt, or suffix, tuned on `task` while `model` stays frozen.

    Args:
        model: a supported HookedTransformer.
        task: a task or its name.
        n_slots: rows, at least 1.
        after: input tokens in front of them; 0 for a prompt, the task's `length` for a suffix.
        level: ``"embedding"`` or ``"layers"`` (see `SoftPrompt`).
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``; its recipe for prefixes is taken.
        seed: initialisation, normal noise, and data.
        steps: instead of the preset's.
        lr: instead of the preset's.
        batch_size: instead of the preset's.
        init_std: standard deviation of the start, instead of the preset's 1.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, values out of range, slots among the outputs, an
            unsupported model, a loss that is not finite.
    """
    rate = get_preset(preset).prefix.lr if lr is None else lr
    return sweep_soft_prompts(
        model,
        task,
        n_slots,
        [rate],
        after=after,
        level=level,
        preset=preset,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        init_std=init_std,
        checkpoint=checkpoint,
        progress=progress,
    )[0]


def sweep_soft_prompts(
    model: Model,
    task: Task | str,
    n_slots: int,
    lrs: Sequence[float],
    *,
    after: int = 0,
    level: Level | str = "embedding",
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    batch_size: int | None = None,
    init_std: float | None = None,
    restarts: int = 1,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> list[SoftPromptFit]:
    """Return one tuned soft prompt a start and learning rate, trained side by side.

    See `tune_soft_prompt` for the arguments. Take the one with the lowest `train_loss`, and say
    how many there were.

    Args:
        model: a supported HookedTransformer.
        task: a task or its name.
        n_slots: rows, at least 1.
        lrs: peak learning rates, at least one, all different.
        after: input tokens in front of them.
        level: ``"embedding"`` or ``"layers"``.
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
    check_choice("level", level, get_args(Level))
    check_rates(lrs)
    check_room(model, task, n_slots)
    if isinstance(after, bool) or not isinstance(after, int) or not 0 <= after <= task.length:
        raise PrefixInterpError(
            f"after={after!r} must be between 0 and {task.length}: the slots of a tuned prompt "
            "stand before the outputs"
        )
    recipes = [
        adjusted(chosen.prefix, steps=steps, lr=r, batch_size=batch_size, init_std=init_std)
        for r in lrs
    ]
    how = {"after": after, "level": level}
    starts = [
        {"vectors": SoftPrompt.random(model, n_slots, each, std=recipes[0].init_std, **how).vectors}
        for each in start_seeds(seed, restarts)
    ]
    tuned = tune_side_by_side(
        model, task, starts, recipes,
        # All rows stay: the outputs' are the last ones, the last slot in front if it predicts.
        lambda stacked: soft_hooks(model, stacked["vectors"], after, level, read=False),
        preset=preset, seed=seed, identity={"soft prompt": how, "slots": n_slots},
        checkpoint=checkpoint, progress=progress,
        description=f"soft prompt, {n_slots} slots, {task.name}",
    )  # fmt: skip
    fits = []
    for one in tuned:
        prompt = SoftPrompt(one.tensors["vectors"], after, level, model_id(model), one.metadata)
        score = evaluate(model, task, prompt, seed=seed)
        fits.append(SoftPromptFit(one.history, score, one.recipe, one.start, prompt))
    return fits
