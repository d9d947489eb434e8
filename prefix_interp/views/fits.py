"""Figures of training and testing: scores, the course of a loss, and the outcome of a search."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.tuning.evaluate import Evaluation
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below


def scores_figure(
    evaluation: Evaluation, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the scores, each with its 95% interval.

    Args:
        evaluation: from `evaluate`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    shares = {
        "exact match": evaluation.exact_match,
        "token accuracy": evaluation.token_accuracy,
    }
    if evaluation.choice is not None:
        shares["choice"] = evaluation.choice
    with sheet(figsize, width) as room:
        if room.columns(2, each=2.5) == 2:
            left, right = room.figure(6.4, 1.7).subplots(1, 2, width_ratios=[2, 1])
        else:
            left, right = room.figure(6.4, 2.8).subplots(2, 1, height_ratios=[2, 1.1])
        for ax, shown in ((left, shares), (right, {"loss": evaluation.loss})):
            at, values = np.arange(len(shown)), list(shown.values())
            ends = np.array([[x.value - x.low, x.high - x.value] for x in values]).T
            ax.barh(at, [x.value for x in values], height=0.55, color=COLOURS[0])
            ax.errorbar(
                [x.value for x in values], at, xerr=ends.clip(min=0), fmt="none", color="black",
            )  # fmt: skip
            ax.set_yticks(at, list(shown))
            ax.set_ylim(len(shown) - 0.4, -0.6)
            ax.grid(visible=False, axis="y")
        left.set(xlim=(0, 1.02), xlabel="share that is right")
        right.set(xlim=(0, None), xlabel="nats per output")
    return room.figures[-1]


def history_figure(
    history: pd.DataFrame, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the training loss against the step, one line per run.

    Args:
        history: with columns ``step``, ``run`` and ``loss``.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing was logged, or too many runs to tell apart.
    """
    runs = list(dict.fromkeys(history["run"]))
    if not 1 <= len(runs) <= len(COLOURS):
        raise PrefixInterpError(f"history has {len(runs)} runs; give 1 to {len(COLOURS)}")
    with sheet(figsize, width) as room:
        figure = room.figure(4.8, 3.0)
        ax = figure.subplots()
        for i, run in enumerate(runs):
            own = history[history["run"] == run]
            marker = MARKERS[i] if len(own) <= 40 else ""
            ax.plot(own["step"], own["loss"], color=COLOURS[i], marker=marker, label=run)
        ax.set(xlabel="step", ylabel="training loss (nats per output)")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(runs) > 1:
            legend_below(figure, ax)
    return figure


def search_figure(
    losses: Float[Tensor, " target"],
    reached: Bool[Tensor, " target"],
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the loss of every target of a search, in increasing order, and mark reached targets.

    Args:
        losses: last training loss of each target, in nats per output.
        reached: whether the target is emitted exactly.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    order = losses.argsort()
    with sheet(figsize, width) as room:
        figure = room.figure(4.8, 3.0)
        ax = figure.subplots()
        for i, (label, wanted) in enumerate((("reached", True), ("not reached", False))):
            own = (reached[order] == wanted).nonzero()[:, 0]
            ax.plot(
                own + 1, losses[order][own].double(), MARKERS[i], color=COLOURS[i],
                markerfacecolor=COLOURS[i] if wanted else "none", label=label, linestyle="none",
            )  # fmt: skip
        ax.set(xlabel="target, by rising loss", ylabel="loss (nats per output)")
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, ax)
    return figure
