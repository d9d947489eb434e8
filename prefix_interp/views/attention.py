"""Attention with the prefix set apart: the data of the figures, and a static picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair, baseline_pattern
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import CONTENT_COLOURS, SLOT_COLOURS


@dataclass(frozen=True, eq=False)
class AttentionView:
    """The attention of one sequence, slots and content apart.

    Attributes:
        name: what is shown, e.g. ``"residual, 1 slot"``.
        tokens: a label for each content position.
        slots: attention mass on each slot, not renormalised; no slots if there is no prefix.
        content: attention over the content, renormalised so that each row sums to 1.
    """

    name: str
    tokens: Sequence[str]
    slots: Float[Tensor, "layer head query slot"]
    content: Float[Tensor, "layer head query key"]

    @property
    def gate(self) -> Float[Tensor, "layer head query"]:
        """Return the attention mass on all slots together."""
        return self.slots.sum(-1)

    def to_dataframe(self, layer: int = 0, head: int = 0) -> pd.DataFrame:
        """Return one row per query: its token, the mass on each slot, the share of each key.

        Args:
            layer: 0-based.
            head: 0-based.
        """
        slots, content = self.slots[layer, head], self.content[layer, head]
        index = range(len(self.tokens))
        columns = {"query": list(index), "token": list(self.tokens)}
        columns |= {f"P{i + 1}": slots[:, i].tolist() for i in range(slots.shape[1])}
        columns |= {f"key {i} ({self.tokens[i]})": content[:, i].tolist() for i in index}
        return pd.DataFrame(columns)


def attention_view(
    pair: RunPair, sequence: int = 0, name: str = "with the prefix", labels: Sequence[str] = ()
) -> AttentionView:
    """Return the attention of one sequence of a prefixed run.

    Args:
        pair: from `run_pair`.
        sequence: index in the batch.
        name: title of the picture.
        labels: one per content position; by default the token ids.

    Raises:
        PrefixInterpError: no such sequence, or another number of labels.
    """
    tokens = _labels(pair.tokens, sequence, labels)
    n = pair.prefix.n_slots
    layers = range(host_of(pair.model).n_layers)
    pattern = torch.stack([pair.on[Site.PATTERN.at(i)][sequence] for i in layers]).cpu()
    content = pattern[..., n:]
    left = content.sum(-1, keepdim=True).clamp_min(torch.finfo(content.dtype).tiny)
    return AttentionView(name, tokens, pattern[..., :n], content / left)


def plain_attention_view(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    sequence: int = 0,
    name: str = "without a prefix",
    labels: Sequence[str] = (),
) -> AttentionView:
    """Return the attention of one sequence without a prefix (masked baseline).

    Args:
        model: a toy.
        tokens: content only.
        sequence: index in the batch.
        name: title of the picture.
        labels: one per content position; by default the token ids.

    Raises:
        PrefixInterpError: no such sequence, or another number of labels.
    """
    shown = _labels(tokens, sequence, labels)
    one = tokens[sequence : sequence + 1]
    layers = range(host_of(model).n_layers)
    content = torch.stack([baseline_pattern(model, one, i)[0] for i in layers]).cpu()
    return AttentionView(name, shown, content[..., :0], content)


def attention_figure(
    view: AttentionView,
    layer: int = 0,
    head: int = 0,
    max_value: float = 1.0,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the attention of one head as a static picture, with the slots in a separate panel.

    Args:
        view: from `attention_view` or `plain_attention_view`.
        layer: 0-based.
        head: 0-based.
        max_value: attention shown in full colour.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: no such layer or head.
    """
    n_layers, n_heads, n_query, n_slots = view.slots.shape
    for argument, value, size in (("layer", layer, n_layers), ("head", head, n_heads)):
        check_index(argument, value, size)
    with sheet(figsize, width) as room:
        figure = room.figure(3.6 + min(0.16 * n_slots, 4.0), 3.7)
        ratios = [min(n_slots, n_query), n_query] if n_slots else [n_query]
        axes = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        if n_slots:
            heat(axes[0], view.slots[layer, head], SLOT_COLOURS, max_value)
            names = [f"P{i + 1}" for i in range(n_slots)]
            axes[0].set_xticks(range(n_slots), names, rotation=90)
        heat(axes[-1], view.content[layer, head], CONTENT_COLOURS, max_value)
        axes[-1].set_xticks(range(n_query), list(view.tokens))
        axes[0].set_yticks(range(n_query), list(view.tokens))
        for ax in axes:
            ax.tick_params(labelsize="x-small")
        axes[0].set_ylabel("query (content token)")
        axes[-1].set_xlabel("key (content token)")
        if n_slots:
            axes[-1].set_yticks([])
        figure.suptitle(f"{view.name} (layer {layer}, head {head})", fontsize="medium")
    return figure


def query_figure(
    groups: Sequence[Sequence[AttentionView]],
    query: int,
    layer: int = 0,
    head: int = 0,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot one query's attention for several models: one panel per sequence, one row per model.

    The separate column on the left is the gate, over all slots; the rest is renormalised.

    Args:
        groups: for each sequence, the views of all models on it.
        query: the content position that attends; later keys are left out.
        layer: 0-based.
        head: 0-based.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw.
    """
    if not groups or not all(groups):
        raise PrefixInterpError("groups is empty; give at least one view of one sequence")
    with sheet(figsize, width) as room:
        height = 0.9 + 0.26 * len(groups[0])
        figure = room.figure(7.4, height * len(groups) + 0.5)
        keys = query + 1
        shares = [v.content[layer, head, query, :keys] for views in groups for v in views]
        top = float(torch.stack(shares).max())
        axes = figure.subplots(len(groups), 2, squeeze=False, width_ratios=[1, keys])
        for (left, right), views in zip(axes, groups, strict=True):
            gates = torch.stack([v.gate[layer, head, query] for v in views])
            rows = torch.stack([v.content[layer, head, query, :keys] for v in views])
            heat(left, gates[:, None], SLOT_COLOURS)
            heat(right, rows, CONTENT_COLOURS, top)
            left.set_xticks([0], ["gate"])
            left.set_yticks(range(len(views)), [v.name for v in views])
            right.set_yticks([])
            right.set_xticks(range(keys), list(views[0].tokens[:keys]))
            right.set_title(f"input {' '.join(views[0].tokens[:keys])}", loc="left")
            for row, (view, gate) in enumerate(zip(views, gates.tolist(), strict=True)):
                text = f"{gate:.2f}" if view.slots.shape[-1] else "–"
                colour = "white" if gate > 0.6 else "black"
                left.text(0, row, text, ha="center", va="center", fontsize="x-small", color=colour)
        axes[-1][1].set_xlabel("key (input token)")
        image = axes[0][1].images[0]  # all have one scale
        figure.colorbar(image, ax=axes[:, 1], label="share of content attention", shrink=0.8)
    return figure


def heat(
    ax: Axes, values: Float[Tensor, "row column"], colours: str, max_value: float = 1.0
) -> AxesImage:
    """Draw values from 0 to `max_value` as a heat map that fills its panel; return the image."""
    image = ax.imshow(
        values.double().numpy(), cmap=colours, vmin=0, vmax=max_value, aspect="auto",
        interpolation="none",
    )  # fmt: skip
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set(visible=True, color="#999999", linewidth=0.6)
    return image


def _labels(
    tokens: Int[Tensor, "batch pos"], sequence: int, labels: Sequence[str]
) -> tuple[str, ...]:
    check_index("sequence", sequence, len(tokens))
    if labels and len(labels) != tokens.shape[1]:
        raise PrefixInterpError(
            f"labels has {len(labels)} entries but the sequence has {tokens.shape[1]} positions; "
            "give one each"
        )
    return tuple(labels) or tuple(str(int(x)) for x in tokens[sequence])
