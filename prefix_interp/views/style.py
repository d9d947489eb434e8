"""One style for every figure, and figures as bytes that are the same in every run."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers tell lines apart in
# black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
SLOT_COLOURS, CONTENT_COLOURS = "Oranges", "Blues"
POINTS = 10.0  # size of the text where a figure has its own size

# Sizes of text are relative, so that a caller who sets font.size alone changes all of them.
_STYLE: Any = {
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "legend.fontsize": "small",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.7,
    "figure.facecolor": "white",
    "svg.hashsalt": "prefix_interp",  # ids by content instead of at random
    "svg.fonttype": "path",  # the same letters on every machine
}


@contextmanager
def look(points: float = POINTS) -> Iterator[None]:
    """Draw with the package's style where the caller has set nothing else, and change nothing.

    A setting counts as the caller's if it differs from matplotlib's default. To draw the same
    picture on every machine, whatever its settings, call this inside
    ``matplotlib.rc_context(matplotlib.rcParamsDefault)``.

    Args:
        points: size of the text; markers and lines follow it.
    """
    style = _STYLE | {
        "font.size": points,
        "lines.markersize": 0.4 * points,
        "lines.linewidth": 0.15 * points,
        "axes.titlepad": 0.6 * points,
        "axes.labelpad": 0.4 * points,
    }
    default = mpl.rcParamsDefault
    free = {key: x for key, x in style.items() if mpl.rcParams[key] == default[key]}
    with mpl.rc_context(free):
        yield


def legend_below(figure: Figure, ax: Axes | Sequence[Axes], ncols: int | None = None) -> Legend:
    """Write the legend of some panels below the whole figure, in as few rows as its width allows.

    Args:
        figure: with a constrained layout.
        ax: the panel, or several whose entries are named once each.
        ncols: most columns; None for as many as there are entries.
    """
    found: dict[str, Artist] = {}
    for panel in [ax] if isinstance(ax, Axes) else ax:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    room = 0.99 * figure.bbox.width
    handles, names = list(found.values()), list(found)
    n = max(1, min(ncols or len(found), len(found)))
    legend = figure.legend(handles, names, loc="outside lower center", ncols=n)
    while (long := legend.get_window_extent().width) > room and n > 1:
        legend.remove()
        n -= 1
        legend = figure.legend(handles, names, loc="outside lower center", ncols=n)
    if long > room:  # a name too long for a line of its own
        letters = max(int(0.8 * max(map(len, names)) * room / long), 8)
        for text in legend.get_texts():
            text.set_text(textwrap.fill(text.get_text(), letters))
    return legend


def svg(figure: Figure) -> str:
    """Return a figure as SVG without date or random ids: equal figures give equal text."""
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _clips_by_content(buffer.getvalue().decode())


def _clips_by_content(text: str) -> str:
    """Name clip paths by what they hold.

    Matplotlib names them by the identity of an object, so these names can differ between two
    renderings.
    """
    seen: Counter[str] = Counter()
    for name, held in re.findall(r'<clipPath id="(p[0-9a-f]{10})">(.*?)</clipPath>', text, re.S):
        seen[held] += 1
        digest = hashlib.sha256(f"{seen[held]} {held}".encode()).hexdigest()
        text = text.replace(name, f"clip-{digest[:12]}")
    return text


def data_uri(figure: Figure) -> str:
    """Return a figure as the ``src`` of an ``<img>`` that needs no file and no network."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode()


def variant_label(parameterization: str | None, n_slots: int | None) -> str:
    """Return the name of a kind of prefix in words, e.g. ``residual, 1 slot``."""
    if parameterization is None or n_slots is None:
        return "no prefix"
    return f"{parameterization}, {n_slots} slot{'' if n_slots == 1 else 's'}"
