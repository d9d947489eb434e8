"""Figures as small data URIs that are the same in every run."""

from __future__ import annotations

import base64
import io
import re
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from prefix_interp.views.style import look

_DOTS = 170  # per inch of a dense picture
_COLOURS = 128  # of its palette
_PLAIN = " /:=,;+-.'()!*@$&?<>"  # may stand in a data URI inside double quotes
# Letters stay letters, which are far smaller than their outlines. These fonts are as wide as the
# one that the figure was laid out with, or narrower.
_FONTS = "DejaVu Sans,Verdana,Helvetica,Arial,sans-serif"


def compact_uri(figure: Figure, dense: bool = False) -> str:
    """Return a figure as the ``src`` of an ``<img>`` that needs no file and no network.

    Args:
        figure: drawn by matplotlib.
        dense: give pixels instead of a drawing, which thousands of marks make large.
    """
    return _pixels(figure) if dense else svg_uri(_drawn(figure))


def svg_uri(text: str) -> str:
    """Return SVG text as a data URI, without what only an editor needs.

    Args:
        text: the whole SVG.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", text))
    # Inside tags alone: a number between them is text, with the digits that it should have.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"-?\d+\.\d{2,}", _shorter, tag.group()), text)
    return "data:image/svg+xml," + quote(text.replace('"', "'"), safe=_PLAIN)


def _drawn(figure: Figure) -> str:
    buffer = io.StringIO()
    with look(), mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    for rule in (r' id="(?!p[0-9a-f]{10}"|m[0-9a-f]{10}")[^"]*"', "; stroke-linejoin: miter",
                 "; stroke-linecap: butt", "stroke-linejoin: miter; "):  # fmt: skip
        text = re.sub(rule, "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?|; (?=\")", "", text)
    text = re.sub(r"(font: [^;\"]*?px )[^;\"]*", rf"\1{_FONTS}", text)
    text = text.replace("*{stroke-linejoin", f"*{{font-family: {_FONTS}; stroke-linejoin", 1)
    # Matplotlib names what it uses again by the identity of an object: name it by its place.
    names = dict.fromkeys(re.findall(r'id="([pm][0-9a-f]{10})"', text))
    for i, name in enumerate(names):
        text = text.replace(name, f"n{i}")
    return text


def _shorter(found: re.Match[str]) -> str:
    number = float(found.group())
    # Small numbers are opacities and scales, which must keep their digits.
    return f"{number:.3g}" if abs(number) < 1 else f"{number:.1f}".removesuffix(".0")


def _pixels(figure: Figure) -> str:
    buffer = io.BytesIO()
    with look():
        figure.savefig(buffer, dpi=_DOTS, format="png", metadata={"Software": None})
    image = Image.open(buffer).convert("RGB")
    small = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
