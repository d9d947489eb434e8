"""Which heads a prefix elicits, and by which part of its effect on them.

A head's total effect is split into gate, bias and propagated (see `coalitions`) and compared with
the effects of random prefixes at the same head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from tqdm.auto import tqdm

from prefix_interp.attribution.coalitions import (
    PARTS,
    HeadEffects,
    coalition_values,
    shapley_values,
)
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.controls import (
    NORM_MATCHED,
    check_controls,
    head_effects,
    random_prefixes,
)
from prefix_interp.attribution.grid import Direction
from prefix_interp.attribution.metrics import Metric, choose_metric, ends, recovered
from prefix_interp.attribution.pair import Contrast
from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import NORM_SCALE
from prefix_interp.prefixes.given import ContextLike
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.tasks import Batch, Task, mean_over_answers
from prefix_interp.theory.decompose import Decomposition, decompose_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Elicitation(ResultObject):
    """Effects of a prefix through each single head, per example, and those of other prefixes.

    Effects are in the units of the metric and point from off to on. For a metric that the prefix
    raises, a positive effect acts in the prefix's direction.

    Attributes:
        direction: ``"denoise"`` (the head's prefixed output in the plain run: is it enough?) or
            ``"noise"`` (its plain output in the prefixed run: is it needed?).
        metric: what was measured.
        effect: the total, equal to ``gate + bias + propagated``.
        gate: Shapley value (Shapley 1953) of scaling the head's own output by 1 - g.
        bias: Shapley value of adding b.
        propagated: Shapley value of the changed input; exactly 0 in layer 0.
        interaction: the total minus the effects of the three parts inserted one at a time, a
            measure of how much they depend on each other. The Shapley values include it.
        logit_attribution: see `bias_logit_attribution`, in logits.
        on: the metric with the prefix.
        off: the metric without it.
        controls: total effects under other prefixes, one or more draws of each, by name.
        baseline: what off means.

    Example:
        >>> found = pi.head_elicitation(model, prefix, task, n=8, n_random=2, progress=False)
        >>> found.to_dataframe()["head"].tolist()
        [0, 1, 2, 3]
    """

    direction: Direction | str
    metric: str
    effect: HeadEffects
    gate: HeadEffects
    bias: HeadEffects
    propagated: HeadEffects
    interaction: HeadEffects
    logit_attribution: HeadEffects
    on: Float[Tensor, " batch"]
    off: Float[Tensor, " batch"]
    controls: Mapping[str, Float[Tensor, "_ layer head batch"]]
    baseline: str = "masked"

    @property
    def level(self) -> float:
        """Return the level of the interval of the excess, 1 - 2 / (draws + 1).

        If the prefix were one more norm-matched random prefix beside R others, each head's mean
        effect would take any of the R + 1 ranks with equal probability, whatever its distribution.
        It would lie outside the R others with probability 2 / (R + 1) (Hope 1968). The level is
        that of one head: at 95%, at most 5 of 100 heads are on average elicited by chance.
        """
        return 1 - 2 / (len(self.controls[NORM_MATCHED]) + 1)

    @property
    def rounding(self) -> float:
        """Return the largest excess that could be rounding: 1000 machine epsilons times the metric.

        Rounding grows with what a prefix writes, even if nothing reads it.
        """
        size = max(1.0, float(self.on.abs().max()), float(self.off.abs().max()))
        return 1000 * torch.finfo(self.on.dtype).eps * size

    def to_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return one row per head.

        Columns: ``layer``, ``head``; means over examples of ``effect`` (with its bootstrap
        interval ``low`` and ``high``), ``gate``, ``bias``, ``propagated``, ``interaction``,
        ``direct`` (gate + bias) and ``logit_attribution``; ``recovered``, the effect divided by
        that of the whole prefix; ``control``, the mean effect of the norm-matched random prefixes;
        ``excess`` (effect - control) from ``excess_low`` (effect - largest control) to
        ``excess_high`` (effect - smallest), at the level `Elicitation.level`; ``elicited``, whether
        that interval excludes 0 by more than `Elicitation.rounding` and the bootstrap interval does
        so on the same side. The second condition matters where random prefixes do harm: a head
        without any effect lies above them, but is not elicited.

        The bootstrap interval says how well the effect is known on these inputs. It does not test
        elicitation, since the intervals of random prefixes exclude 0 too.

        Args:
            level: of the bootstrap interval.
        """
        low, high = bootstrap_interval(self.effect, level=level)
        effect = self.effect.mean(-1)
        draws = self.controls[NORM_MATCHED].mean(-1)
        excess_low, excess_high = effect - draws.amax(0), effect - draws.amin(0)
        total = self.on.double().mean() - self.off.double().mean()
        columns = {
            "effect": effect,
            "low": low,
            "high": high,
            "recovered": recovered(effect, total * 0, total),
            **{name: getattr(self, name).mean(-1) for name in (*PARTS, "interaction")},
            "direct": (self.gate + self.bias).mean(-1),
            "control": draws.mean(0),
            "excess": effect - draws.mean(0),
            "excess_low": excess_low,
            "excess_high": excess_high,
            "elicited": ((excess_low > self.rounding) & (low > 0))
            | ((excess_high < -self.rounding) & (high < 0)),
            "logit_attribution": self.logit_attribution.mean(-1),
        }
        return _row_per_head(columns)

    def parts_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return one row per head and part, with a bootstrap interval over examples.

        Columns: ``layer``, ``head``, ``part`` (``"effect"``, ``"gate"``, ``"bias"``,
        ``"propagated"`` or ``"interaction"``), ``value`` (mean), ``low``, ``high``.

        Args:
            level: of the interval.
        """
        frames = []
        for name in ("effect", *PARTS, "interaction"):
            value = getattr(self, name)
            low, high = bootstrap_interval(value, level=level)
            frame = _row_per_head({"value": value.mean(-1), "low": low, "high": high})
            frame.insert(2, "part", name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def controls_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return one row per control and head.

        Columns: ``control``, ``layer``, ``head``, ``draws``, ``effect`` (mean over draws and
        examples), ``low``, ``high``: the smallest and largest draw or, for a control that is a
        single prefix, its bootstrap interval over examples.

        Args:
            level: of the bootstrap interval.
        """
        frames = []
        for name, effect in self.controls.items():
            draws = effect.mean(-1)
            if len(draws) > 1:
                low, high = draws.amin(0), draws.amax(0)
            else:
                low, high = bootstrap_interval(effect[0], level=level)
            frame = _row_per_head({"effect": draws.mean(0), "low": low, "high": high})
            frame.insert(0, "control", name)
            frame.insert(3, "draws", len(draws))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def caption(self) -> str:
        """Return the direction, the sizes, the metric in both runs, and the elicited heads."""
        frame = self.to_dataframe()
        chosen = frame.loc[frame["elicited"]]
        heads = [f"{i}.{j}" for i, j in zip(chosen["layer"], chosen["head"], strict=True)]
        n_layers, n_heads, n = self.effect.shape
        return (
            f"{self.direction}; {n_layers} x {n_heads} heads, {n} examples; "
            f"{ends({self.metric: self.on}, {self.metric: self.off})}; elicited: "
            f"{', '.join(heads[:8]) or 'none'}" + (", ..." if len(heads) > 8 else "")
        )

    def plot(self) -> Figure:
        """Return each head's effect as stacked parts, beside the range of random prefixes."""
        return drawing("elicitation.elicitation_figure")(
            {self.direction: self.to_dataframe()}, drawing("effects.unit_of")(self.metric)
        )


def head_elicitation(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    direction: Direction | str = "denoise",
    metric: str | Mapping[str, Metric] = "log_prob",
    n_random: int = 39,
    controls: Mapping[str, Prefix] | None = None,
    n: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Elicitation:
    """Return which heads a prefix elicits: its effect through each head, in parts, and controls.

    Every control is compared with its own run without prefix on the same batch, and with
    ``metric="kl"`` also with its own prefixed run.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made, with at least
            2 examples.
        direction: ``"denoise"`` or ``"noise"``.
        metric: a name in `METRICS`, or one metric of your own by name.
        n_random: draws of each random control, at least 2; 39 draws allow a level of 95%.
        controls: prefixes to compare with by name, e.g. another task's or another seed's.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task, and the random prefixes.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, an unknown direction or metric, controls that do not
            fit or whose name is taken, or too few examples or draws.

    Example:
        >>> found = pi.head_elicitation(model, prefix, task, n=8, n_random=2, progress=False)
        >>> tuple(found.effect.shape)  # layer, head, example
        (1, 4, 8)
    """
    check_choice("direction", direction, ("denoise", "noise"))
    (name,) = chosen = choose_metric(metric)
    check_positive("n_random", n_random)
    if n_random < 2:
        raise PrefixInterpError("n_random=1 makes an interval of level 0; give at least 2")
    named = check_controls(model, controls)
    pair = contrast(model, prefix, task, n=n, seed=seed, metrics=chosen)
    prefix = pair.prefix
    if pair.n_batch < 2:
        raise PrefixInterpError("n=1 example has no interval; give at least 2")
    drawn = random_prefixes(model, prefix, n_random, seed)
    steps = 1 + host_of(model).n_layers + sum(map(len, drawn.values())) + len(named)
    with tqdm(total=steps, desc=f"eliciting, {direction}", disable=not progress) as bar:
        (effect,) = head_effects(pair, [prefix], direction, bar)
        parts = decompose_attention(pair.runs)
        values = coalition_values(pair, parts, direction, effect, bar)
        found = {k: head_effects(pair, group, direction, bar) for k, group in drawn.items()}
        for who, control in named.items():  # its slots may differ, and so its plain run
            own = contrast(model, control, pair.batch, metrics=chosen)
            found[who] = head_effects(own, [control], direction, bar)
    split = shapley_values(values)
    alone = values[[1 << i for i in range(len(PARTS))]] - values[0]
    return Elicitation(
        direction=direction,
        metric=name,
        effect=effect,
        interaction=effect - alone.sum(dim=0),
        logit_attribution=bias_logit_attribution(pair, parts),
        on=pair.on[name],
        off=pair.off[name],
        controls=found,
        **dict(zip(PARTS, split, strict=True)),
    )


def bias_logit_attribution(
    pair: Contrast, parts: Decomposition
) -> Float[Tensor, "layer head batch"]:
    """Return how much each head's bias raises the right answer's logit above the mean logit.

    This counts only the direct path: b W_O through the final norm and the unembedding, before any
    cap on logits. The norm's scale is frozen at that of the prefixed run, which makes it linear.
    Later layers and MLPs are left out, so a head whose bias only an MLP reads shows nothing here:
    compare with its effect.

    Args:
        pair: from `contrast`.
        parts: its decomposition.

    Returns:
        Logits, mean over outputs.
    """
    host, batch = host_of(pair.model), pair.batch
    answers = batch.answers.clamp(min=0)
    with torch.no_grad():
        read = host.W_U.T[answers] - host.W_U.mean(dim=-1)  # batch n_out d_model
        read = _through_frozen(pair, host.final_norm, read)
        found = []
        for layer, bias in enumerate(parts.bias):
            attn = host.attention(layer)
            own = _through_frozen(pair, attn.norm_behind, read)
            written = einsum(
                batch.read(bias.transpose(0, 1)),
                attn.W_O,
                "head batch n_out d_head, head d_head d_model -> batch head n_out d_model",
            )
            raised = einsum(
                written, own, "batch head n_out d_model, batch n_out d_model -> head batch n_out"
            )
            found.append(mean_over_answers(raised, batch.answers))
        return torch.stack(found).double()


def _through_frozen(
    pair: Contrast, norm: nn.Module | None, read: Float[Tensor, "batch n_out d_model"]
) -> Float[Tensor, "batch n_out d_model"]:
    """Return the directions that `read` reads before `norm`, its scale that of the prefixed run."""
    point = getattr(norm, NORM_SCALE, None)
    if norm is None or point is None:
        return read
    scale = pair.batch.read(pair.runs.on[point.name])
    with torch.enable_grad(), pair.model.hooks(fwd_hooks=[(point.name, lambda _, hook: scale)]):
        x = torch.zeros_like(read, requires_grad=True)
        return torch.autograd.grad(norm(x), x, read)[0]


def _row_per_head(columns: Mapping[str, Shaped[Tensor, "layer head"]]) -> pd.DataFrame:
    grid = next(iter(columns.values())).shape
    index = pd.MultiIndex.from_product([range(k) for k in grid], names=["layer", "head"])
    flat = {name: x.flatten().tolist() for name, x in columns.items()}
    return pd.DataFrame(flat, index=index).reset_index()
