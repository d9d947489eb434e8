"""Pictures of the constructions: virtual token, attention, selection, digit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.theory.constructions import Construction
from prefix_interp.views.attention import AttentionView
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, CONTENT_COLOURS, SLOT_COLOURS

_LABELLED = 24  # with more codes or coordinates, numbers are left out


@dataclass(frozen=True, eq=False)
class Trace:
    """What a construction does on one input, step by step.

    Attributes:
        labels: a name per row of the sequence: virtual tokens (``s1``, ...), then tokens.
        reading: the rows that outputs are read at.
        virtual: the slots' values in the coordinates of tokens.
        pattern: attention of block 0's heads.
        number: the number that the decoder reads at each of the rows `reading`, 0 to 1.
        logits: logits at each of these rows.
        wanted: the outputs asked for.
        view: the attention, for the attention figures.
    """

    labels: Sequence[str]
    reading: Sequence[int]
    virtual: Float[Tensor, "slot coordinate"]
    pattern: Float[Tensor, "head query key"]
    number: Float[Tensor, " n_out"]
    logits: Float[Tensor, "n_out d_vocab"]
    wanted: Int[Tensor, " n_out"]
    view: AttentionView

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per output: where it is read, the number found there, and the answer."""
        found = self.logits.argmax(dim=-1)
        return pd.DataFrame(
            {
                "output": range(len(self.wanted)),
                "read at": [self.labels[i] for i in self.reading],
                "number": self.number.tolist(),
                "number x V": (self.number * self.logits.shape[1]).tolist(),
                "answer": found.tolist(),
                "wanted": self.wanted.tolist(),
            }
        )


def trace(
    construction: Construction,
    behaviour: Int[Tensor, "*behaviour"],
    inputs: Sequence[int] = (),
) -> Trace:
    """Return what a construction does with one behaviour's prompt on one input.

    The wanted outputs are fed back.

    Args:
        construction: from `prefix_interp.theory.constructions`.
        behaviour: codes, in the construction's shape.
        inputs: one code per input token.

    Raises:
        PrefixInterpError: a behaviour or input that does not fit the construction.
    """
    made, model = construction, construction.model
    given = torch.tensor([list(inputs)], dtype=torch.long).reshape(1, len(inputs))
    wanted = made.wanted(behaviour[None], given)[0, 0]
    prompt = made.encode(behaviour)
    tokens = torch.cat([given, wanted[None, :-1]], dim=1)
    with torch.no_grad(), attach(model, prompt, predict_first=made.n_in == 0):
        logits, cache = model.run_with_cache(tokens, return_cache_object=False)
    labels = [f"s{i + 1}" for i in range(made.n_slots)]
    labels += [f"x={x}" for x in inputs] + [f"y={y}" for y in wanted[:-1].tolist()]
    reading = list(range(len(labels) - len(wanted), len(labels)))
    spans = made.coordinates
    final = (
        cache[Site.RESID_MID.at(host_of(model).n_layers - 1)]
        + cache[Site.MLP_OUT.at(host_of(model).n_layers - 1)]
    )
    pattern = cache[Site.PATTERN.at(0)][0]
    view = AttentionView(made.name, labels, pattern[None, ..., :0], pattern[None])
    return Trace(
        labels,
        reading,
        prompt.vectors[0][:, list(spans["token"])],
        pattern,
        final[0, reading][:, spans["number"][0]],
        cast(Tensor, logits)[0, -len(wanted) :],
        wanted,
        view,
    )


def trace_figure(
    construction: Construction,
    shown: Trace,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Return the steps of a construction in one figure.

    From left to right: the virtual tokens; where each head of block 0 looks, with the rows that are
    read in bold; the number read at each output; and the logits, with the largest ringed.

    Args:
        construction: source of the names.
        shown: from `trace`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    n_heads = len(construction.heads)
    rows = max(len(shown.labels), len(shown.wanted), 4)
    with sheet(figsize, width) as room:
        widths = [1.0, *[1.0] * n_heads, 0.8, 1.3]
        side = room.columns(len(widths), each=1.3)
        down = -(-len(widths) // side)
        figure = room.figure(3.4 + 2.4 * n_heads + 4.6, (0.26 * rows + 1.9) * down)
        ratios = widths if down == 1 else None
        axes = figure.subplots(down, side, width_ratios=ratios, squeeze=False).flatten()
        for ax in axes[len(widths) :]:
            ax.set_axis_off()
        axes = axes[: len(widths)]
        _virtual(axes[0], shown)
        for i, name in enumerate(construction.heads):
            _pattern(axes[1 + i], shown, i, f"head {i}: {name}")
        _numbers(axes[-2], shown)
        _logits(axes[-1], shown)
    return figure


def _virtual(ax: Axes, shown: Trace) -> None:
    ax.imshow(shown.virtual.T.numpy(), cmap=SLOT_COLOURS, vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    ax.set_title("virtual token" + ("s" if len(shown.virtual) > 1 else ""))
    ax.set_xticks(range(len(shown.virtual)), shown.labels[: len(shown.virtual)])
    ax.set_ylabel("coordinate")
    if shown.virtual.shape[1] <= _LABELLED:
        ax.set_yticks(range(shown.virtual.shape[1]))
    if shown.virtual.shape[1] <= _LABELLED and len(shown.virtual) <= 6:
        for (slot, i), value in np.ndenumerate(shown.virtual.numpy()):
            colour = "white" if value > 0.6 else "black"
            ax.text(
                slot, i, f"{value:.3g}", ha="center", va="center", fontsize="x-small", color=colour
            )


def _pattern(ax: Axes, shown: Trace, head: int, title: str) -> None:
    pattern = shown.pattern[head].numpy()
    ax.imshow(pattern, cmap=CONTENT_COLOURS, vmin=0, vmax=1, aspect="auto")
    ax.grid(False)
    ax.set_title(title)
    ax.set_xticks(range(len(shown.labels)), shown.labels, fontsize="x-small", rotation=90)
    ax.set_yticks(range(len(shown.labels)), shown.labels, fontsize="x-small")
    for i in shown.reading:
        ax.get_yticklabels()[i].set_fontweight("bold")


def _numbers(ax: Axes, shown: Trace) -> None:
    n_tokens = shown.logits.shape[1]
    order = range(len(shown.wanted))
    if n_tokens <= 2 * _LABELLED:
        for code in range(n_tokens):
            ax.axvline(code / n_tokens, color="#d8d8d8", linewidth=0.7)
    ax.plot(shown.number.tolist(), list(order), "o", color=COLOURS[1])
    for i, wanted in zip(order, shown.wanted.tolist(), strict=True):
        ax.annotate(str(wanted), (float(shown.number[i]), i), xytext=(0, 6),
                    textcoords="offset points", ha="center", fontsize="small")  # fmt: skip
    ax.grid(False)
    ax.set_xlim(-0.05, 1.05)
    ax.set_ylim(len(shown.wanted) - 0.5, -0.7)
    ax.set_yticks(list(order))
    ax.set_title("number read")
    ax.set_xlabel("z (lines: i / V)")
    ax.set_ylabel("output")


def _logits(ax: Axes, shown: Trace) -> None:
    # Logits can lie close together: show them minus the largest, in steps of 1 / V^2.
    logits = shown.logits - shown.logits.amax(dim=-1, keepdim=True)
    ax.imshow(logits.numpy(), cmap=CONTENT_COLOURS, aspect="auto")
    ax.grid(False)
    best = shown.logits.argmax(dim=-1).tolist()
    ax.plot(best, range(len(best)), "o", markerfacecolor="none", markeredgecolor=COLOURS[1],
            markersize=9, linewidth=0)  # fmt: skip
    ax.set_title("logits, less the largest")
    ax.set_xlabel("token")
    ax.set_ylabel("output")
    ax.set_yticks(range(len(best)))
    if logits.shape[1] <= _LABELLED:
        ax.set_xticks(range(logits.shape[1]))
