"""Edits that a run carries beside a frozen model: head offsets, their scales, low-rank updates.

What a prefix adds to a head's output is an offset and a gate that depends on the query. An edit
leaves the gate out, or replaces the head by the residual stream: a comparison tells what each part
is worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import Hook
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Task, as_task
from prefix_interp.tuning.evaluate import Evaluation, evaluate
from prefix_interp.tuning.recipes import Recipe
from prefix_interp.tuning.scores import scored_once
from prefix_interp.tuning.tensors import train_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["offset", "offset_and_scale", "low_rank"]
KINDS: tuple[str, ...] = get_args(Kind)
_RESIDUAL = ("RESID_PRE", "RESID_MID", "RESID_POST")


@dataclass(frozen=True, eq=False, repr=False)
class EditFit(ResultObject):
    """A tuned edit.

    Attributes:
        kind: ``"offset"``: v is added to each head's output z. ``"offset_and_scale"``: v + s z with
            a number s for each head. ``"low_rank"``: the row x of the residual stream becomes
            x + up down x.
        site: name of the `Site` in every layer.
        tensors: ``offset`` (layer, head, d_head) and perhaps ``scale`` (layer, head), or ``down``
            (layer, rank, d_model) and ``up`` (layer, d_model, rank).
        model_id: fingerprint of the model that it was tuned on.
        history: columns step, run, loss, lr.
        evaluation: on the task it was tuned for.
        recipe: how it was tuned.

    Example:
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = tune_edit(model, task, "offset", recipe=recipe, progress=False)
        >>> with fit.on(model):
        ...     pi.evaluate(model, task, n=64).n
        64
    """

    kind: str
    site: str
    tensors: dict[str, Tensor]
    model_id: str
    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe

    @property
    def n_parameters(self) -> int:
        """Return the number of values that were tuned."""
        return sum(x.numel() for x in self.tensors.values())

    @property
    def train_loss(self) -> float:
        """Return the mean training loss between the last two logging points, in nats."""
        return float(self.history["loss"].iloc[-1])

    @contextmanager
    def on(self, model: Model) -> Iterator[None]:
        """Edit the runs of `model` inside the block; every function can be called there.

        Args:
            model: the one that it was tuned on.

        Raises:
            PrefixInterpError: another model.
        """
        if model_id(model) != self.model_id:
            raise PrefixInterpError(
                f"model has the fingerprint {model_id(model)!r}, but the edit is of "
                f"{self.model_id!r}; give the model that it was tuned on"
            )
        own = {name: host_of(model).cast(x) for name, x in self.tensors.items()}
        with host_of(model).hooked(edit_hooks(own, self.site)):
            yield

    def to_dataframe(self) -> pd.DataFrame:
        """Return the history: one row per logged step."""
        return self.history

    def caption(self) -> str:
        """Return what was tuned, its size, for how long, and its scores."""
        return (
            f"edit {self.kind} at {self.site}, {self.n_parameters:,} parameters; "
            f"{self.recipe.steps} steps at lr {self.recipe.lr:g}, train loss {self.train_loss:.4g};"
            f" {self.evaluation.caption()}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the training loss against the step."""
        return drawing("fits.history_figure")(self.history, figsize=figsize, width=width)


def tune_edit(
    model: Model,
    task: Task | str,
    kind: Kind | str,
    *,
    rank: int = 1,
    site: Site | str | None = None,
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> EditFit:
    """Return an edit of every layer, tuned on `task` while the weights of `model` stay frozen.

    It starts as no edit: offsets 0, scales 1, ``up`` 0.

    Args:
        model: a supported model.
        task: a task or its name.
        kind: ``"offset"``, ``"offset_and_scale"`` or ``"low_rank"`` (see `EditFit`).
        rank: of a low-rank edit, at least 1; not used by the others.
        site: of a low-rank edit: ``"RESID_PRE"`` (before attention), ``"RESID_MID"`` (before the
            MLP) or ``"RESID_POST"``; None for ``"RESID_MID"``, or ``"RESID_PRE"`` where there is
            none. The others are at the heads' outputs, ``"Z"``.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``; its recipe for prefixes is used.
        recipe: replaces the preset's recipe.
        seed: decides the start and the data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, a site that the model lacks or that takes no write, or a
            loss that is not finite.

    Example:
        >>> recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
        >>> fit = tune_edit(model, task, "low_rank", rank=3, recipe=recipe, progress=False)
        >>> fit.n_parameters, fit.site
        (1536, 'RESID_MID')
    """
    task, recipe = as_task(task), recipe or Recipe.from_preset(preset, "prefix")
    check_choice("kind", kind, KINDS)
    check_positive("rank", rank)
    check_free(model)
    at = _site(model, kind, site)
    tensors = {
        name: host_of(model).cast(x).requires_grad_(True)
        for name, x in _start(model, kind, rank, seed).items()
    }
    history = train_tensors(
        model, tensors, task, recipe, hooks=lambda: edit_hooks(tensors, at.name),
        identity={"edit": [kind, at.name, rank]}, seed=seed, checkpoint=checkpoint,
        progress=progress, description=f"{kind.replace('_', ' ')}, {task.name}",
    )  # fmt: skip
    tensors = {name: x.detach().clone() for name, x in tensors.items()}

    def scores() -> list[Evaluation]:
        with host_of(model).hooked(edit_hooks(tensors, at.name)):
            return [evaluate(model, task, seed=seed, baseline=recipe.baseline)]

    (score,) = scored_once(checkpoint, scores)
    own_id = model_id(model)
    return EditFit(kind, at.name, tensors, own_id, history, score, recipe)


def edit_hooks(tensors: Mapping[str, Tensor], site: str) -> list[Hook]:
    """Return the hooks that edit a run.

    Args:
        tensors: see `EditFit`; gradients flow to them.
        site: name of the `Site`.
    """

    def heads(layer: int) -> Hook:
        def write(
            z: Float[Tensor, "batch pos head d_head"], hook: object
        ) -> Float[Tensor, "batch pos head d_head"]:
            scaled = z * tensors["scale"][layer][:, None] if "scale" in tensors else z
            return scaled + tensors["offset"][layer]

        return Site[site].at(layer), write

    def rows(layer: int) -> Hook:
        def write(
            x: Float[Tensor, "batch pos d_model"], hook: object
        ) -> Float[Tensor, "batch pos d_model"]:
            return x + x @ tensors["down"][layer].T @ tensors["up"][layer].T

        return Site[site].at(layer), write

    make, first = (heads, "offset") if "offset" in tensors else (rows, "down")
    return [make(layer) for layer in range(len(tensors[first]))]


def _site(model: Model, kind: str, site: Site | str | None) -> Site:
    """Return where an edit is written, if this model can be written to there."""
    host = host_of(model)
    if kind == "low_rank":
        allowed: Sequence[str] = [x for x in _RESIDUAL if x != "RESID_MID" or host.has_resid_mid]
        usual = "RESID_MID" if host.has_resid_mid else "RESID_PRE"
    else:
        allowed, usual = ["Z"], "Z"
    name = usual if site is None else site.name if isinstance(site, Site) else site
    check_choice("site", name, allowed)
    host.check_live(Site[name])
    return Site[name]


def _start(model: Model, kind: str, rank: int, seed: int) -> dict[str, Tensor]:
    host = host_of(model)
    layers, heads, d_model = host.n_layers, host.n_heads, host.d_model
    if kind == "low_rank":
        rng = derive_generator(seed, "edit", kind)
        down = (2 * torch.rand(layers, rank, d_model, generator=rng) - 1) / math.sqrt(d_model)
        return {"down": down, "up": torch.zeros(layers, d_model, rank)}
    scale = {"scale": torch.ones(layers, heads)} if kind == "offset_and_scale" else {}
    return {"offset": torch.zeros(layers, heads, host.d_head), **scale}
