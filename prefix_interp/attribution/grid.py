"""What a patching sweep measured, example by example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prefix_interp.attribution.metrics import recovered
from prefix_interp.errors import check_choice
from prefix_interp.estimates import bootstrap_interval

Direction = Literal["denoise", "noise"]


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """The metrics of every patch of a sweep.

    Attributes:
        direction: ``"denoise"`` (prefixed activation into the plain run) or ``"noise"``.
        site: what was patched, in words.
        axes: names of the leading axes of `values`, e.g. ``("layer", "head")``.
        values: each metric of the patched runs, one an example.
        on: each metric with the prefix.
        off: each metric without it (masked baseline).
        labels: names of the entries of an axis that are no numbers.
    """

    direction: Direction | str
    site: str
    axes: tuple[str, ...]
    values: Mapping[str, Float[Tensor, "*axes batch"]]
    on: Mapping[str, Float[Tensor, " batch"]]
    off: Mapping[str, Float[Tensor, " batch"]]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def effect(self, metric: str = "log_prob") -> Float[Tensor, "*axes batch"]:
        """Return what each patch does to the metric, in the direction from off to on.

        Denoise: patched - off. Noise: on - patched, what is lost. Positive is the prefix's way
        for every metric that the prefix raises.
        """
        check_choice("metric", metric, self.values)
        value = self.values[metric]
        denoise = self.direction == "denoise"
        return value - self.off[metric] if denoise else self.on[metric] - value

    def recovered(self, metric: str = "log_prob") -> Float[Tensor, "*axes"]:
        """Return the mean effect over the mean total effect: 1 is all that the prefix does."""
        check_choice("metric", metric, self.values)
        effect = self.effect(metric).mean(dim=-1)
        off, on = self.off[metric].mean(), self.on[metric].mean()
        return recovered(effect, off * 0, on - off)

    def to_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return a row a patch and metric.

        Columns: the axes, ``metric``, ``value`` (mean over examples), ``effect`` with its
        bootstrap interval ``low`` and ``high``, and ``recovered``.

        Args:
            level: of the interval, over examples.
        """
        frames = []
        for metric, value in self.values.items():
            effect = self.effect(metric)
            low, high = bootstrap_interval(effect, level=level)
            index = pd.MultiIndex.from_product(
                [
                    self.labels.get(a, range(k))
                    for a, k in zip(self.axes, effect.shape, strict=False)
                ],
                names=self.axes,
            )
            columns = {
                "metric": metric,
                "value": value.mean(-1).flatten().tolist(),
                "effect": effect.mean(-1).flatten().tolist(),
                "low": low.flatten().tolist(),
                "high": high.flatten().tolist(),
                "recovered": self.recovered(metric).flatten().tolist(),
            }
            frames.append(pd.DataFrame(columns, index=index).reset_index())
        return pd.concat(frames, ignore_index=True)
