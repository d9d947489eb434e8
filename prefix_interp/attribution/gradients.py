"""First-order effects of heads: one gradient estimates every patch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.grid import Direction, PatchGrid
from prefix_interp.attribution.metrics import Metrics
from prefix_interp.attribution.pair import Contrast
from prefix_interp.attribution.patching import HEAD_SITES, donor_activation
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.given import ContextLike
from prefix_interp.prefixes.layout import Hook
from prefix_interp.tasks import Batch, Task

GradientSite = Literal["z", "q", "k", "v", "pattern", "gate"]


def attribution_patch(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    direction: Direction | str = "denoise",
    site: GradientSite | str = "z",
    by_position: bool = False,
    n: int = 64,
    seed: int = 0,
    metrics: Metrics = ("log_prob",),
) -> PatchGrid:
    """Return the first-order estimate of `patch_heads`, from one forward and one backward pass.

    Every patch is estimated at once by (donor - base) * gradient, with the gradient of the run that
    is patched (Nanda 2023; Syed et al. 2023). This is exact if the metric is linear in the
    activation; `PatchGrid.compare_with` measures the distance from exact patches. For the site
    ``"gate"`` it estimates `patch_slots` with axes layer and head. Beware of the denoise form
    there: the slope at gate 0 is a slot's exp(score) over the content's, not its attention, so
    slots that take most attention are overstated without bound. The noise form misses these slots,
    since their slope is near 0. Both forms rank heads badly if attention is saturated;
    `integrated_gradients` does not.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made.
        direction: ``"denoise"`` or ``"noise"``; ``"kl"`` has no slope where noise begins.
        site: as in `patch_heads`, or ``"gate"``.
        by_position: estimate each content position alone; a gate has no positions.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task.
        metrics: names in `METRICS`, or functions by name; each takes a backward pass.

    Raises:
        PrefixInterpError: as in `contrast`, an unknown direction or site, positions of a gate, or a
            metric without a gradient.

    Example:
        >>> grid = pi.attribution_patch(model, prefix, task, n=8)
        >>> grid.axes
        ('layer', 'head')
    """
    check_choice("site", site, get_args(GradientSite))
    check_choice("direction", direction, get_args(Direction))
    if by_position and site == "gate":
        raise PrefixInterpError(
            "by_position=True does not go with site='gate': a gate has no positions; leave it out"
        )
    base, donor = ("off", "on") if direction == "denoise" else ("on", "off")
    with torch.inference_mode(False):
        pair = contrast(model, prefix, task, n=n, seed=seed, metrics=metrics)
        prefix = pair.prefix
        host = host_of(model)
        layers = range(host.n_layers)
        seen: dict[int, Tensor] = {}
        gates = None
        hooks: list[Hook] = []
        if site == "gate":
            shape = (pair.n_batch, host.n_layers, host.n_heads, pair.n_slots)
            gates = host.cast(torch.full(shape, float(base == "on"))).requires_grad_()
        else:
            place = Site.Z if site == "pattern" else HEAD_SITES[site]
            hooks = [(place.at(layer), _keeper(seen, layer)) for layer in layers]
        with torch.enable_grad():
            logits = pair.logits(base, 1, hooks, gates=gates)
            measured = {name: value[0] for name, value in pair.measure(logits).items()}
        leaves = [seen[layer] for layer in layers] if gates is None else [gates]
        values = {}
        for name, value in measured.items():
            slopes = metric_gradients(name, value, leaves)
            if gates is not None:
                step = 1.0 if direction == "denoise" else -1.0
                change = rearrange(
                    (slopes[0] * step).sum(-1), "batch layer head -> layer head batch"
                )
            else:
                place = HEAD_SITES[site]
                new = [donor_activation(pair, place, layer, base, donor) for layer in layers]
                steps = torch.stack(new) - torch.stack(leaves).detach()
                change = (steps * torch.stack(slopes)).sum(-1)
                change = rearrange(change, "layer batch pos head -> layer head pos batch")
                change = change if by_position else change.sum(2)
            values[name] = getattr(pair, base)[name] + change
    axes = ("layer", "head", "pos") if by_position else ("layer", "head")
    what = "prefix mass" if site == "gate" else f"{site} of a head"
    what = f"{what}, first order"
    return PatchGrid(direction, what, axes, values, pair.on, pair.off, plain=pair.plain)


def _keeper(seen: dict[int, Tensor], layer: int):
    def keep(x: Float[Tensor, "batch *rest"], hook: object) -> Tensor:
        seen[layer] = x if x.requires_grad else x.requires_grad_()
        return x  # a language model's hooks see a view, which must be what goes on

    return keep


def metric_gradients(name: str, value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the summed metric: each sequence's own, as sequences do not interact.

    Args:
        name: name of the metric.
        value: the metric of every sequence.
        leaves: tensors to differentiate by.

    Raises:
        PrefixInterpError: the metric has no gradient.
    """
    if not value.requires_grad:
        raise PrefixInterpError(
            f"metric={name!r} has no gradient: it is a step function; use 'log_prob' or "
            "'logit_difference'"
        )
    return torch.autograd.grad(value.sum(), list(leaves), retain_graph=True)
