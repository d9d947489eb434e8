"""Effects of heads, sites or slots per example, as patches and gradients both measure them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.result_object import ResultObject, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Agreement(NamedTuple):
    """How well an estimate of effects agrees with the exact ones, over means of examples.

    Attributes:
        spearman: rank correlation, -1 to 1; NaN if all effects of one side are equal.
        pearson: linear correlation, -1 to 1; NaN in the same case.
        max_difference: largest absolute difference, in units of the metric.

    Example:
        >>> exact = pi.patch_heads(model, prefix, task, n=8, progress=False)
        >>> pi.attribution_patch(model, prefix, task, n=8).compare_with(exact)._fields
        ('spearman', 'pearson', 'max_difference')
    """

    spearman: float
    pearson: float
    max_difference: float


class Effects(ResultObject):
    """Common base of `PatchGrid` and `IntegratedGradients`.

    Attributes:
        axes: names of the leading axes of the effects, e.g. ``("layer", "head")``.
    """

    axes: tuple[str, ...]

    @abstractmethod
    def effect(self, metric: str | None = None) -> Float[Tensor, "*axes batch"]:
        """Return the effects on one metric; None selects the first that was measured."""

    def names_of(self, axis: str, size: int) -> Sequence[object]:
        """Return what the entries of an axis are called."""
        return range(size)

    def compare_with(self, exact: Effects, metric: str | None = None) -> Agreement:
        """Return how well the mean effects of this estimate agree with those of exact patches.

        Args:
            exact: from `patch_heads` or `patch_slots`, with the same axes.
            metric: one that both have; None for the first of this estimate.

        Raises:
            PrefixInterpError: other axes, sizes or direction, or an unknown metric.
        """
        metric = self.metric_names[0] if metric is None else metric
        a, b = self.effect(metric), exact.effect(metric)
        if self.axes != exact.axes or a.shape[:-1] != b.shape[:-1]:
            raise PrefixInterpError(
                f"exact has axes {exact.axes} of {tuple(b.shape[:-1])}, the estimate "
                f"{self.axes} of {tuple(a.shape[:-1])}; make both from one model, prefix and "
                "choice of axes"
            )
        means = {"a": a.mean(-1).flatten().tolist(), "b": b.mean(-1).flatten().tolist()}
        flat = pd.DataFrame(means)
        difference = float((flat.a - flat.b).abs().max())
        return Agreement(_correlation(flat.rank()), _correlation(flat), difference)

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Return what was measured."""

    def plot(
        self,
        metric: str | None = None,
        *,
        figsize: Size | None = None,
        width: Width | None = None,
    ) -> Figure:
        """Plot the mean effects: bars with intervals if there are few, else a heat map.

        Args:
            metric: which; None for the first that was measured.
            figsize: width and height in inches; None for a size of its own.
            width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
        """
        return drawing("effects.effects_figure")(self, metric, figsize=figsize, width=width)

    def _sizes(self) -> str:
        """Return the axes in words, e.g. ``1 layer x 4 heads; 64 examples``."""
        shape = self.effect().shape
        sizes = [_counted(k, axis) for k, axis in zip(shape, self.axes, strict=False)]
        return f"{' x '.join(sizes)}; {_counted(shape[-1], 'example')}"

    def _frame(
        self, grid: Sequence[int], columns: Mapping[str, str | Float[Tensor, "*axes"]]
    ) -> pd.DataFrame:
        """Return one row per entry of the grid, after columns that name it."""
        names = [self.names_of(axis, k) for axis, k in zip(self.axes, grid, strict=True)]
        index = pd.MultiIndex.from_product(names, names=self.axes)
        flat = {k: x if isinstance(x, str) else x.flatten().tolist() for k, x in columns.items()}
        return pd.DataFrame(flat, index=index).reset_index()


def _counted(n: int, what: str) -> str:
    what = {"pos": "position"}.get(what, what)
    return f"{n} {what}" + ("" if n == 1 else "s")


def _correlation(two: pd.DataFrame) -> float:
    x, y = (torch.tensor((two[name] - two[name].mean()).to_numpy()) for name in two)
    return float((x * y).sum() / (x.norm() * y.norm()))
