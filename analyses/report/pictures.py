"""Figures as small data URIs that are the same in every run."""

from __future__ import annotations

import base64
import io
import re
from urllib.parse import quote

from matplotlib.figure import Figure
from PIL import Image

from prefix_interp.views.style import look, svg

_DOTS = 170  # per inch of a dense picture
_COLOURS = 128  # of its palette
_PLAIN = " /:=,;+-.'()!*@$&?<>"  # may stand in a data URI inside double quotes


def compact_uri(figure: Figure, dense: bool = False) -> str:
    """Return a figure as the ``src`` of an ``<img>`` that needs no file and no network.

    Args:
        figure: drawn by matplotlib.
        dense: give pixels instead of a drawing, which thousands of marks make large.
    """
    return _pixels(figure) if dense else svg_uri(svg(figure))


def svg_uri(text: str) -> str:
    """Return SVG text as a data URI, with coordinates to a twentieth of a point.

    Args:
        text: the whole SVG.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", text))
    text = re.sub(r"(?<=[\"' ])-?\d+\.\d{2,}(?=[\"' ])", _shorter, text)
    return "data:image/svg+xml," + quote(text.replace('"', "'"), safe=_PLAIN)


def _shorter(found: re.Match[str]) -> str:
    number = float(found.group())
    # Scales of letters are small numbers that must keep their digits.
    return f"{number:.4g}" if abs(number) < 1 else f"{number:.1f}".removesuffix(".0")


def _pixels(figure: Figure) -> str:
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, dpi=_DOTS, format="png", metadata={"Software": None})
    image = Image.open(buffer).convert("RGB")
    small = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
