"""What a patching sweep measured, per example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from prefix_interp.attribution.effects import Agreement, Effects
from prefix_interp.attribution.metrics import ends, recovered
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.estimates import bootstrap_interval

Direction = Literal["denoise", "noise"]


@dataclass(frozen=True, eq=False, repr=False)
class PatchGrid(Effects):
    """The metrics of every patch of a sweep.

    Attributes:
        direction: ``"denoise"`` (prefixed activation into the plain run) or ``"noise"``.
        site: what was patched, in words.
        axes: names of the leading axes of `values`, e.g. ``("layer", "head")``.
        values: each metric of the patched runs, one value per example.
        on: each metric with the prefix.
        off: each metric without it (masked baseline).
        labels: names of the entries of an axis that are not numbers.
        plain: each metric of the model as it is (see `Contrast`).

    Example:
        >>> grid = pi.patch_heads(model, prefix, task, n=8, progress=False)
        >>> grid.axes, tuple(grid.effect().shape)
        (('layer', 'head'), (1, 4, 8))
    """

    direction: Direction | str
    site: str
    axes: tuple[str, ...]
    values: Mapping[str, Float[Tensor, "*axes batch"]]
    on: Mapping[str, Float[Tensor, " batch"]]
    off: Mapping[str, Float[Tensor, " batch"]]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plain: Mapping[str, Float[Tensor, " batch"]] | None = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Return what was measured."""
        return tuple(self.values)

    def names_of(self, axis: str, size: int) -> Sequence[object]:
        """Return what the entries of an axis are called."""
        return self.labels.get(axis, range(size))

    def effect(self, metric: str | None = None) -> Float[Tensor, "*axes batch"]:
        """Return the effect of each patch on the metric, in the direction from off to on.

        Denoise: patched - off. Noise: on - patched, the loss. For a metric that the prefix raises,
        a positive effect acts in the prefix's direction.

        Args:
            metric: one that was measured; None for the first.

        Raises:
            PrefixInterpError: an unknown metric.
        """
        metric = self._chosen(metric)
        value = self.values[metric]
        denoise = self.direction == "denoise"
        return value - self.off[metric] if denoise else self.on[metric] - value

    def recovered(self, metric: str | None = None) -> Float[Tensor, "*axes"]:
        """Return the mean effect as a share of the mean total effect of the prefix.

        Args:
            metric: one that was measured; None for the first.

        Raises:
            PrefixInterpError: an unknown metric.
        """
        metric = self._chosen(metric)
        effect = self.effect(metric).mean(dim=-1)
        off, on = self.off[metric].mean(), self.on[metric].mean()
        return recovered(effect, off * 0, on - off)

    def compare_with(self, exact: Effects, metric: str | None = None) -> Agreement:
        """Return how well the mean effects of this estimate agree with those of exact patches.

        Args:
            exact: from `patch_heads` or `patch_slots`, with the same axes and direction.
            metric: one that both have; None for the first of this estimate.

        Raises:
            PrefixInterpError: other axes, sizes or direction, or an unknown metric.
        """
        if isinstance(exact, PatchGrid) and exact.direction != self.direction:
            raise PrefixInterpError(
                f"exact has direction={exact.direction!r}, the estimate {self.direction!r}; make "
                "both with the same"
            )
        return super().compare_with(exact, metric)

    def to_dataframe(self, level: float = 0.95) -> pd.DataFrame:
        """Return one row per patch and metric.

        Columns: the axes, ``metric``, ``value`` (mean over examples), ``effect`` with its
        bootstrap interval ``low`` and ``high``, and ``recovered``.

        Args:
            level: of the interval, over examples.
        """
        frames = []
        for metric, value in self.values.items():
            effect = self.effect(metric)
            low, high = bootstrap_interval(effect, level=level)
            columns = {
                "metric": metric,
                "value": value.mean(-1),
                "effect": effect.mean(-1),
                "low": low,
                "high": high,
                "recovered": self.recovered(metric),
            }
            frames.append(self._frame(effect.shape[:-1], columns))
        return pd.concat(frames, ignore_index=True)

    def caption(self) -> str:
        """Return what was patched, the sizes, and the metrics of both runs."""
        found = ends(self.on, self.off, self.plain)
        return f"{self.direction}, {self.site}; {self._sizes()}; {found}"

    def _chosen(self, metric: str | None) -> str:
        if metric is None:
            return next(iter(self.values))
        check_choice("metric", metric, self.values)
        return metric
