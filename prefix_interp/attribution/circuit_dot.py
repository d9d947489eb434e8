"""A circuit as Graphviz text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefix_interp.attribution.circuit_parts import LOGITS, Edge
from prefix_interp.attribution.circuit_runs import Node

_COLOURS = ("#0072B2", "#D55E00")  # for an effect with the prefix's, and against it
_SHAPES = {"head": "circle", "mlp": "box", "slot": "diamond"}


def dot_text(caption: str, minimality: Mapping[Node, float], edges: Sequence[Edge]) -> str:
    """Return Graphviz text: one row per layer and kind of node, layers upwards, logits on top.

    Args:
        caption: text above the graph.
        minimality: of each node, in the order in which they are drawn.
        edges: width and label show the effect, dashed and orange if it works against the prefix.
    """
    lines = [
        "digraph circuit {",
        f"  label={_quote(caption)}; labelloc=t; rankdir=BT;",
        '  node [shape=circle, fontname="Helvetica", fontsize=10, style=filled, '
        'fillcolor="#eaf2f8"];',
        '  edge [fontname="Helvetica", fontsize=9];',
    ]
    for layer in sorted({node.layer for node in minimality}):
        for kind, shape in _SHAPES.items():
            own = [node for node in minimality if (node.layer, node.kind) == (layer, kind)]
            if own:
                lines.append("  { rank=same;")
                for node in own:
                    label = f"{node.name}\n{minimality[node]:.2f}"
                    lines.append(f"    {_quote(node.name)} [label={_quote(label)}, shape={shape}];")
                lines.append("  }")
    lines.append(f'  {_quote(LOGITS)} [shape=box, fillcolor="#ffffff"];')
    for edge in edges:
        width = 0.5 + 5 * min(abs(edge.effect), 1.0)
        look = "solid" if edge.effect >= 0 else "dashed"
        lines.append(
            f"  {_quote(edge.source)} -> {_quote(edge.target)} "
            f'[label="{edge.effect:.2f}", penwidth={width:.2f}, style={look}, '
            f'color="{_COLOURS[edge.effect < 0]}"];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quote(text: str) -> str:
    """Return a quoted string of the DOT language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
