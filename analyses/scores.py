"""Rows of scores: how well a model does tasks, with a context or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from analyses.study import Rows
from prefix_interp.models.host import Model
from prefix_interp.prefixes.baselines import Baseline
from prefix_interp.prefixes.context import Context
from prefix_interp.tasks import get_task
from prefix_interp.tuning.evaluate import answer_scores, scored


def score_rows(
    about: Mapping[str, Any],
    model: Model,
    tasks: Sequence[str],
    context: Context | None = None,
    *,
    baseline: Baseline | str,
    n: int,
    train_loss: float | None = None,
    by_output: bool = False,
) -> Rows:
    """Return one row per task: how well `model` does it, with a context or without.

    The study's seed also draws the test sequences (``test_seed``), so that the spread between seeds
    contains the error of a finite test set.

    Args:
        about: keys that describe every row: seed, method, rate and so on; they precede those of the
            context.
        model: frozen.
        tasks: names.
        context: a prefix or soft prompt; None for the model alone.
        baseline: what "no prefix" means.
        n: number of test sequences; they are the same for all models of a seed.
        train_loss: training loss of the model or context, if it was trained.
        by_output: also return the share of right answers at each output.
    """
    rows: Rows = []
    test_seed = int(about.get("seed", 0))
    for task in map(get_task, tasks):
        batch = task.sample(n, split="test", seed=test_seed)
        right, loss, _ = answer_scores(model, batch, context, baseline)
        row = {
            **about,
            **{key: value for key, value in _shape(context).items() if key not in about},
            "task": task.name,
            "baseline": baseline if context is None else "prefix",
            "train_loss": None if train_loss is None else float(train_loss),
            "test_seed": test_seed,
            "evaluation": scored(task.name, batch, right, loss).to_dict(),
        }
        rows.append(row | ({"by_output": shares(right)} if by_output else {}))
    return rows


def shares(right: Bool[Tensor, "batch n_out"]) -> list[float]:
    """Return the share of right answers at each output, 0 to 1."""
    return [round(x, 6) for x in right.double().mean(dim=0).tolist()]


def _shape(context: Context | None) -> dict[str, Any]:
    if context is None:
        return {"parameterization": None, "n_slots": None}
    return {**context.settings, "n_slots": context.n_slots}
