"""The scores of circuits by size, beside those of random circuits."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_record import SCORES
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below


def circuit_curves_figure(
    circuit: Circuit, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot faithfulness and completeness against the size of the circuit.

    Lines are the best circuits that the search found. Bands and dotted lines are the range and mean
    of random circuits with as many nodes of each kind. The numbers are in `Circuit.curves`.

    Args:
        circuit: from `find_circuit`, or loaded.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    frame = circuit.curves()
    chosen = len(circuit.nodes)
    has_slots = any(node.kind == "slot" for node in circuit.all_nodes)
    with sheet(figsize, width) as room:
        figure = room.figure(8.6, 3.6)
        axes = figure.subplots(1, 2)
        for ax, name in zip(axes, SCORES, strict=True):
            low, high = (frame[f"random_{name}_{end}"] for end in ("min", "max"))
            ax.fill_between(
                frame["size"], low, high, color=COLOURS[1], alpha=0.18, linewidth=0,
                label="random, range",
            )  # fmt: skip
            ax.plot(
                frame["size"], frame[f"random_{name}_mean"], color=COLOURS[1], linestyle=":",
                label="random, mean",
            )  # fmt: skip
            many = len(frame) > 40
            ax.plot(
                frame["size"], frame[name], color=COLOURS[0], marker="" if many else MARKERS[0],
                label="best found",
            )  # fmt: skip
            ax.plot(
                [chosen], [frame[name].iloc[chosen]], color="black", marker="o",
                markersize=room.points, markerfacecolor="none", linestyle="none",
                label="the circuit",
            )  # fmt: skip
            ax.set(title=name, xlabel="nodes in the circuit")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].axhline(circuit.threshold, color="black", linestyle="--", linewidth=1)
        axes[0].annotate(
            f"threshold {circuit.threshold:g}", (0, circuit.threshold), xytext=(0, 3),
            textcoords="offset points", fontsize="small",
        )  # fmt: skip
        axes[0].set_ylabel("share of the prefix's effect")
        if has_slots:
            axes[1].set_title("completeness (1 where all slots are in)")
        legend_below(figure, axes[0])
    return figure
