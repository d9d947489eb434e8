"""Pretraining and full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width, refuse_figure
from prefix_interp.models.dropout import dropout_hooks
from prefix_interp.models.fast_forward import is_written_down
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import clone, has_id, model_id
from prefix_interp.models.toy import ToyConfig, build_toy, read_toy, save_toy
from prefix_interp.prefixes.baselines import fast_baseline
from prefix_interp.prefixes.guard import check_free
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch, Task, as_task
from prefix_interp.tuning.evaluate import Evaluation, evaluate
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.objective import bare_losses, check_batch, sequence_losses
from prefix_interp.tuning.recipes import Recipe
from prefix_interp.tuning.scores import scored_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = "model"  # the folder inside a saved fit


@dataclass(frozen=True, eq=False, repr=False)
class ModelFit(ResultObject):
    """A trained model.

    Attributes:
        model: in evaluation mode.
        history: columns step, run, loss, lr.
        evaluation: on the task it was trained on.
        recipe: how it was trained.

    Example:
        >>> recipe = pi.Recipe.from_preset("smoke", "pretrain", steps=2)
        >>> fit = pi.pretrain(pi.ToyConfig(d_model=32), "add_one", recipe=recipe, progress=False)
        >>> fit.history.columns.tolist()
        ['step', 'run', 'loss', 'lr']
    """

    model: Model
    history: pd.DataFrame
    evaluation: Evaluation
    recipe: Recipe

    def to_dataframe(self) -> pd.DataFrame:
        """Return the history: one row per logged step."""
        return self.history

    def caption(self) -> str:
        """Return the size of the model, the length of its training, and its scores."""
        host = host_of(self.model)
        return (
            f"{host.n_layers} x {host.n_heads} heads, d_model {host.d_model}; {self.recipe.steps} "
            f"steps at lr {self.recipe.lr:g}; {self.evaluation.caption()}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the training loss against the step."""
        return drawing("fits.history_figure")(self.history, figsize=figsize, width=width)

    def save(self, path: str | Path) -> Path:
        """Write the fit to the folder `path`, with its model in ``model``; return the folder.

        Raises:
            PrefixInterpError: a name that ends as a picture's, the model is not a toy, or the
                folder cannot be written.
        """
        refuse_figure(path)
        save_toy(self.model, Path(path) / MODEL, {"task": self.evaluation.task})
        return super().save(path)

    @classmethod
    def load(cls, path: str | Path) -> ModelFit:
        """Return the fit in the folder `path`, its model in evaluation mode.

        Raises:
            PrefixInterpError: files are missing, altered, or of different fits.
        """
        fields = cls._read_fields(path)
        model, _ = read_toy(Path(path) / MODEL)
        if not has_id(model, str(fields.get("model"))):
            raise PrefixInterpError(
                f"path={str(path)!r} holds the model {model_id(model)!r} but the fit is of "
                f"{fields.get('model')!r}; save it again"
            )
        return cls._from_fields(path, {**fields, "model": model.eval()})

    def _fields_on_disk(self) -> dict[str, Any]:
        return {**super()._fields_on_disk(), "model": model_id(self.model)}


def pretrain(
    cfg: ToyConfig,
    task: Task | str,
    *,
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> ModelFit:
    """Return a toy trained on `task` from scratch.

    The result for a seed is the same to the bit, whether interrupted or not.

    Args:
        cfg: the shape.
        task: a task or its name.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``; its `Recipe` also sets what fills the slots
            (attended placeholders in ``"paper"``, nothing otherwise).
        recipe: replaces the preset's, e.g. ``Recipe.from_preset("fast", "pretrain", steps=99)``.
        seed: decides initialisation and data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: unknown names, values out of range, a loss that is not finite.

    Example:
        >>> recipe = pi.Recipe.from_preset("smoke", "pretrain", steps=2)
        >>> fit = pi.pretrain(pi.ToyConfig(d_model=32), "add_one", recipe=recipe, progress=False)
        >>> fit.model.cfg.d_model
        32
    """
    task, recipe = as_task(task), recipe or Recipe.from_preset(preset, "pretrain")
    model = build_toy(cfg, seed)
    return _train_weights(model, task, recipe, seed, checkpoint, progress, "pretraining")


def fine_tune(
    model: Model,
    task: Task | str,
    *,
    preset: str = "fast",
    recipe: Recipe | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    at_step: Callable[[int, Model], object] | None = None,
    progress: bool = True,
) -> ModelFit:
    """Return a copy of `model` with all its weights trained on `task`.

    Args:
        model: the start; it is not changed.
        task: a task or its name.
        preset: see `pretrain`.
        recipe: replaces the preset's, e.g. ``Recipe.from_preset("fast", "fine_tune", lr=1e-4)``.
        seed: decides the data.
        checkpoint: file to save to and resume from.
        at_step: called after each step with the number of steps done and the model as it then is,
            e.g. to keep its weights; not for steps that were done before a resume.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `pretrain`.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> recipe = pi.Recipe.from_preset("smoke", "fine_tune", steps=2)
        >>> fit = pi.fine_tune(toy, "add_one", recipe=recipe, progress=False)
        >>> fit.model is toy
        False
    """
    task, recipe = as_task(task), recipe or Recipe.from_preset(preset, "fine_tune")
    return _train_weights(
        clone(model), task, recipe, seed, checkpoint, progress, "fine-tuning", at_step
    )


def _train_weights(
    model: Model,
    task: Task,
    recipe: Recipe,
    seed: int,
    checkpoint: str | Path | None,
    progress: bool,
    what: str,
    at_step: Callable[[int, Model], object] | None = None,
) -> ModelFit:
    check_free(model)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    # minGPT decays only the matrices of its linear layers.
    matrices = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U")
    decayed = frozenset(n for n in parameters if n.rsplit(".", 1)[-1].lstrip("_") in matrices)
    start = model_id(model)

    bare = recipe.baseline == "masked" and not recipe.dropout

    def loss(batch: Batch, step: int) -> Tensor:
        if bare and is_written_down(model):  # asked each time: `at_step` may add hooks
            return bare_losses(model, batch, recipe).mean()[None]
        rng = derive_generator(seed, "dropout", what, step)
        hooks = dropout_hooks(model, recipe.dropout, rng)
        n_slots = host_of(model).n_reserved or 0
        tokens, placing = fast_baseline(model, n_slots, batch.tokens, recipe.baseline)
        fed = batch.behind(tokens).to(host_of(model).device)
        return sequence_losses(model, fed, recipe, [*placing, *hooks]).mean()[None]

    model.train()
    history = optimise(
        [Run("weights", parameters, recipe.lr, decayed)],
        loss,
        task,
        recipe,
        seed=seed,
        check=lambda batch: check_batch(model, batch, name=task.name),
        identity={"what": what, "model": start, "content_start": host_of(model).n_reserved},
        checkpoint=checkpoint,
        at_step=lambda step: at_step and at_step(step, model),
        progress=progress,
        description=f"{what} {task.name}",
    )
    model.eval()
    (score,) = scored_once(
        checkpoint, lambda: [evaluate(model, task, seed=seed, baseline=recipe.baseline)]
    )
    return ModelFit(model, history, score, recipe)
