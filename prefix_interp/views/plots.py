"""The learning-rate sweep of Table 1."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.summary import sweep_rows
from prefix_interp.experiments.table1 import NEW
from prefix_interp.results import Result
from prefix_interp.views.style import COLOURS, MARKERS, legend_below, look, variant_label


def sweep_figure(result: Result, task: str = NEW) -> Figure:
    """Return exact match, token accuracy and loss against the learning rate of prefix tuning.

    Lines are means over seeds, bands reach from the smallest to the largest seed.

    Args:
        result: from `table1`.
        task: the task that was tested on.

    Raises:
        PrefixInterpError: the result has no prefix that was tested on `task`.
    """
    rows = sweep_rows(result, task)
    if not rows:
        raise PrefixInterpError(f"task={task!r} has no prefix in this result; use a table1 result")
    metrics = {
        "exact_match": "exact match (share of sequences)",
        "token_accuracy": "token accuracy (share of outputs)",
        "loss": "test loss (nats an output)",
    }
    with look():
        figure = Figure(figsize=(9.6, 3.5), layout="constrained")
        axes = figure.subplots(1, 3)
        for i, (kind, n) in enumerate(dict.fromkeys(map(_variant, rows))):
            own = [r for r in rows if _variant(r) == (kind, n)]
            lrs = [r["lr"] for r in own]
            for ax, metric in zip(axes, metrics, strict=True):
                low, high = ([r[metric][end] for r in own] for end in ("min", "max"))
                ax.fill_between(lrs, low, high, color=COLOURS[i], alpha=0.18, linewidth=0)
                ax.plot(
                    lrs, [r[metric]["mean"] for r in own], color=COLOURS[i], marker=MARKERS[i],
                    markersize=5 if i else 7, label=variant_label(kind, n),
                )  # fmt: skip
        for ax, (metric, words) in zip(axes, metrics.items(), strict=True):
            ax.set(xscale="log", xlabel="learning rate", title=words)
            ax.set_ylim(bottom=0)
            if metric != "loss":
                ax.set_ylim(-0.02, 1.02)
        legend_below(figure, axes[0])
    return figure


def _variant(row: Mapping[str, object]) -> tuple[str, int]:
    return str(row["parameterization"]), int(str(row["n_slots"]))
