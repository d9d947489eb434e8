"""The attention explorer: choose model, prefix, head and input, beside the run without prefix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from analyses.report.sections import Live, picture
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.attention import AttentionView, heat
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import CONTENT_COLOURS, SLOT_COLOURS

_SCRIPT = Path(__file__).parent / "explorer.js"
_STEPS = 1000  # attention is stored in thousandths
FULL_COLOUR = 0.5  # attention to the content that is shown in full colour


@dataclass(frozen=True)
class Choice:
    """One model under one prefix.

    Attributes:
        model: its name.
        prefix: name of the prefix, or of what else was changed.
        runs: for each input, the attention without and with the prefix, on the same tokens.
    """

    model: str
    prefix: str
    runs: Sequence[tuple[AttentionView, AttentionView]]


def explorer(choices: Sequence[Choice], n_input: int, caption: str, head: int = 0) -> Live:
    """Return the explorer; its still picture shows the first choice on its first input.

    Args:
        choices: the first is shown at the start; all have one layer.
        n_input: input tokens; those after them are answers that were fed in.
        caption: how to read it.
        head: which is shown at the start.
    """
    first = choices[0]
    data = {
        "nInput": n_input, "full": FULL_COLOUR, "steps": _STEPS, "head": head,
        "choices": [_plain(choice) for choice in choices],
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    still = picture(
        "explorer",
        still_figure(first, head),
        f"Attention of head {head} of layer 0, {first.model}: without a prefix on the left, with "
        f"the prefix for {first.prefix} on the right, beside a column for its slot.",
        caption,
    )
    markup = Markup(
        '<div class="live" data-explorer="yes"></div>'
        '<script type="application/json" id="explorer-data">{}</script>'
    ).format(Markup(text))
    script = Markup("<script>{}</script>").format(Markup(_SCRIPT.read_text(encoding="utf-8")))
    return Live(still, markup, script)


def _plain(choice: Choice) -> dict[str, Any]:
    return {
        "model": choice.model,
        "prefix": choice.prefix,
        "slots": choice.runs[0][1].slots.shape[-1],
        "inputs": [
            {
                "tokens": list(on.tokens),
                "off": [_rows(head) for head in off.content[0]],
                "on": [_rows(head) for head in on.content[0]],
                "gate": [_numbers(head.flatten()) for head in on.slots[0]],
            }
            for off, on in choice.runs
        ],
    }


def _rows(head: Float[Tensor, "query key"]) -> list[int]:
    """Return the keys that each query may attend to, one query after the other."""
    return [x for i, row in enumerate(head) for x in _numbers(row[: i + 1])]


def _numbers(values: Float[Tensor, " key"]) -> list[int]:
    return [round(_STEPS * x) for x in values.tolist()]


def still_figure(
    choice: Choice,
    head: int = 0,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Plot the attention of one head on the first input, without and with the prefix.

    Args:
        choice: what to show.
        head: which of layer 0.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    off, on = choice.runs[0]
    n_query, n_slots = len(on.tokens), on.slots.shape[-1]
    with sheet(figsize, width) as room:
        figure = room.figure(9.2, 4.6)
        left, slots, right = figure.subplots(
            1, 3, width_ratios=[n_query, max(n_slots, 0.01), n_query]
        )
        heat(left, off.content[0, head], CONTENT_COLOURS, FULL_COLOUR)
        heat(right, on.content[0, head], CONTENT_COLOURS, FULL_COLOUR)
        names = [f"{i}: {token}" for i, token in enumerate(on.tokens)]
        for ax in (left, right):
            ax.set_xticks(range(n_query), [str(i) for i in range(n_query)], fontsize="x-small")
            ax.set_xlabel("key: content position")
            ax.set_yticks([])
        left.set_yticks(range(n_query), names, fontsize="x-small")
        left.set_ylabel("query: content position and token")
        left.set_title(f"no prefix, head 0.{head}")
        right.set_title(f"{choice.prefix}, head 0.{head}")
        if n_slots:
            heat(slots, on.slots[0, head], SLOT_COLOURS)
            slots.set_xticks(
                range(n_slots), [f"P{i + 1}" for i in range(n_slots)], fontsize="x-small"
            )
            slots.set_yticks(range(n_query), names, fontsize="x-small")
        else:
            slots.set_visible(False)
    return figure
