"""One style for every figure, and figures as bytes that are the same in every run."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers tell lines apart in
# black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
SLOT_COLOURS, CONTENT_COLOURS = "Oranges", "Blues"

_STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "figure.facecolor": "white",
    "svg.hashsalt": "prefix_interp",  # ids by content instead of at random
    "svg.fonttype": "path",  # the same letters on every machine
}


@contextmanager
def look() -> Iterator[None]:
    """Draw with the package's style and leave the user's settings untouched."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def legend_below(figure: Figure, ax: Axes, ncols: int | None = None) -> None:
    """Write the legend of one panel below the whole figure, in one row unless `ncols` is given."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols or len(labels))


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
