"""First-order and path-integrated effects of heads: what gradients say of every patch at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import pandas as pd
import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.contrast import MAX_SEQUENCES, Contrast, contrast
from prefix_interp.attribution.grid import Direction, PatchGrid
from prefix_interp.attribution.metrics import Metric
from prefix_interp.attribution.patching import HEAD_SITES, Cell, donor_activation, patch_cells
from prefix_interp.attribution.quadrature import PathIntegral, integrate_path
from prefix_interp.errors import PrefixInterpError, check_choice, check_number, check_positive
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import Batch, Task

GradientSite = Literal["z", "q", "k", "v", "pattern", "gate"]
Over = Literal["gates", "z", "z_direct"]


@dataclass(frozen=True, eq=False)
class IntegratedGradients:
    """What each head adds along a straight path from a run without the prefix to one with it.

    Attributes:
        over: what moves along the path: ``"gates"``, ``"z"`` or ``"z_direct"``.
        metric: what is attributed.
        axes: names of the leading axes of `values`.
        values: the share of each head (and slot).
        start: the metric at the start of each path, from a run of its own.
        end: the metric at the end of each path, from a run of its own.
        steps: gradients taken on each path.
    """

    over: Over | str
    metric: str
    axes: tuple[str, ...]
    values: Float[Tensor, "*axes batch"]
    start: Float[Tensor, "*paths batch"]
    end: Float[Tensor, "*paths batch"]
    steps: tuple[int, ...]

    @property
    def error(self) -> Float[Tensor, "*paths batch"]:
        """Return the sum of the shares less the whole change; 0 up to quadrature and rounding."""
        one_a_path = self.values.flatten(self.start.ndim - 1, -2).sum(dim=-2)
        return one_a_path - (self.end - self.start)

    @property
    def completeness(self) -> float:
        """Return the largest error of any example and path, in units of the metric."""
        return float(self.error.abs().max())

    def effect(self, metric: str | None = None) -> Float[Tensor, "*axes batch"]:
        """Return the shares, under the name that a `PatchGrid` has for its effects."""
        check_choice("metric", self.metric if metric is None else metric, (self.metric,))
        return self.values

    def to_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return a row a head (and slot).

        Columns: the axes, ``metric``, ``effect`` (mean share over examples) with its bootstrap
        interval ``low`` and ``high``, and ``share``, the effect over the mean change of the path.

        Args:
            level: of the interval, over examples.
        """
        mean = self.values.mean(dim=-1)
        change = (self.end - self.start).mean(dim=-1)
        low, high = bootstrap_interval(self.values, level=level)
        index = pd.MultiIndex.from_product([range(k) for k in mean.shape], names=self.axes)
        share = mean / change.reshape(*change.shape, *[1] * (mean.ndim - change.ndim))
        columns = {"effect": mean, "low": low, "high": high, "share": share}
        data = {"metric": self.metric} | {k: x.flatten().tolist() for k, x in columns.items()}
        return pd.DataFrame(data, index=index).reset_index()


class Agreement(NamedTuple):
    """How well an estimate of effects agrees with the exact ones, over means of examples.

    Attributes:
        spearman: rank correlation, -1 to 1; NaN if all effects of one side are equal.
        pearson: correlation, -1 to 1; likewise.
        max_difference: largest absolute difference, in units of the metric.
    """

    spearman: float
    pearson: float
    max_difference: float


def attribution_patch(
    model: Model,
    prefix: Prefix,
    task: Task | Batch | str,
    *,
    direction: Direction | str = "denoise",
    site: GradientSite | str = "z",
    by_position: bool = False,
    n: int = 64,
    seed: int = 0,
    metric: str | Mapping[str, Metric] = "log_prob",
) -> PatchGrid:
    """Return the first-order estimate of `patch_heads`, from one forward and one backward pass.

    Every patch is estimated at once by (donor - base) * gradient, taken in the run that is
    patched (Nanda 2023; Syed et al. 2023). It is exact where the metric is linear in the
    activation; `agreement` says how far it is from exact patches. Of the site ``"gate"`` it
    estimates `patch_slots` with axes layer and head. Beware of its denoise form: the slope at gate
    0 is a slot's exp(score) over the content's, not its attention, and overstates slots that take
    most of it without bound; its noise form misses them, for there the slope is near 0. Both rank
    heads badly where attention is saturated: `integrated_gradients` does not.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        task: a task, its name, or a batch of your own.
        direction: ``"denoise"`` or ``"noise"``; ``"kl"`` has no slope where noise begins.
        site: as in `patch_heads`, or ``"gate"``.
        by_position: estimate each content position alone; a gate has no positions.
        n: examples.
        seed: chooses the examples.
        metric: a name in `METRICS`, or functions by name; each takes a backward pass.

    Raises:
        PrefixInterpError: as `contrast`, an unknown direction or site, positions of a gate, or a
            metric without a gradient.
    """
    check_choice("site", site, get_args(GradientSite))
    check_choice("direction", direction, get_args(Direction))
    if by_position and site == "gate":
        raise PrefixInterpError(
            "by_position=True does not go with site='gate': a gate has no positions; leave it out"
        )
    base, donor = ("off", "on") if direction == "denoise" else ("on", "off")
    with torch.inference_mode(False):
        pair = contrast(model, prefix, task, n=n, seed=seed, metrics=metric)
        host = host_of(model)
        layers = range(host.n_layers)
        seen: dict[int, Tensor] = {}
        gates = None
        hooks: list[Hook] = []
        if site == "gate":
            shape = (pair.n_batch, host.n_layers, host.n_heads, prefix.n_slots)
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
            slopes = _gradients(name, value, leaves)
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
    return PatchGrid(direction, f"{what}, first order", axes, values, pair.on, pair.off)


def integrated_gradients(
    model: Model,
    prefix: Prefix,
    task: Task | Batch | str,
    *,
    over: Over | str = "gates",
    tolerance: float = 1e-3,
    max_steps: int = 8192,
    n: int = 64,
    seed: int = 0,
    metric: str | Mapping[str, Metric] = "log_prob",
    progress: bool = True,
) -> IntegratedGradients:
    """Return each head's share of what the prefix does (Sundararajan et al. 2017).

    The shares add up to the change from the start of the path to its end, which is checked against
    runs of their own. Along the path

    - ``"gates"``: all gates of the prefix go from 0, the masked baseline, to 1. Shares of all
      heads and slots add up to on - off.
    - ``"z"``: the outputs of one layer's heads go from those of the run without prefix to those
      of the run with it, and later layers follow. A path a layer, each from off to the run in
      which all heads of the layer are patched (`patch_heads`, denoise).
    - ``"z_direct"``: the outputs of all heads of all layers do so together, whatever they would
      compute. What a head does through later heads is theirs. All shares add up to on - off.

    Sharp attention makes the metric jump along a path, so that steps of equal width would miss
    much of it: they are halved where the shares of a piece miss the change across it.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        task: a task, its name, or a batch of your own.
        over: ``"gates"``, ``"z"`` or ``"z_direct"``.
        tolerance: largest error of an example's sum, as a share of the largest change of any
            example (or of 1, if that is more).
        max_steps: gradients on a path at most; 32 are always taken.
        n: examples.
        seed: chooses the examples.
        metric: a name in `METRICS`, or one function by name.
        progress: show a bar.

    Raises:
        PrefixInterpError: as `contrast`, an unknown path, more than one metric, one without a
            gradient, or shares that do not add up within `tolerance`.
    """
    check_choice("over", over, get_args(Over))
    check_number("tolerance", tolerance, 0.0, low_open=True)
    check_positive("max_steps", max_steps)
    with torch.inference_mode(False):
        pair = contrast(model, prefix, task, n=n, seed=seed, metrics=metric)
        if len(pair.metrics) > 1:
            raise PrefixInterpError(f"metric={list(pair.metrics)} are several; give one")
        name = next(iter(pair.metrics))
        layers = list(range(host_of(model).n_layers))
        start, end = pair.off[name], pair.on[name]
        if over == "z":
            patched = patch_cells(pair, [Cell(Site.Z, i) for i in layers], "denoise", False)
            start, end = start.expand(len(layers), -1), patched[name]
        allowed = tolerance * max(1.0, float((end - start).abs().max()))
        size = max(1, MAX_SEQUENCES // pair.n_batch)
        with tqdm(desc=f"gradients over {over}", disable=not progress) as bar:

            def along(evaluate: Callable[..., tuple[Tensor, Tensor]]) -> PathIntegral:
                def step(at: Float[Tensor, " stack"]) -> tuple[Tensor, Tensor]:
                    bar.update(len(at))
                    return evaluate(pair, name, at)

                return integrate_path(step, allowed, max_steps, size)

            if over == "gates":
                found = [along(_gate_slopes)]
            else:
                paths = [[i] for i in layers] if over == "z" else [layers]
                found = [along(partial(_z_slopes, layers=path)) for path in paths]
    values = torch.cat([path.values for path in found])
    axes = ("layer", "head", "slot") if over == "gates" else ("layer", "head")
    steps = tuple(path.steps for path in found)
    result = IntegratedGradients(over, name, axes, values, start, end, steps)
    error = max(result.completeness, *(float(path.error.max()) for path in found))
    if not error <= allowed:
        raise PrefixInterpError(
            f"max_steps={max_steps} are too few: shares miss the change by up to {error:.3g}, "
            f"tolerance={tolerance!r} allows {allowed:.3g}; raise one of them"
        )
    return result


def agreement(
    estimate: PatchGrid | IntegratedGradients, exact: PatchGrid, metric: str = "log_prob"
) -> Agreement:
    """Return how well the mean effects of an estimate agree with those of exact patches.

    Args:
        estimate: from `attribution_patch` or `integrated_gradients`.
        exact: from `patch_heads` or `patch_slots`, with the same axes.
        metric: a metric of both.

    Raises:
        PrefixInterpError: other axes, sizes or direction, or an unknown metric.
    """
    a, b = estimate.effect(metric), exact.effect(metric)
    if estimate.axes != exact.axes or a.shape[:-1] != b.shape[:-1]:
        raise PrefixInterpError(
            f"estimate has axes {estimate.axes} of {tuple(a.shape[:-1])}, exact has {exact.axes} "
            f"of {tuple(b.shape[:-1])}; make both of one model, prefix and choice of axes"
        )
    if isinstance(estimate, PatchGrid) and estimate.direction != exact.direction:
        raise PrefixInterpError(
            f"estimate has direction={estimate.direction!r}, exact has {exact.direction!r}; "
            "make both with the same"
        )
    flat = pd.DataFrame({"a": a.mean(-1).flatten().tolist(), "b": b.mean(-1).flatten().tolist()})
    difference = float((flat.a - flat.b).abs().max())
    return Agreement(_correlation(flat.rank()), _correlation(flat), difference)


def _correlation(two: pd.DataFrame) -> float:
    x, y = (torch.tensor((two[name] - two[name].mean()).to_numpy()) for name in two)
    return float((x * y).sum() / (x.norm() * y.norm()))


def _keeper(seen: dict[int, Tensor], layer: int):
    def keep(x: Float[Tensor, "batch *rest"], hook: object) -> None:
        seen[layer] = x if x.requires_grad else x.requires_grad_()

    return keep


def _gradients(name: str, value: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of summed metrics: a sequence's own, since no other moves with it."""
    if not value.requires_grad:
        raise PrefixInterpError(
            f"metric={name!r} has no gradient: it is a step of the logits; use 'log_prob' or "
            "'logit_difference'"
        )
    return torch.autograd.grad(value.sum(), list(leaves), retain_graph=True)


def _gate_slopes(
    pair: Contrast, name: str, at: Float[Tensor, " stack"]
) -> tuple[Float[Tensor, "stack batch"], Float[Tensor, "stack layer head slot batch"]]:
    """Return the metric and its slope in each gate where all gates have the values `at`."""
    host = host_of(pair.model)
    gates = repeat(
        host.cast(at), "stack -> (stack batch) layer head slot", batch=pair.n_batch,
        layer=host.n_layers, head=host.n_heads, slot=pair.pair.prefix.n_slots,
    ).clone().requires_grad_()  # fmt: skip
    with torch.enable_grad():
        value = pair.measure(pair.logits("off", len(at), [], gates=gates))[name]
    (slopes,) = _gradients(name, value, [gates])
    by_head = "(stack batch) layer head slot -> stack layer head slot batch"
    return value.detach(), rearrange(slopes, by_head, stack=len(at))


def _z_slopes(
    pair: Contrast, name: str, at: Float[Tensor, " stack"], *, layers: Sequence[int]
) -> tuple[Float[Tensor, "stack batch"], Float[Tensor, "stack layer head batch"]]:
    """Return the metric and its slope by head where z is a share `at` of the way to the prefix."""
    off = torch.stack([pair.activation("off", Site.Z, i) for i in layers])
    moves = torch.stack([pair.activation("on", Site.Z, i) for i in layers]) - off
    points = off[:, None] + at.to(off)[:, None, None, None, None] * moves[:, None]
    leaves = [rearrange(x, "stack batch ... -> (stack batch) ...").requires_grad_() for x in points]
    hooks: list[Hook] = [
        (Site.Z.at(i), lambda *_, z=z, **__: z) for i, z in zip(layers, leaves, strict=True)
    ]
    with torch.enable_grad():
        logits = pair.logits("off", len(at), hooks, layer=layers[0], after_attention=True)
        value = pair.measure(logits)[name]
    slopes = torch.stack(_gradients(name, value, leaves))
    slopes = rearrange(slopes, "layer (stack batch) ... -> layer stack batch ...", stack=len(at))
    by_head = "layer stack batch pos head d_head -> stack layer head batch"
    return value.detach(), reduce(slopes * moves[:, None], by_head, "sum")
