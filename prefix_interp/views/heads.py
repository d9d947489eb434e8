"""All heads at once: their attention under each prefix, and how each prefix moves the layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.seeds import derive_generator
from prefix_interp.views.attention import AttentionView, heat
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import (
    COLOURS,
    CONTENT_COLOURS,
    MARKERS,
    SLOT_COLOURS,
    legend_below,
)

_GREY = "#8a8a92"


def heads_figure(
    views: Sequence[AttentionView],
    layer: int = 0,
    max_value: float = 1.0,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot every head of a layer under every prefix: one row per view, one column per head.

    The narrow orange column of a panel is the gate (all slots, not renormalised); the blue part is
    the content, renormalised to sum to 1. Heads that do not fit side by side continue below.

    Args:
        views: from `attention_view` or `plain_attention_view`, of one model.
        layer: 0-based.
        max_value: attention shown in full colour.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw, or no such layer.
    """
    if not views:
        raise PrefixInterpError("views is empty; give at least one")
    n_layers, n_heads, n_query, _ = views[0].slots.shape
    check_index("layer", layer, n_layers)
    with sheet(figsize, width) as room:
        side = room.columns(n_heads, each=0.65, own=9 * 2.3)
        blocks = -(-n_heads // side)
        small = room.width is not None
        high = (1.25 if small else 1.95) * len(views) * blocks
        figure = room.figure(2.3 * side + 0.9, high + 0.4)
        ratios = [0.16 * n_query if small else 1.6, n_query] * side
        axes = figure.subplots(blocks * len(views), 2 * side, squeeze=False, width_ratios=ratios)
        for i, row in enumerate(axes):
            block, view = i // len(views), views[i % len(views)]
            for column in range(side):
                left, right = row[2 * column : 2 * column + 2]
                head = block * side + column
                if head >= n_heads:
                    left.set_axis_off()
                    right.set_axis_off()
                    continue
                heat(left, view.gate[layer, head][:, None], SLOT_COLOURS)
                heat(right, view.content[layer, head], CONTENT_COLOURS, max_value)
                for ax in (left, right):
                    ax.set(xticks=[], yticks=[])
                if i % len(views) == 0:
                    right.set_title(f"head {layer}.{head}", fontsize="small" if small else None)
                if i % len(views) == len(views) - 1:
                    left.set_xticks([0], ["g"])
                    right.set_xlabel("key", fontsize="small")
            row[0].set_yticks(range(n_query), list(view.tokens))
            row[0].tick_params(axis="y", labelsize="xx-small")
            row[0].set_ylabel(view.name)
    return figure


@dataclass(frozen=True, eq=False)
class LayerOutputs:
    """What a layer's attention writes at one position, without a prefix and with each.

    Attributes:
        layer: which layer.
        off: without a prefix (masked baseline).
        on: with each prefix, by name.
        dims: two random coordinates of the residual stream, as in the paper.
    """

    layer: int
    off: Float[Tensor, "batch d_model"]
    on: Mapping[str, Float[Tensor, "batch d_model"]]
    dims: tuple[int, int]

    def components(self) -> tuple[Float[Tensor, "component d_model"], list[float]]:
        """Return the first two principal components over all points, and their variance shares."""
        points = torch.cat([self.off, *self.on.values()])
        _, s, vh = torch.linalg.svd(points - points.mean(0), full_matrices=False)
        return vh[:2], (s[:2].square() / s.square().sum()).tolist()

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per example and prefix: both projections, without and with the prefix."""
        axes, _ = self.components()
        frames = []
        for name, on in self.on.items():
            columns = {"prefix": name, "example": range(len(on))}
            for state, x in (("off", self.off), ("on", on)):
                pca = x @ axes.T
                columns |= {f"{state} PC{i + 1}": pca[:, i].tolist() for i in range(2)}
                columns |= {f"{state} dim {d}": x[:, d].tolist() for d in self.dims}
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)


def layer_outputs(
    pairs: Mapping[str, RunPair], pos: int, layer: int = 0, seed: int = 0
) -> LayerOutputs:
    """Return what attention writes at one position with and without each prefix.

    Args:
        pairs: runs of one model on the same inputs up to `pos`, by the prefix's name.
        pos: content position, e.g. that of the last input.
        layer: 0-based.
        seed: decides the two raw coordinates.

    Raises:
        PrefixInterpError: no runs, or runs that differ before `pos`.
    """
    if not pairs:
        raise PrefixInterpError("pairs is empty; give at least one run")
    first = next(iter(pairs.values()))
    for name, pair in pairs.items():
        if not torch.equal(pair.tokens[:, : pos + 1], first.tokens[:, : pos + 1]):
            raise PrefixInterpError(
                f"pairs[{name!r}] has other tokens up to position {pos}; run all on one batch"
            )
    rng = derive_generator(seed, "raw dimensions")
    a, b = torch.randperm(host_of(first.model).d_model, generator=rng)[:2].tolist()
    site = Site.ATTN_OUT.at(layer)
    on = {name: pair.on[site][:, pos].cpu() for name, pair in pairs.items()}
    return LayerOutputs(layer, first.off[site][:, pos].cpu(), on, (a, b))


def outputs_figure(
    outputs: LayerOutputs,
    n_arrows: int = 20,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the layer's outputs in two planes, with arrows from the plain to each prefixed output.

    Left: the two leading principal components over all points. Right: the two raw coordinates.

    Args:
        outputs: from `layer_outputs`.
        n_arrows: number of examples to draw.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: more prefixes than colours.
    """
    if len(outputs.on) > len(COLOURS):
        raise PrefixInterpError(f"outputs has {len(outputs.on)} prefixes; give {len(COLOURS)}")
    components, shares = outputs.components()
    raw = torch.zeros_like(components)
    for row, dim in zip(raw, outputs.dims, strict=True):
        row[dim] = 1.0
    with sheet(figsize, width) as room:
        side = room.columns(2, each=2.2)
        figure = room.figure(9.6, 4.6 if side == 2 else 8.0)
        left, right = figure.subplots(2 // side, side, squeeze=False).flatten()
        _arrows(left, outputs, components, n_arrows)
        _arrows(right, outputs, raw, n_arrows)
        left.set(
            xlabel=f"PC 1 ({100 * shares[0]:.0f} % of variance)",
            ylabel=f"PC 2 ({100 * shares[1]:.0f} %)",
            title="principal components",
        )
        a, b = outputs.dims
        right.set(xlabel=f"coordinate {a}", ylabel=f"coordinate {b}", title="two raw coordinates")
        legend_below(figure, left)
    return figure


def _arrows(
    ax: Axes, outputs: LayerOutputs, plane: Float[Tensor, "component d_model"], n: int
) -> None:
    off = (outputs.off[:n] @ plane.T).double()
    for i, (name, on) in enumerate(outputs.on.items()):
        to = (on[:n] @ plane.T).double()
        for start, end in zip(off.tolist(), to.tolist(), strict=True):
            ax.annotate(
                "", end, start,
                arrowprops={"arrowstyle": "-", "color": COLOURS[i], "alpha": 0.25, "lw": 0.8},
            )  # fmt: skip
        ax.plot(
            to[:, 0], to[:, 1], MARKERS[i], color=COLOURS[i], label=name, linestyle="none",
        )  # fmt: skip
    ax.plot(off[:, 0], off[:, 1], "x", color=_GREY, label="no prefix", linestyle="none")
