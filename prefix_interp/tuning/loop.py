"""The training loop: several independent runs side by side, resumable to the last bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import check_writable, is_there
from prefix_interp.records import Schema
from prefix_interp.results import package_versions
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import read_tensors, write_tensors
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.parallel import one_thread
from prefix_interp.tuning.recipes import Recipe

_LOG_POINTS = 50
_CHUNK = 50  # steps whose data is drawn at once


@dataclass(frozen=True)
class Run:
    """One set of parameters to train.

    Attributes:
        label: name of the run in the history, e.g. ``"lr=0.01"``.
        parameters: what to train, by name; leaves that require gradients.
        lr: this run's peak learning rate.
        decayed: names of the parameters with weight decay.
    """

    label: str
    parameters: Mapping[str, Tensor]
    lr: float
    decayed: frozenset[str]


Loss = Callable[[Batch, int], Float[Tensor, " run"]]


def optimise(
    runs: Sequence[Run],
    loss: Loss,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    identity: Mapping[str, Any],
    check: Callable[[Batch], None] = lambda _: None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    at_step: Callable[[int], object] = lambda _: None,
    progress: bool = True,
    description: str = "training",
) -> pd.DataFrame:
    """Train the runs' parameters in place and return the history.

    All runs see the same batches. They share only the backward pass: each has its own clipping and
    learning rate, so up to rounding each ends as it would alone.

    Args:
        runs: what to train.
        loss: maps a batch and the step to one loss per run.
        task: source of the batches (train split).
        recipe: steps, schedule and so on; `lr` comes from each run.
        seed: decides the batches.
        identity: identifies this training; checkpoints of other trainings are refused.
        check: raises if a batch cannot be trained on.
        checkpoint: file to resume from and save to; it is kept after the last step.
        checkpoint_every: steps between checkpoints; by default a tenth of the training.
        at_step: called after each step with the number of steps done, before a checkpoint is
            saved; a run that resumes calls it only for the steps that it does.
        progress: show a bar.
        description: text of the bar.

    Returns:
        One row per run and logging point: step, run, loss (mean since the last point), lr.

    Raises:
        PrefixInterpError: a loss became NaN or infinite, or a checkpoint of another training.
    """
    groups = [
        {"params": [p for n, p in run.parameters.items() if (n in run.decayed) == decay],
         "weight_decay": recipe.weight_decay if decay else 0.0, "run": run}
        for run in runs
        for decay in (True, False)
    ]  # fmt: skip
    groups = [g for g in groups if g["params"]]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    log_every = max(1, recipe.steps // _LOG_POINTS)
    save_every = max(1, (checkpoint_every or recipe.steps // 10) // log_every) * log_every
    key = {
        "recipe": recipe.to_dict(),
        "seed": seed,
        "task": dict(task.identity()),
        "versions": package_versions(),
        **identity,
    }
    points = [s for s in range(1, recipe.steps + 1) if s % log_every == 0 or s == recipe.steps]
    state = _Checkpoint(checkpoint, key, runs, optimiser, points)
    start, rows = state.restore()

    window = torch.zeros(len(runs))
    batches = _batches(task, recipe, seed, start, check)
    bar = tqdm(total=recipe.steps, initial=start, desc=description, disable=not progress)
    with bar, one_thread():
        for step in range(start, recipe.steps):
            factor = _schedule(recipe, step)
            for group in optimiser.param_groups:
                group["lr"] = group["run"].lr * factor
            optimiser.zero_grad(set_to_none=True)
            losses = loss(next(batches), step)
            losses.sum().backward()
            for run in runs:
                torch.nn.utils.clip_grad_norm_(run.parameters.values(), 1.0)
            optimiser.step()
            window += losses.detach().cpu()
            done = step + 1
            at_step(done)
            if done % log_every == 0 or done == recipe.steps:
                mean = window / (log_every if done % log_every == 0 else done % log_every)
                rows += _log(runs, done, mean, factor)
                window.zero_()
                bar.set_postfix(loss=f"{float(mean.min()):.3g}", refresh=False)
                if done % save_every == 0 or done == recipe.steps:
                    state.save(done, rows)
            bar.update()
    return pd.DataFrame(rows, columns=["step", "run", "loss", "lr"])


def _log(runs: Sequence[Run], step: int, mean: Tensor, factor: float) -> list[list[Any]]:
    values = mean.tolist()
    for run, value in zip(runs, values, strict=True):
        if not math.isfinite(value):
            raise PrefixInterpError(
                f"lr={run.lr!r} made the loss of run {run.label!r} {value} by step {step}; choose "
                "a smaller learning rate"
            )
    return [[step, r.label, v, r.lr * factor] for r, v in zip(runs, values, strict=True)]


def _schedule(recipe: Recipe, step: int) -> float:
    """Return the share of the peak learning rate at `step`; cosine ends at 5%."""
    if recipe.schedule == "constant":
        return 1.0
    warm_up = min(1.0, (step + 1) / max(1, recipe.steps // 20))
    return warm_up * (0.05 + 0.475 * (1 + math.cos(math.pi * step / recipe.steps)))


def _batches(
    task: Task, recipe: Recipe, seed: int, start: int, check: Callable[[Batch], None]
) -> Iterator[Batch]:
    """Yield the batch of each step from `start` on; it depends only on seed and step."""
    chunk, skip = divmod(start, _CHUNK)
    size = recipe.batch_size
    while True:
        if chunk == skip == 0:
            task.sample(1)  # nothing to test on is found before the first step, not after the last
        rng = derive_generator(seed, "batches", task.name, chunk)
        drawn = task.sample_from(rng, size * _CHUNK, "train")
        check(drawn)
        for i in range(skip, _CHUNK):
            yield drawn.part(slice(i * size, (i + 1) * size))
        chunk, skip = chunk + 1, 0


class _Checkpoint:
    """Parameters, optimiser moments and history in one sealed file, replaced atomically."""

    SCHEMAS: ClassVar = {
        1: Schema(1, {"key": str, "step": int, "rows": list[list[int | str | float]]})
    }

    def __init__(
        self,
        path: str | Path | None,
        key: Mapping[str, Any],
        runs: Sequence[Run],
        optimiser: torch.optim.Optimizer,
        points: Sequence[int],
    ) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check_writable(self.path.parent)
            if is_there(self.path) and self.path.is_dir():
                raise PrefixInterpError(f"checkpoint={str(path)!r} is a folder; name a file in it")
        self.key = json.dumps([key, [[r.label, r.lr] for r in runs]], sort_keys=True)
        self.labels, self.points = [run.label for run in runs], points
        self.named = {
            f"{i}.{name}": p for i, run in enumerate(runs) for name, p in run.parameters.items()
        }
        self.optimiser = optimiser

    def save(self, step: int, rows: list[list[Any]]) -> None:
        if self.path is None:
            return
        tensors = {}
        for name, parameter in self.named.items():
            tensors[f"{name}/value"] = parameter
            for moment, value in self.optimiser.state[parameter].items():
                tensors[f"{name}/{moment}"] = value
        record = {"format": max(self.SCHEMAS), "key": self.key, "step": step, "rows": rows}
        write_tensors(self.path, tensors, record)

    def restore(self) -> tuple[int, list[list[Any]]]:
        if self.path is None or not is_there(self.path):
            return 0, []
        tensors, record = read_tensors(self.path, self.SCHEMAS, self._shapes)
        moments: dict[str, dict[str, Tensor]] = {name: {} for name in self.named}
        with torch.no_grad():
            for full, tensor in tensors.items():
                name, _, what = full.rpartition("/")
                parameter = self.named[name]
                self._check_numbers(
                    full, tensor, torch.float32 if what == "step" else parameter.dtype
                )
                if what == "value":
                    parameter.copy_(tensor)
                else:
                    moments[name][what] = tensor.to(parameter.device)
        for name, parameter in self.named.items():
            self.optimiser.state[parameter] = moments[name]
        return record["step"], record["rows"]

    def _shapes(self, record: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the shapes in a checkpoint of this training; raise if it is of another one."""
        if record["key"] != self.key:
            raise PrefixInterpError(
                f"checkpoint={str(self.path)!r} belongs to another training (task, seed, recipe, "
                "model or versions differ); name another file or delete it"
            )
        step, rows = record["step"], record["rows"]
        written = [(s, label) for s in self.points if s <= step for label in self.labels]
        if step not in self.points or [tuple(row[:2]) for row in rows] != written:
            raise PrefixInterpError(
                f"checkpoint={str(self.path)!r} has step={step} and a history of {len(rows)} rows, "
                f"which no training of {self.points[-1]} steps writes; delete it"
            )
        if any([type(x) for x in row[2:]] != [float, float] for row in rows):
            raise PrefixInterpError(
                f"checkpoint={str(self.path)!r} has a history without numbers; delete it"
            )
        shapes = {}
        for name, parameter in self.named.items():
            own = tuple(parameter.shape)
            shapes |= {f"{name}/{what}": own for what in ("value", "exp_avg", "exp_avg_sq")}
            shapes[f"{name}/step"] = ()
        return shapes

    def _check_numbers(self, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
        if tensor.dtype != dtype or not bool(torch.isfinite(tensor).all()):
            raise PrefixInterpError(
                f"checkpoint={str(self.path)!r} holds {name!r} as {tensor.dtype}, or not finite; "
                f"it must be finite and {dtype}: delete it"
            )
