"""Formulas as MathML, made when the site is built: browsers draw it without a script or a font."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def to_mathml(latex: str, display: str) -> str:
    """Return a formula as MathML.

    Args:
        latex: without dollar signs, e.g. ``"g_i"``.
        display: ``"inline"``, or ``"block"`` for a line of its own.
    """
    # \bigl and its kin are for paper; browsers stretch the brackets themselves.
    return convert(latex.strip(), display=display)


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a sentence."""
    self.body.append(f'<span class="math">{to_mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on its own line; a wide one scrolls, and keyboards can reach it."""
    formula = to_mathml(node.astext(), "block")
    self.body.append(f'<div class="math" tabindex="0" role="group">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make this the way formulas are written (``html_math_renderer = "mathml"``)."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
