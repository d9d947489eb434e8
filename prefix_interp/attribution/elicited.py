"""The effect of a prefix through each head, beside those of random prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from prefix_interp.attribution.coalitions import PARTS, HeadEffects
from prefix_interp.attribution.controls import NORM_MATCHED
from prefix_interp.attribution.grid import Direction
from prefix_interp.attribution.metrics import ends, recovered
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.figure_files import Size, Width
from prefix_interp.result_object import ResultObject, drawing

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
        plain: the metric of the model as it is (see `Contrast`).

    Example:
        >>> found = pi.head_elicitation(model, prefix, task, n=8, n_random=2, progress=False)
        >>> sorted(found.to_dataframe()["head"])
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
    plain: Float[Tensor, " batch"] | None = None

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
        """Return one row per head, the largest absolute effect first.

        Columns: ``layer``, ``head``; means over examples of ``effect`` (with its bootstrap
        interval ``low`` and ``high``), ``gate``, ``bias``, ``propagated``, ``interaction``,
        ``direct`` (gate + bias) and ``logit_attribution``; ``recovered``, the effect divided by
        that of the whole prefix; ``control``, the mean effect of the norm-matched random prefixes;
        ``excess`` (effect - control) from ``excess_low`` (effect - largest control) to
        ``excess_high`` (effect - smallest), at the level `Elicitation.level`; ``beyond_random``,
        whether that interval excludes 0 by more than `Elicitation.rounding` (if not, random
        prefixes do as much at this head, however much that is); ``elicited``, whether the bootstrap
        interval excludes 0 on the same side too. This matters where random prefixes do harm: a head
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
        above, below = excess_low > self.rounding, excess_high < -self.rounding
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
            "beyond_random": above | below,
            "elicited": (above & (low > 0)) | (below & (high < 0)),
            "logit_attribution": self.logit_attribution.mean(-1),
        }
        frame = _row_per_head(columns)
        return frame.sort_values("effect", key=abs, ascending=False, kind="stable").reset_index(
            drop=True
        )

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

    def _ends(self) -> str:
        plain = None if self.plain is None else {self.metric: self.plain}
        return ends({self.metric: self.on}, {self.metric: self.off}, plain)

    def caption(self) -> str:
        """Return the direction, the sizes, the metric in both runs, and heads by effect.

        These are the elicited heads, and stronger ones where random prefixes do as much.
        """
        frame = self.to_dataframe()
        n_layers, n_heads, n = self.effect.shape
        text = (
            f"{self.direction}; {n_layers} x {n_heads} heads, {n} examples; "
            f"{self._ends()}; elicited: "
            f"{_names(frame.loc[frame['elicited']]) or 'none'}"
        )
        last = max(frame.loc[frame["elicited"]].index, default=1)
        strong = frame.iloc[:last]
        alike = _names(strong.loc[~strong["beyond_random"]])
        return text + (f"; as random prefixes do: {alike}" if alike else "")

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return each head's effect as stacked parts, beside the range of random prefixes.

        The total is hollow where random prefixes do as much.
        """
        unit = drawing("effects.unit_of")(self.metric)
        return drawing("elicitation.elicitation_figure")(
            {self.direction: self.to_dataframe()}, unit, figsize=figsize, width=width
        )


def _row_per_head(columns: Mapping[str, Shaped[Tensor, "layer head"]]) -> pd.DataFrame:
    grid = next(iter(columns.values())).shape
    index = pd.MultiIndex.from_product([range(k) for k in grid], names=["layer", "head"])
    flat = {name: x.flatten().tolist() for name, x in columns.items()}
    return pd.DataFrame(flat, index=index).reset_index()


def _names(rows: pd.DataFrame) -> str:
    """Return heads with their shares of the prefix's effect, the first eight."""
    columns = (rows[name].tolist() for name in ("layer", "head", "recovered"))
    heads = [f"{i}.{j} ({100 * x:.0f} %)" for i, j, x in zip(*columns, strict=True)]
    return ", ".join(heads[:8]) + (", ..." if len(heads) > 8 else "")
