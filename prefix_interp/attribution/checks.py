"""Checks before two runs are compared: without them the numbers would be silently wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from prefix_interp.attribution.metrics import Metric, Target
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import Batch


def check_answers(model: Model, batch: Batch) -> None:
    """Raise unless each row of tokens has a row of answers from the model's vocabulary."""
    answers, shape = batch.answers, tuple(batch.tokens.shape)
    fits = answers.ndim == 2 and len(shape) == 2 and len(answers) == shape[0]
    if not fits or not 1 <= answers.shape[1] <= shape[1]:
        raise PrefixInterpError(
            f"answers have shape {tuple(answers.shape)} but tokens {shape}; give answers "
            "for each row of tokens, one for each of the last positions"
        )
    d_vocab = host_of(model).d_vocab
    whole = not answers.is_floating_point() and answers.dtype != torch.bool
    if not whole or int(answers.min()) < 0 or int(answers.max()) >= d_vocab:
        raise PrefixInterpError(
            f"answers must be integers from 0 to {d_vocab - 1}, the vocabulary; they "
            f"are {answers.dtype} from {answers.min().item()} to {answers.max().item()}"
        )


def check_finite(runs: RunPair) -> None:
    """Raise on NaN, since TransformerLens treats a row of NaN scores as a row without attention."""
    for layer in range(host_of(runs.model).n_layers):
        for site in (Site.Q, Site.K, Site.V, Site.RESID_POST):
            if not bool(torch.isfinite(runs.on[site.at(layer)]).all()):
                raise PrefixInterpError(
                    f"model has NaN or infinity at {site.at(layer)!r}; its weights, or the "
                    "prefix, cannot be attributed to"
                )


def check_metrics(metrics: Mapping[str, Metric], target: Target) -> None:
    """Raise unless each metric gives one value per run of a stack and example."""
    expected = (2, len(target.answers))
    for name, metric in metrics.items():
        shape = tuple(metric(target.logits_on.expand(2, *target.logits_on.shape), target).shape)
        if shape != expected:
            raise PrefixInterpError(
                f"metrics[{name!r}] gives shape {shape} for a stack of 2 runs on {expected[1]} "
                f"examples; it must keep the leading axes: {expected}"
            )


def check_same(runs: RunPair, runs_id: str, model: Model, prefix: Prefix) -> None:
    """Raise unless finished runs belong to this model with its present weights and to this prefix.

    Args:
        runs: already made.
        runs_id: fingerprint of the weights that ran.
        model: the one that the caller names.
        prefix: the one that the caller names.
    """
    if model_id(model) != runs_id:
        raise PrefixInterpError(
            f"task is a contrast of the model {runs_id!r} but model is {model_id(model)!r}; give "
            "the contrast's model with its weights unchanged, or a task"
        )
    ours, theirs = prefix.tensors, runs.prefix.tensors
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    if not same:
        raise PrefixInterpError(
            "task is a contrast of another prefix than the one given; give the contrast's own "
            "prefix, or a task"
        )
