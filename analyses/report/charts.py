"""The small drawings on the cards of the first screen, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_WIDTH, _ROW, _LABEL, _VALUE = 262.0, 22.0, 104.0, 64.0
_LEFT, _RIGHT = _LABEL + 6, _WIDTH - _VALUE


class Bar(NamedTuple):
    """One line of a chart.

    Attributes:
        label: on its left.
        share: its length, 0 to 1.
        text: on its right.
        tone: ``"blue"``, ``"orange"`` or ``"soft"``.
    """

    label: str
    share: float
    text: str
    tone: str = "blue"


def bars(rows: Sequence[Bar], words: str) -> Markup:
    """Return horizontal bars with their labels and values.

    Args:
        rows: from top to bottom.
        words: what the chart shows, for readers who cannot see it.
    """
    drawn = []
    for i, row in enumerate(rows):
        middle = _ROW * i + _ROW / 2
        length = (_RIGHT - _LEFT) * min(max(row.share, 0.0), 1.0)
        drawn += [
            _text(_LABEL, middle, row.label, "end"),
            Markup(
                '<line class="axis" x1="{0:.0f}" y1="{1:.0f}" x2="{0:.0f}" y2="{2:.0f}"/>'
            ).format(_LEFT, middle - 9, middle + 9),
            Markup('<rect class="{}" x="{:.0f}" y="{:.0f}" width="{:.1f}" height="12"/>').format(
                row.tone, _LEFT, middle - 6, length
            ),
            _text(_LEFT + length + 5, middle, row.text, "start"),
        ]
    return _chart(drawn, len(rows), words)


def dots(rows: Sequence[tuple[str, int, int, int]], words: str) -> Markup:
    """Return rows of dots: full up to the smallest count, pale up to the largest, then empty.

    Args:
        rows: label, smallest and largest count, and how many dots there are.
        words: what the chart shows, for readers who cannot see it.
    """
    drawn = []
    for i, (label, smallest, largest, of) in enumerate(rows):
        middle = _ROW * i + _ROW / 2
        drawn.append(_text(_LABEL, middle, label, "end"))
        for k in range(of):
            tone = "blue" if k < smallest else "pale" if k < largest else "empty"
            drawn.append(
                Markup('<circle class="{}" cx="{:.0f}" cy="{:.0f}" r="6"/>').format(
                    tone, _LEFT + 10 + 18 * k, middle
                )
            )
    return _chart(drawn, len(rows), words)


def log_share(value: float, least: float = 1e-17, most: float = 1.0) -> float:
    """Return where a value lies between two others on a logarithmic axis, 0 to 1.

    Args:
        value: above 0.
        least: where the axis starts.
        most: where it ends.
    """
    return math.log(max(value, least) / least) / math.log(most / least)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.0f}" y="{:.0f}" text-anchor="{}">{}</text>').format(
        x, y + 4, anchor, words
    )


def _chart(drawn: Sequence[Markup], n_rows: int, words: str) -> Markup:
    head = Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">'
    ).format(_WIDTH, _ROW * n_rows, escape(words))
    return head + Markup("").join(drawn) + Markup("</svg>")
