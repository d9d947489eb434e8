"""Tuning any tensors that hooks or parametrizations have put into a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.toy import Toy
from prefix_interp.prefixes.baselines import fast_baseline
from prefix_interp.prefixes.layout import Hook
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.objective import bare_losses, check_batch, frozen, sequence_losses
from prefix_interp.tuning.recipes import Recipe


def train_tensors(
    model: Model,
    tensors: Mapping[str, Tensor],
    task: Task,
    recipe: Recipe,
    *,
    hooks: Callable[[], Sequence[Hook]] = list,
    written: Toy | None = None,
    identity: Mapping[str, Any],
    identity_of: Model | None = None,
    seed: int,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    description: str,
) -> pd.DataFrame:
    """Train `tensors` in place, the weights of `model` frozen, and return the history.

    Args:
        model: runs without a prefix, as the recipe's baseline says.
        tensors: leaves that require gradients and that the run of the model reads.
        task: source of the batches.
        recipe: steps, rate and so on.
        hooks: returns what puts the tensors into the model, if they are not in its weights.
        written: `model`, if a run without hooks computes the same (`is_written_down`).
        identity: tells what is trained from other things.
        identity_of: the model whose fingerprint counts, if `model` is a changed copy of it.
        seed: decides the data.
        checkpoint: file to save to and resume from.
        progress: show a bar.
        description: text of the bar.

    Raises:
        PrefixInterpError: a task that does not fit the model, or a loss that is not finite.
    """
    n_slots = host_of(model).n_reserved or 0

    def loss(batch: Batch, step: int) -> Tensor:
        if written is not None and recipe.baseline == "masked":
            return bare_losses(written, batch, recipe).mean()[None]
        tokens, placing = fast_baseline(model, n_slots, batch.tokens, recipe.baseline)
        fed = batch.behind(tokens).to(host_of(model).device)
        return sequence_losses(model, fed, recipe, [*placing, *hooks()]).mean()[None]

    with frozen(model):
        return optimise(
            [Run(f"lr={recipe.lr!r}", tensors, recipe.lr, frozenset(tensors))], loss, task, recipe,
            seed=seed, check=lambda batch: check_batch(model, batch, name=task.name),
            identity={
                "model": model_id(identity_of or model), "content_start": n_slots, **identity
            },
            checkpoint=checkpoint, progress=progress, description=description,
        )  # fmt: skip
