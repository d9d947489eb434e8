"""Checks before two runs are compared: without them the numbers would be silently wrong."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import FrameType

import torch
from torch import Tensor

from prefix_interp.attribution.metrics import Metric, Target
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.words import counted


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
        found = metric(target.logits_on.expand(2, *target.logits_on.shape), target)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise PrefixInterpError(
                f"metrics[{name!r}] gives {kind}; return a tensor of floats, e.g. with .float()"
            )
        shape = tuple(found.shape)
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
    same = same and prefix.settings == runs.prefix.settings
    if not same:
        raise PrefixInterpError(
            "task is a contrast of another prefix than the one given; give the contrast's own "
            "prefix, or a task"
        )


def differs(a: Tensor, b: Tensor) -> bool:
    """Return whether two metrics differ beyond rounding in any example."""
    noise = 1e3 * torch.finfo(a.dtype).eps
    return bool((a - b).abs().max() > noise * max(1.0, float(a.abs().max())))


def warn_if_moved(off: Mapping[str, Tensor], plain: Mapping[str, Tensor], n_slots: int) -> None:
    """Warn if to move the content behind masked slots alone changes a metric.

    Args:
        off: each metric without the prefix, the content behind the slots.
        plain: each metric of the model as it is.
        n_slots: by how many positions the content moves.
    """
    for name in off:
        if differs(plain[name], off[name]):
            warnings.warn(
                f"{counted(n_slots, 'slot')} move the content by as many positions, and "
                f"that alone changes {name} from {plain[name].double().mean():.4g} (plain) to "
                f"{off[name].double().mean():.4g} (off, what the prefix is compared with); give "
                "the prefix positions='keep' to leave the content where it is",
                stacklevel=_levels_up(sys._getframe()),
            )


def _levels_up(frame: FrameType) -> int:
    """Return how many calls above this one the first line outside this package stands."""
    level = 1
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in ("prefix_interp", "jaxtyping", "beartype")
