"""Path-integrated effects of heads, which add up to what the prefix does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import pandas as pd
import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.effects import Effects
from prefix_interp.attribution.gradients import metric_gradients
from prefix_interp.attribution.metrics import Metric, choose_metric
from prefix_interp.attribution.pair import MAX_SEQUENCES, Contrast
from prefix_interp.attribution.patching import Cell, patch_cells
from prefix_interp.attribution.quadrature import PathIntegral, integrate_path
from prefix_interp.errors import PrefixInterpError, check_choice, check_number, check_positive
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.given import ContextLike
from prefix_interp.prefixes.layout import Hook
from prefix_interp.tasks import Batch, Task

Over = Literal["gates", "z", "z_direct"]


@dataclass(frozen=True, eq=False, repr=False)
class IntegratedGradients(Effects):
    """What each head contributes along a straight path from a run without the prefix to one with.

    Attributes:
        over: what moves along the path: ``"gates"``, ``"z"`` or ``"z_direct"``.
        metric: what is attributed.
        axes: names of the leading axes of `values`.
        values: the share of each head (and slot).
        start: the metric at the start of each path, from a separate run.
        end: the metric at the end of each path, from a separate run.
        steps: number of gradients along each path.
        plain: the metric of the model as it is (see `Contrast`).

    Example:
        >>> found = pi.integrated_gradients(model, prefix, task, n=4, progress=False)
        >>> found.axes
        ('layer', 'head', 'slot')
    """

    over: Over | str
    metric: str
    axes: tuple[str, ...]
    values: Float[Tensor, "*axes batch"]
    start: Float[Tensor, "*paths batch"]
    end: Float[Tensor, "*paths batch"]
    steps: tuple[int, ...]
    plain: Float[Tensor, " batch"] | None = None

    @property
    def error(self) -> Float[Tensor, "*paths batch"]:
        """Return the sum of the shares minus the whole change: 0 up to quadrature and rounding."""
        one_a_path = self.values.flatten(self.start.ndim - 1, -2).sum(dim=-2)
        return one_a_path - (self.end - self.start)

    @property
    def completeness(self) -> float:
        """Return the largest error of any example and path, in units of the metric."""
        return float(self.error.abs().max())

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Return the one metric that was attributed."""
        return (self.metric,)

    def effect(self, metric: str | None = None) -> Float[Tensor, "*axes batch"]:
        """Return the shares; a `PatchGrid` has its effects under the same name."""
        check_choice("metric", self.metric if metric is None else metric, self.metric_names)
        return self.values

    def to_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return one row per head (and slot).

        Columns: the axes, ``metric``, ``effect`` (mean share over examples) with its bootstrap
        interval ``low`` and ``high``, and ``share``, the effect over the mean change along the
        path.

        Args:
            level: of the interval, over examples.
        """
        mean = self.values.mean(dim=-1)
        change = (self.end - self.start).mean(dim=-1)
        low, high = bootstrap_interval(self.values, level=level)
        share = mean / change.reshape(*change.shape, *[1] * (mean.ndim - change.ndim))
        columns = {"metric": self.metric, "effect": mean, "low": low, "high": high, "share": share}
        return self._frame(mean.shape, columns)

    def caption(self) -> str:
        """Return the path, the sizes, the change along the path and the error of the shares."""
        changes = (self.end - self.start).mean(dim=-1).flatten().tolist()
        along = f"{changes[0]:.4g}"
        if len(changes) > 1:
            along = f"{min(changes):.4g} to {max(changes):.4g} on {len(changes)} paths"
        return (
            f"over {self.over}; {self._sizes()}; {self.metric} changes by {along}, shares miss it "
            f"by at most {self.completeness:.1e}"
        )


def integrated_gradients(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
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
    separate runs. Along the path

    - ``"gates"``: all gates of the prefix go from 0, the masked baseline, to 1. Shares of all
      heads and slots add up to on - off.
    - ``"z"``: the outputs of one layer's heads move from their values without the prefix to those
      with it, and later layers respond. There is one path per layer, each from off to the run in
      which all heads of the layer are patched (`patch_heads`, denoise).
    - ``"z_direct"``: the outputs of all heads of all layers move together, whatever they would
      compute. A head's effect through later heads counts as theirs. Shares add up to on - off.

    Sharp attention makes the metric jump along a path, and equal steps would miss much of the
    change. Steps are therefore halved if the shares of a piece miss the change across it.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made.
        over: ``"gates"``, ``"z"`` or ``"z_direct"``.
        tolerance: largest error of an example's sum, as a share of the largest change of any
            example (or of 1, if that is more).
        max_steps: largest number of gradients on a path; 32 are always taken.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task.
        metric: a name in `METRICS`, or one metric of your own by name.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, an unknown path, more than one metric, a metric without
            a gradient, or shares that do not add up within `tolerance`.

    Example:
        >>> found = pi.integrated_gradients(model, prefix, task, n=4, progress=False)
        >>> found.to_dataframe().columns.tolist()
        ['layer', 'head', 'slot', 'metric', 'effect', 'low', 'high', 'share']
    """
    check_choice("over", over, get_args(Over))
    check_number("tolerance", tolerance, 0.0, low_open=True)
    check_positive("max_steps", max_steps)
    (name,) = chosen = choose_metric(metric)
    with torch.inference_mode(False):
        pair = contrast(model, prefix, task, n=n, seed=seed, metrics=chosen)
        prefix = pair.prefix
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
    result = IntegratedGradients(over, name, axes, values, start, end, steps, pair.plain[name])
    error = max(result.completeness, *(float(path.error.max()) for path in found))
    if not error <= allowed:
        raise PrefixInterpError(
            f"max_steps={max_steps} are too few: shares miss the change by up to {error:.3g}, "
            f"tolerance={tolerance!r} allows {allowed:.3g}; raise one of them"
        )
    return result


def _gate_slopes(
    pair: Contrast, name: str, at: Float[Tensor, " stack"]
) -> tuple[Float[Tensor, "stack batch"], Float[Tensor, "stack layer head slot batch"]]:
    """Return the metric and its slope in each gate, with all gates at the values `at`."""
    host = host_of(pair.model)
    gates = repeat(
        host.cast(at), "stack -> (stack batch) layer head slot", batch=pair.n_batch,
        layer=host.n_layers, head=host.n_heads, slot=pair.n_slots,
    ).clone().requires_grad_()  # fmt: skip
    with torch.enable_grad():
        value = pair.measure(pair.logits("off", len(at), [], gates=gates))[name]
    (slopes,) = metric_gradients(name, value, [gates])
    by_head = "(stack batch) layer head slot -> stack layer head slot batch"
    return value.detach(), rearrange(slopes, by_head, stack=len(at))


def _z_slopes(
    pair: Contrast, name: str, at: Float[Tensor, " stack"], *, layers: Sequence[int]
) -> tuple[Float[Tensor, "stack batch"], Float[Tensor, "stack layer head batch"]]:
    """Return the metric and its slope per head, with z a share `at` of the way to the prefix."""
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
    slopes = torch.stack(metric_gradients(name, value, leaves))
    slopes = rearrange(slopes, "layer (stack batch) ... -> layer stack batch ...", stack=len(at))
    by_head = "layer stack batch pos head d_head -> stack layer head batch"
    return value.detach(), reduce(slopes * moves[:, None], by_head, "sum")
