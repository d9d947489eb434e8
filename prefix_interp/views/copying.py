"""Heads over seeds: what a prefix takes of the heads that copy."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.style import COLOURS, MARKERS, look


def copying_figure(heads: pd.DataFrame) -> Figure:
    """Return, over all seeds, each head's gate at output 0 against how much it copies.

    Args:
        heads: one direction's ``head`` records of the `heads` experiment, a row a seed, task and
            head, with columns ``tuned_on``, ``copy``, ``gate_first`` and ``elicited``.

    Raises:
        PrefixInterpError: nothing to draw.
    """
    if heads.empty:
        raise PrefixInterpError("heads is empty; give the records of the heads experiment")
    tasks = list(dict.fromkeys(heads["tuned_on"]))
    with look():
        figure = Figure(figsize=(2.4 * len(tasks) + 0.6, 2.9), layout="constrained")
        axes = figure.subplots(1, len(tasks), sharey=True, sharex=True, squeeze=False)[0]
        for i, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
            own = heads[heads["tuned_on"] == task]
            for elicited, face in ((True, COLOURS[i]), (False, "none")):
                some = own[own["elicited"] == elicited]
                ax.plot(
                    some["copy"], some["gate_first"], MARKERS[i], color=COLOURS[i],
                    markerfacecolor=face, markersize=5, linestyle="none", alpha=0.8,
                )  # fmt: skip
            ax.set(title=str(task).replace("_", " "), xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
            ax.set_xlabel("attention from output i to input i")
        axes[0].set_ylabel("gate at output 0")
    return figure
