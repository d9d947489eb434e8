"""Tuning contexts on a frozen model: any starts at any learning rates, side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.given import ContextLike, as_context
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.prefix import Parameterization, Positions, Prefix
from prefix_interp.prefixes.soft_prompt import Layers, SoftPrompt
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.tasks import Batch, Task, as_task
from prefix_interp.tuning.evaluate import Evaluation, evaluate
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.objective import check_batch, frozen, stack_losses
from prefix_interp.tuning.recipes import Recipe
from prefix_interp.tuning.scores import scored_once
from prefix_interp.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class ContextFit(ResultObject):
    """A tuned context.

    Attributes:
        context: the prefix or soft prompt, with its model's fingerprint.
        history: columns step, run, loss, lr.
        evaluation: on the task it was tuned for.
        recipe: how it was tuned.
        start: 0-based index of its start.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = pi.tune_prefix(toy, task, recipe=recipe, progress=False)
        >>> fit.prefix.n_slots, fit.start
        (1, 0)
    """

    context: Context
    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe
    start: int

    @property
    def train_loss(self) -> float:
        """Return the mean training loss between the last two logging points, in nats."""
        return float(self.history["loss"].iloc[-1])

    @property
    def prefix(self) -> Prefix:
        """Return the context if it is a prefix.

        Raises:
            PrefixInterpError: a soft prompt was tuned.
        """
        if not isinstance(self.context, Prefix):
            raise PrefixInterpError(
                f"fit.prefix does not exist: a {type(self.context).__name__} was tuned; use "
                "fit.context"
            )
        return self.context

    def to_dataframe(self) -> pd.DataFrame:
        """Return the history: one row per logged step."""
        return self.history

    def caption(self) -> str:
        """Return what was tuned, for how long, and its scores."""
        return (
            f"{self.context!r}; start {self.start}, {self.recipe.steps} steps at lr "
            f"{self.recipe.lr:g}, train loss {self.train_loss:.4g}; {self.evaluation.caption()}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the training loss against the step."""
        return drawing("fits.history_figure")(self.history, figsize=figsize, width=width)


def tune_prefix(
    model: Model,
    task: Task | str,
    n_slots: int = 1,
    *,
    parameterization: Parameterization | str = "residual",
    positions: Positions | str = "shift",
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> ContextFit:
    """Return a prefix tuned on `task` while the weights of `model` stay frozen.

    It starts from noise and uses one learning rate; `sweep` takes other starts and rates.

    Args:
        model: a supported model.
        task: a task or its name.
        n_slots: slots, at least 1.
        parameterization: ``"residual"`` (the paper's) or ``"kv"`` (PEFT's).
        positions: ``"keep"`` leaves the content where it is in a model with learned positions that
            is no toy; ``"shift"`` puts it behind the slots (see `Prefix`).
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        recipe: replaces the preset's recipe, e.g. ``Recipe.from_preset("fast", "prefix", lr=0.1)``.
        seed: decides the initial noise and the data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, values out of range, an unsupported model, a loss that
            is not finite.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = pi.tune_prefix(toy, task, n_slots=3, recipe=recipe, progress=False)
        >>> fit.prefix.n_slots
        3
    """
    task, recipe = as_task(task), recipe or Recipe.from_preset(preset, "prefix")
    starts = Prefix.random_starts(
        model, n_slots, 1, seed, parameterization, recipe.init_std, positions
    )
    return sweep(
        model, task, starts, [recipe.lr],
        recipe=recipe, seed=seed, checkpoint=checkpoint, progress=progress,
    )[0]  # fmt: skip


def tune_soft_prompt(
    model: Model,
    task: Task | str,
    n_slots: int = 1,
    *,
    position: int = 0,
    layers: Layers | str = "embedding",
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> ContextFit:
    """Return a soft prompt, or suffix, tuned on `task` while `model` stays frozen.

    Args:
        model: a supported model.
        task: a task or its name.
        n_slots: rows, at least 1.
        position: input tokens before the slots; 0 for a prompt, the task's `length` for a suffix.
        layers: ``"embedding"`` or ``"all"`` (see `SoftPrompt`).
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``; its recipe for prefixes is used.
        recipe: replaces the preset's recipe.
        seed: decides the initial noise and the data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, values out of range, slots among the outputs, an
            unsupported model, a loss that is not finite.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = pi.tune_soft_prompt(toy, task, n_slots=2, recipe=recipe, progress=False)
        >>> fit.context.layers
        'embedding'
    """
    task, recipe = as_task(task), recipe or Recipe.from_preset(preset, "prefix")
    starts = SoftPrompt.random_starts(
        model, n_slots, 1, seed, position=position, layers=layers, std=recipe.init_std
    )
    return sweep(
        model, task, starts, [recipe.lr],
        recipe=recipe, seed=seed, checkpoint=checkpoint, progress=progress,
    )[0]  # fmt: skip


def sweep(
    model: Model,
    task: Task | str,
    starts: Sequence[ContextLike],
    lrs: Sequence[float],
    *,
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> list[ContextFit]:
    """Return every start tuned at every learning rate, starts in the outer loop.

    All are tuned at once, stacked on the batch axis, on the same data. Use the fit with the lowest
    `train_loss`, and report how many there were: some starts end in a bad optimum.

    Args:
        model: a supported model; its weights stay frozen.
        task: a task or its name.
        starts: contexts of one kind and shape, e.g. ``Prefix.random_starts(model, 1, 3)``; give
            ``std=recipe.init_std`` there, since the recipe says so in the metadata of each fit.
        lrs: peak learning rates, at least one, all different.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``; its recipe for prefixes is used.
        recipe: replaces the preset's recipe; its `lr` is not used.
        seed: decides the data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: starts that differ in kind or shape or do not fit the model, bad rates,
            a task that does not fit the model, slots among the outputs, another context that is
            attached, or a loss that is not finite.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> starts = pi.Prefix.random_starts(toy, n_slots=1, restarts=2)
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fits = pi.sweep(toy, task, starts, [0.01, 0.1], recipe=recipe, progress=False)
        >>> [(fit.start, fit.recipe.lr) for fit in fits]
        [(0, 0.01), (0, 0.1), (1, 0.01), (1, 0.1)]
    """
    task, recipe = as_task(task), recipe or Recipe.from_preset(preset, "prefix")
    _check_rates(lrs)
    check_free(model)
    starts = [as_context(start) for start in starts]
    first = _check_starts(model, starts)
    recipes = [replace(recipe, lr=lr) for lr in lrs]
    grid = [(i, each) for i in range(len(starts)) for each in recipes]
    runs = [_run(starts[i].tensors, f"start={i} lr={_exact(r.lr)}", r.lr) for i, r in grid]

    def loss(batch: Batch, step: int) -> Float[Tensor, " run"]:
        stack = {
            name: torch.stack([run.parameters[name] for run in runs]) for name in first.tensors
        }
        losses = of_stack(batch.to(host_of(model).device), stack)
        return losses.unflatten(0, (len(runs), -1)).mean(dim=-1)

    def check(batch: Batch) -> None:
        n_slots, keep = first.n_slots, first.keeps_positions
        check_batch(model, batch, n_slots, keep=keep, name=task.name)
        if isinstance(first, SoftPrompt):  # its slots stand before the outputs
            check_index("position", first.position, batch.tokens.shape[1] - batch.n_rows + 2)

    own_id, kind = model_id(model), first.STEM.replace("_", " ")
    identity = {
        "model": own_id,
        "content_start": host_of(model).n_reserved,
        "context": {"kind": kind, **first.settings},
        "starts": [_checksum(start.tensors) for start in starts],
    }
    with frozen(model):
        of_stack = stack_losses(model, first, recipe)
        history = optimise(
            runs, loss, task, recipes[0], seed=seed, identity=identity, checkpoint=checkpoint,
            check=check, progress=progress,
            description=f"{kind}, {counted(first.n_slots, 'slot')}, {task.name}",
        )  # fmt: skip
    contexts = []
    for run, (start, each) in zip(runs, grid, strict=True):
        metadata = {
            "task": task.name,
            "preset": each.preset,
            "seed": seed,
            "start": start,
            "recipe": each.to_dict(),
        }
        tensors = {name: x.detach().clone() for name, x in run.parameters.items()}
        contexts.append(replace(first, **tensors, model_id=own_id, metadata=metadata))
    scores = scored_once(
        checkpoint, lambda: [evaluate(model, task, context, seed=seed) for context in contexts]
    )
    histories = [history.loc[history["run"] == run.label].reset_index(drop=True) for run in runs]
    return [
        ContextFit(context, own, score, each, start)
        for context, own, score, (start, each) in zip(
            contexts, histories, scores, grid, strict=True
        )
    ]


def _check_rates(lrs: Sequence[float]) -> None:
    if not lrs or len(set(lrs)) != len(lrs):
        raise PrefixInterpError(f"lrs={list(lrs)!r} must hold at least one rate, all different")


def _check_starts(model: Model, starts: Sequence[Context]) -> Context:
    """Return the first start, if all starts can be tuned side by side."""
    if not starts:
        raise PrefixInterpError(
            "starts are empty; give at least one context, e.g. Prefix.random_starts(model, 1)"
        )
    first = starts[0]
    for each in starts:
        if type(each) is not type(first) or each.settings != first.settings:
            raise PrefixInterpError(
                f"starts hold {first!r} and {each!r}; sweep one kind with one setting at a time"
            )
        if each.n_slots != first.n_slots:
            raise PrefixInterpError(
                f"starts have {first.n_slots} and {each.n_slots} slots; sweep one length at a time"
            )
    for each in starts:
        each.check_fits(model)
    return first


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    data = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    return hashlib.sha256(to_bytes(data)).hexdigest()


def _exact(rate: float) -> str:
    """Return a rate in short form, unless that changes its value: labels must tell runs apart."""
    short = f"{rate:g}"
    return short if float(short) == rate else repr(rate)


def _run(start: Mapping[str, Tensor], label: str, lr: float) -> Run:
    parameters: dict[str, Any] = {
        name: x.detach().clone().requires_grad_(True) for name, x in start.items()
    }
    return Run(label, parameters, lr, frozenset(parameters))
