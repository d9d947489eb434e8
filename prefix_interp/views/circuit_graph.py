"""A circuit as a graph, layer by layer: as SVG with numbers on hovering, or as a figure."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle as Round
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_parts import LOGITS, Edge
from prefix_interp.attribution.circuit_runs import Node
from prefix_interp.errors import check_number
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.circuit_curves import circuit_curves_figure as circuit_curves_figure
from prefix_interp.views.circuit_layout import (
    FILL,
    LINE,
    PALE,
    PALE_EDGE,
    PIXELS,
    Graph,
    Label,
    Mark,
    Place,
    graph_of,
)
from prefix_interp.views.sheet import Sheet
from prefix_interp.views.style import look

_EM = 1.1  # pixels of text for each point of a figure's text
_OPACITY = 0.7  # of edges
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def circuit_svg(
    circuit: Circuit,
    title: str | None = None,
    min_effect: float = 0.0,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> str:
    """Return the graph of a circuit as SVG text, ready for a page or a file.

    Rows are layers, the first at the bottom. Heads are placed by index, so circuits of two prefixes
    can be compared side by side. Slots are below the heads that read them, MLPs in a separate
    column, the logits on top. Edges run upwards, with the effect as width (see
    `Circuit.edge_dataframe`), dashed and orange if cutting the edge helps. Every edge of the
    circuit is drawn; a node of the circuit that has none is named below. Nodes outside the circuit
    are pale. Hovering over a part shows its numbers, without scripts.

    Args:
        circuit: from `find_circuit`, or loaded.
        title: text above the graph; None for `Circuit.caption`.
        min_effect: edges with a smaller absolute effect are left out, and counted below.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: `min_effect` is below 0, or a size that is not possible.
    """
    check_number("min_effect", min_effect)
    sheet = Sheet(figsize, width)
    graph = graph_of(circuit, title, min_effect, _EM * sheet.points, _pixels(sheet))
    name = circuit.caption() if title is None else title
    wide, high = f"{graph.width:.0f}", f"{graph.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={quoteattr(name)} '
        f'width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(name)}</title>",
        f"<desc>{escape(graph.words)}</desc>",
        f'<rect width="{wide}" height="{high}" fill="#ffffff"/>',
        *map(_text, (*graph.titles, *graph.row_labels())),
        *(_edge(graph, edge) for edge in graph.edges),
        *_nodes(graph),
        *(part for mark in graph.marks for part in _mark(graph, mark)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def circuit_figure(
    circuit: Circuit,
    title: str | None = None,
    min_effect: float = 0.0,
    *,
    figsize: Size | None = None,
    width: Width | None = None,
) -> Figure:
    """Return the graph that `circuit_svg` draws as a matplotlib figure, e.g. for a PDF.

    Args:
        circuit: from `find_circuit`, or loaded.
        title: text above the graph; None for `Circuit.caption`.
        min_effect: edges with a smaller absolute effect are left out, and counted below.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: `min_effect` is below 0, or a size that is not possible.
    """
    check_number("min_effect", min_effect)
    sheet = Sheet(figsize, width)
    with look(sheet.points):
        em = _EM * float(mpl.rcParams["font.size"])
        graph = graph_of(circuit, title, min_effect, em, _pixels(sheet))
        figure = Figure(figsize=(graph.width / PIXELS, graph.height / PIXELS))
        ax = figure.add_axes((0, 0, 1, 1), xlim=(0, graph.width), ylim=(graph.height, 0))
        ax.set_axis_off()
        for edge in graph.edges:
            start, *rest = graph.curve(edge)
            path = Path([start, *rest], [Path.MOVETO, *[Path.CURVE4] * 3])
            ax.add_patch(PathPatch(path, fill=False, zorder=1, **_pen(graph, edge.effect)))
        lost = dict(zip(circuit.nodes, circuit.minimality, strict=True))
        for node in circuit.all_nodes:
            _draw_node(ax, node, graph.places[node.name], node in lost)
            for label in graph.node_labels(node, lost.get(node)):
                _write(ax, label)
        _draw_box(ax, graph.places[LOGITS], "#f2f2f2", LINE)
        for label in (*graph.titles, *graph.row_labels(), _logits_label(graph)):
            _write(ax, label)
        for mark in graph.marks:
            _draw_mark(ax, graph, mark)
    return figure


def _pixels(sheet: Sheet) -> tuple[float | None, float | None]:
    wide, high = sheet.width, sheet.height
    return wide and PIXELS * wide, high and PIXELS * high


def _logits_label(graph: Graph) -> Label:
    x, y, _, _ = graph.places[LOGITS]
    return Label(x, y + 0.36 * graph.em, LOGITS, graph.em)


# The graph as SVG text


def _nodes(graph: Graph) -> list[str]:
    circuit = graph.circuit
    lost = dict(zip(circuit.nodes, circuit.minimality, strict=True))
    x, y, w, h = graph.places[LOGITS]
    found = [
        f'<g class="node" data-name="{LOGITS}"><rect x="{x - w:.1f}" y="{y - h:.1f}" '
        f'width="{2 * w:.1f}" height="{2 * h:.1f}" rx="4" fill="#f2f2f2" stroke="{LINE}"/>'
        f"{_text(_logits_label(graph))}</g>"
    ]
    for node, effect in zip(circuit.all_nodes, circuit.effects, strict=True):
        found.append(_node(graph, node, lost.get(node), effect))
    return found


def _node(graph: Graph, node: Node, minimality: float | None, effect: float) -> str:
    x, y, w, h = graph.places[node.name]
    inside = minimality is not None
    words = f"in the circuit, minimality {minimality:.3f}" if inside else "outside the circuit"
    fill = FILL[node.kind] if inside else PALE
    colours = f'fill="{fill}" stroke="{LINE if inside else PALE_EDGE}"'
    if node.kind == "mlp":
        shape = (
            f'<rect x="{x - w:.1f}" y="{y - h:.1f}" width="{2 * w:.1f}" height="{2 * h:.1f}" '
            f'rx="4" {colours}/>'
        )
    elif node.kind == "slot":
        points = f"{x:.1f},{y - h:.1f} {x + w:.1f},{y:.1f} {x:.1f},{y + h:.1f} {x - w:.1f},{y:.1f}"
        shape = f'<polygon points="{points}" {colours}/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{w:.1f}" {colours}/>'
    texts = "".join(map(_text, graph.node_labels(node, minimality)))
    hover = f"<title>{escape(f'{node.name}: {words}, effect {effect:.3f}')}</title>"
    return f'<g class="node" data-name="{node.name}">{hover}{shape}{texts}</g>'


def _edge(graph: Graph, edge: Edge) -> str:
    start, *rest = (f"{x:.1f},{y:.1f}" for x, y in graph.curve(edge))
    words = f"{edge.source} → {edge.target}: effect {edge.effect:.3f}"
    return (
        f'<path class="edge" d="M{start} C{" ".join(rest)}" fill="none" '
        f"{_stroke(graph, edge.effect)}><title>{escape(words)}</title></path>"
    )


def _stroke(graph: Graph, effect: float) -> str:
    colour, width, dash = graph.stroke(effect)
    dashes = "" if dash is None else f' stroke-dasharray="{dash[0]:.1f} {dash[1]:.1f}"'
    return f'stroke="{colour}" stroke-width="{width:.1f}" stroke-opacity="{_OPACITY}"{dashes}'


def _mark(graph: Graph, mark: Mark) -> list[str]:
    x, y, shows, label = mark
    em, found = graph.em, []
    if isinstance(shows, bool):
        fill, line = (FILL["head"], LINE) if shows else (PALE, PALE_EDGE)
        found.append(
            f'<circle cx="{x + 0.6 * em:.1f}" cy="{y:.1f}" r="{0.6 * em:.1f}" fill="{fill}" '
            f'stroke="{line}"/>'
        )
    elif shows is not None:
        line = f'<path d="M{x:.1f},{y:.1f} h{2.3 * em:.1f}" fill="none" '
        found.append(f"{line}{_stroke(graph, shows)}/>")
    return [*found, _text(label)]


def _text(label: Label) -> str:
    x, y, text, size, anchor, colour = label
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.4g}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )


# The graph as a figure


def _pen(graph: Graph, effect: float) -> dict[str, object]:
    colour, width, dash = graph.stroke(effect)
    points = 72 / PIXELS
    pen: dict[str, object] = {"edgecolor": colour, "linewidth": points * width, "alpha": _OPACITY}
    if dash is not None:
        pen["linestyle"] = (0, (dash[0] / width, dash[1] / width))  # in widths of the line
    return pen


def _draw_node(ax: Axes, node: Node, place: Place, inside: bool) -> None:
    x, y, w, h = place
    fill, line = (FILL[node.kind], LINE) if inside else (PALE, PALE_EDGE)
    if node.kind == "mlp":
        _draw_box(ax, place, fill, line)
    elif node.kind == "slot":
        corners = [(x, y - h), (x + w, y), (x, y + h), (x - w, y)]
        ax.add_patch(Polygon(corners, facecolor=fill, edgecolor=line, linewidth=0.7, zorder=2))
    else:
        ax.add_patch(Round((x, y), w, facecolor=fill, edgecolor=line, linewidth=0.7, zorder=2))


def _draw_box(ax: Axes, place: Place, fill: str, line: str) -> None:
    x, y, w, h = place
    style = f"round,pad=0,rounding_size={min(4.0, w, h):g}"
    box = FancyBboxPatch((x - w, y - h), 2 * w, 2 * h, boxstyle=style, linewidth=0.7, zorder=2)
    box.set(facecolor=fill, edgecolor=line)
    ax.add_patch(box)


def _draw_mark(ax: Axes, graph: Graph, mark: Mark) -> None:
    x, y, shows, label = mark
    em = graph.em
    if isinstance(shows, bool):
        fill, line = (FILL["head"], LINE) if shows else (PALE, PALE_EDGE)
        ax.add_patch(
            Round((x + 0.6 * em, y), 0.6 * em, facecolor=fill, edgecolor=line, linewidth=0.7)
        )
    elif shows is not None:
        path = Path([(x, y), (x + 2.3 * em, y)])
        ax.add_patch(PathPatch(path, fill=False, **_pen(graph, shows)))
    _write(ax, label)


def _write(ax: Axes, label: Label) -> None:
    x, y, text, size, anchor, colour = label
    ax.text(
        x, y, text, fontsize=size * 72 / PIXELS, ha=_ANCHORS[anchor], va="baseline", color=colour,
        zorder=3, parse_math=False,
    )  # fmt: skip
