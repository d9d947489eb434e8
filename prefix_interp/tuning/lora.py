"""LoRA: a low-rank matrix added to weights of a frozen model.

Toys and every HookedTransformer get it by torch's parametrization, language models by PEFT.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prefix_interp.errors import PrefixInterpError, check_index, check_number, check_positive
from prefix_interp.models.fast_forward import is_written_down
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import TransformerBridge, clone, model_id
from prefix_interp.models.toy import Toy
from prefix_interp.models.weights import Matrix, Target, matrices
from prefix_interp.prefixes.guard import check_free
from prefix_interp.result_object import ResultObject
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Task, as_task
from prefix_interp.tuning.evaluate import evaluate
from prefix_interp.tuning.lora_peft import (
    merged,
    train_adapter,
    trained,
    with_adapter,
    write_weights,
)
from prefix_interp.tuning.recipes import Recipe
from prefix_interp.tuning.scores import scored_once
from prefix_interp.tuning.tensors import train_tensors
from prefix_interp.tuning.train import MODEL, ModelFit

# What differs from the preset's recipe for prefixes: rates that suit weights.
_CHANGES: dict[str, dict[str, Any]] = {
    "paper": {"lr": 5e-3, "steps": 10_000},
    "fast": {"lr": 5e-3},
    "smoke": {"lr": 5e-3},
}


@dataclass(frozen=True, eq=False, repr=False)
class LoraFit(ModelFit):
    """A tuned LoRA and a copy of the model that has it in its weights.

    Attributes:
        model: the copy; every function takes it in place of the model.
        history: columns step, run, loss, lr.
        evaluation: on the task it was tuned for.
        recipe: how it was tuned.
        weights: A (rank, d_in) and B (d_out, rank) of every matrix, e.g. ``"0.mlp_in.A"``, under
            PEFT's names if it is a language model; B A is added, scaled by alpha / rank.
        rank: of what is added to a matrix.
        alpha: see `weights`.
        targets: which matrices of a layer.
        layers: which layers, 0-based.
        base_id: fingerprint of the model that it was tuned on.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = tune_lora(toy, "add_one", targets=("mlp_in",), recipe=recipe, progress=False)
        >>> fit.n_parameters, pi.evaluate(fit.model, "add_one", n=64).n
        (480, 64)
    """

    weights: dict[str, Tensor]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: tuple[int, ...]
    base_id: str

    @property
    def n_parameters(self) -> int:
        """Return the number of values that were tuned."""
        return sum(x.numel() for x in self.weights.values())

    @property
    def train_loss(self) -> float:
        """Return the mean training loss between the last two logging points, in nats."""
        return float(self.history["loss"].iloc[-1])

    def caption(self) -> str:
        """Return the rank, where it is, its size, and the scores."""
        return (
            f"LoRA of rank {self.rank} on {', '.join(self.targets)}, {self.n_parameters:,} "
            f"parameters, train loss {self.train_loss:.4g}; {super().caption()}"
        )

    def save(self, path: str | Path) -> Path:
        """Write the fit to the folder `path`, and the model too if it is a toy; return the folder.

        Raises:
            PrefixInterpError: a name that ends as a picture's, or the folder cannot be written.
        """
        if isinstance(self.model, Toy):
            return super().save(path)
        return ResultObject.save(self, path)

    @classmethod
    def load(cls, path: str | Path, base: Model | None = None) -> LoraFit:
        """Return the fit in the folder `path`.

        Args:
            path: the folder.
            base: the model that it was tuned on; may be left out if that was a toy.

        Raises:
            PrefixInterpError: files are missing or altered, or another model.
        """
        if base is None:
            if not (Path(path) / MODEL).exists():
                raise PrefixInterpError(
                    f"base=None, but {str(path)!r} holds no model, since it was no toy; give the "
                    "model that it was tuned on"
                )
            found = super().load(path)
            assert isinstance(found, LoraFit)
            return found
        fields = cls._read_fields(path)
        if fields.get("base_id") != model_id(base):
            raise PrefixInterpError(
                f"base has the fingerprint {model_id(base)!r}, but the fit at {str(path)!r} is of "
                f"{fields.get('base_id')!r}; give the model that it was tuned on"
            )
        made = _merged(
            base, *(fields[k] for k in ("weights", "rank", "alpha", "targets", "layers"))
        )
        fit = cls._from_fields(path, {**fields, "model": made})
        assert isinstance(fit, LoraFit)
        return fit


def lora_recipe(preset: str, **changes: Any) -> Recipe:
    """Return the recipe of LoRA under a preset: that of prefixes with a rate that suits weights.

    Args:
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
        changes: new values for fields of `Recipe`.

    Raises:
        PrefixInterpError: unknown names, or a value out of range.

    Example:
        >>> lora_recipe("fast").lr
        0.005
    """
    return Recipe.from_preset(preset, "prefix", **{**_CHANGES.get(preset, {}), **changes})


def tune_lora(
    model: Model,
    task: Task | str,
    rank: int = 1,
    targets: Sequence[Target | str] = ("mlp_in", "mlp_out"),
    *,
    alpha: float | None = None,
    layers: Sequence[int] | None = None,
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> LoraFit:
    """Return a copy of `model` with a low-rank matrix, tuned on `task`, added to some weights.

    A starts from U(-1/sqrt(d_in), 1/sqrt(d_in)) and B from 0, so the first step sees the model as
    it is. For the matrices that the paper's code adapts give ``("mlp_in", "mlp_out", "o")``.

    Args:
        model: a supported model; it is not changed.
        task: a task or its name.
        rank: of what is added to each matrix, at least 1.
        targets: of ``"q"``, ``"k"``, ``"v"``, ``"o"``, ``"mlp_in"``, ``"mlp_gate"``, ``"mlp_out"``.
        alpha: what is added is scaled by alpha / rank; None for no scaling.
        layers: 0-based; None for all.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"`` (see `lora_recipe`).
        recipe: replaces the preset's recipe.
        seed: decides the start and the data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown target, one that the model lacks (no MLP, a joint matrix of
            queries, keys and values), other values out of range, or a loss that is not finite.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = tune_lora(toy, "add_one", 2, ("q", "o"), recipe=recipe, progress=False)
        >>> tuple(fit.weights["0.q.A"].shape)
        (2, 96)
    """
    task, recipe = as_task(task), recipe or lora_recipe(preset)
    check_positive("rank", rank)
    scale_by = float(rank) if alpha is None else alpha
    check_number("alpha", scale_by, low_open=True)
    host = host_of(model)
    where = tuple(range(host.n_layers)) if layers is None else tuple(layers)
    for layer in where:
        check_index("layers", layer, host.n_layers)
    if not where or not targets or isinstance(targets, str) or len(set(targets)) != len(targets):
        raise PrefixInterpError(
            f"targets={targets!r} in layers={where} must be different words, in at least one "
            f"layer; give e.g. ('mlp_in', 'mlp_out')"
        )
    check_free(model)
    shape = rank, float(scale_by), tuple(targets), where
    common: dict[str, Any] = {
        "seed": seed, "checkpoint": checkpoint, "progress": progress,
        "identity": {"lora": [rank, float(scale_by), list(targets), list(where)]},
    }  # fmt: skip
    if isinstance(model, TransformerBridge):
        adapted = with_adapter(model, *shape, seed)
        history = train_adapter(adapted, model, task, recipe, **common)
        weights = {name: x.detach().clone() for name, x in trained(adapted).items()}
        del adapted
    else:
        copy = clone(model).requires_grad_(False)
        found = matrices(copy, shape[2], where)
        toy = copy if is_written_down(copy) else None  # asked before its modules change
        weights = {
            name: x.requires_grad_(True)
            for matrix in found
            for name, x in _start(matrix, rank, seed, model).items()
        }
        with _parametrized(found, weights, scale_by / rank):
            history = train_tensors(
                copy, weights, task, recipe, description=f"lora {task.name}",
                identity_of=model, written=toy, **common,
            )  # fmt: skip
        weights = {name: x.detach().clone() for name, x in weights.items()}
    made = _merged(model, weights, *shape)
    (score,) = scored_once(
        checkpoint, lambda: [evaluate(made, task, seed=seed, baseline=recipe.baseline)]
    )
    return LoraFit(made, history, score, recipe, weights, *shape, model_id(model))


def _start(matrix: Matrix, rank: int, seed: int, model: Model) -> dict[str, Tensor]:
    """Return A and B as they start: PEFT's start, and the paper's."""
    d_in, d_out = matrix.sizes
    rng = derive_generator(seed, "lora", matrix.layer, matrix.target)
    first = (2 * torch.rand(rank, d_in, generator=rng) - 1) / math.sqrt(d_in)
    cast = host_of(model).cast
    return {_name(matrix, "A"): cast(first), _name(matrix, "B"): cast(torch.zeros(d_out, rank))}


def _name(matrix: Matrix, which: str) -> str:
    return f"{matrix.layer}.{matrix.target}.{which}"


class _Sum(nn.Module):
    """The parametrization of one matrix: itself and the scaled product of B and A."""

    def __init__(self, matrix: Matrix, weights: Mapping[str, Tensor], scale: float) -> None:
        super().__init__()
        # Not parameters of the model: the caller trains them.
        self.added = partial(_added, matrix, weights, scale)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.added()


def _added(matrix: Matrix, weights: Mapping[str, Tensor], scale: float) -> Tensor:
    """Return what is added to a matrix, in its shape."""
    A, B = (weights[_name(matrix, which)] for which in ("A", "B"))
    return matrix.shaped(scale * (B @ A).T)


@contextmanager
def _parametrized(
    found: Sequence[Matrix], weights: Mapping[str, Tensor], scale: float
) -> Iterator[None]:
    """Add low-rank matrices to the weights inside the block, so that gradients flow to them."""
    for matrix in found:
        parametrize.register_parametrization(
            matrix.module, matrix.name, _Sum(matrix, weights, scale)
        )
    try:
        yield
    finally:
        for matrix in found:
            parametrize.remove_parametrizations(
                matrix.module, matrix.name, leave_parametrized=False
            )


def _merged(
    model: Model,
    weights: Mapping[str, Tensor],
    rank: int,
    alpha: float,
    targets: Sequence[str],
    layers: Sequence[int],
) -> Model:
    """Return a copy of the model with the adapter added to its weights."""
    if isinstance(model, TransformerBridge):
        adapted = with_adapter(model, rank, alpha, targets, layers, 0)
        write_weights(adapted, weights)
        return merged(adapted, model)
    copy = clone(model)
    own = {name: host_of(model).cast(x) for name, x in weights.items()}
    with torch.no_grad():
        for matrix in matrices(copy, targets, layers):
            getattr(matrix.module, matrix.name).add_(_added(matrix, own, alpha / rank))
    return copy.eval()
