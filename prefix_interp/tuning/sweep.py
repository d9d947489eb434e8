"""Tuning a context, its model frozen: any starts at any learning rates, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import Hook
from prefix_interp.seeds import derive_seed
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.evaluate import Evaluation
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.objective import check_room, sequence_losses
from prefix_interp.tuning.presets import Recipe

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class ContextFit:
    """What all tuned contexts have beside their vectors.

    Attributes:
        history: step, run, loss, lr.
        evaluation: on the task it was tuned for.
        recipe: how it was tuned.
        start: which of the random starts it came from, 0-based.
    """

    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe
    start: int

    @property
    def train_loss(self) -> float:
        """Return the mean training loss since the last but one logging point, in nats."""
        return float(self.history["loss"].iloc[-1])


@dataclass(frozen=True)
class Tuned:
    """One start at one learning rate, after the last step.

    Attributes:
        tensors: what was tuned.
        history: its own rows.
        recipe: with its learning rate.
        start: 0-based.
        metadata: task, preset, seed, start and recipe, to save with the vectors.
    """

    tensors: dict[str, Tensor]
    history: pd.DataFrame
    recipe: Recipe
    start: int
    metadata: dict[str, Any]


def tune_side_by_side(
    model: Model,
    task: Task,
    starts: Sequence[Tensors],
    recipes: Sequence[Recipe],
    hooks: Callable[[Tensors], list[Hook]],
    *,
    preset: str,
    seed: int,
    identity: Mapping[str, Any],
    checkpoint: str | Path | None,
    progress: bool,
    description: str,
) -> list[Tuned]:
    """Return every start tuned at every recipe's learning rate, starts in the outer loop.

    They are stacked on the batch axis and see the same data.

    Args:
        model: frozen while it lasts.
        task: what they are tuned for.
        starts: tensors by name, the same shapes in each.
        recipes: differ in the learning rate alone.
        hooks: what puts a stack (the tensors, with an axis in front) into the model.
        preset: for the metadata.
        seed: data.
        identity: what makes this tuning this one, beside model, task and recipe.
        checkpoint: file to save to and resume from.
        progress: show a bar.
        description: text of the bar.

    Raises:
        PrefixInterpError: the task does not fit the model, a context is attached to it, or a loss
            is not finite.
    """
    check_free(model)
    check_room(model, task)
    grid = [(i, each) for i in range(len(starts)) for each in recipes]
    runs = [_run(starts[i], f"start={i} lr={_exact(r.lr)}", r.lr) for i, r in grid]

    def loss(batch: Batch, step: int) -> Float[Tensor, " run"]:
        stacked = {name: torch.stack([run.parameters[name] for run in runs]) for name in starts[0]}
        repeated = Batch(*(x.repeat(len(runs), *[1] * (x.ndim - 1)) for x in batch))
        losses = sequence_losses(model, task, repeated, recipes[0], hooks(stacked))
        return losses.unflatten(0, (len(runs), -1)).mean(dim=-1)

    with frozen(model), _evaluation_mode(model):
        history = optimise(
            runs, loss, task, recipes[0], seed=seed,
            identity={
                "model": model_id(model), "content_start": host_of(model).n_reserved, **identity,
                "starts": len(starts),
            },
            checkpoint=checkpoint, progress=progress, description=description,
        )  # fmt: skip
    tuned = []
    for run, (start, each) in zip(runs, grid, strict=True):
        metadata = {
            "task": task.name,
            "preset": preset,
            "seed": seed,
            "start": start,
            "recipe": each.to_dict(),
        }
        tensors = {k: v.detach().clone() for k, v in run.parameters.items()}
        own = history[history["run"] == run.label].reset_index(drop=True)
        tuned.append(Tuned(tensors, own, each, start, metadata))
    return tuned


def _exact(rate: float) -> str:
    """Return a rate in short, unless that would be another one: labels tell runs apart."""
    short = f"{rate:g}"
    return short if float(short) == rate else repr(rate)


def check_rates(lrs: Sequence[float]) -> None:
    """Raise unless `lrs` holds at least one learning rate, all different."""
    if not lrs or len(set(lrs)) != len(lrs):
        raise PrefixInterpError(f"lrs={list(lrs)!r} must hold at least one rate, all different")


def start_seeds(seed: int, restarts: int) -> list[int]:
    """Return the seed of each random start; the first is `seed` itself."""
    check_positive("restarts", restarts)
    return [derive_seed(seed, "restart", i) if i else seed for i in range(restarts)]


def _run(start: Tensors, label: str, lr: float) -> Run:
    parameters = {k: v.detach().clone().requires_grad_(True) for k, v in start.items()}
    return Run(label, parameters, lr, frozenset(parameters))


@contextmanager
def _evaluation_mode(model: Model) -> Iterator[None]:
    training = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(training)


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Spare the weights their gradients inside the block; which had them is put back after."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        model.requires_grad_(False)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])
