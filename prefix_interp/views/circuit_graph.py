"""A circuit as a picture: the graph, layer by layer, and the scores of circuits by size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefix_interp.attribution.circuit import SCORES, Circuit
from prefix_interp.attribution.circuit_parts import LOGITS, Edge
from prefix_interp.attribution.circuit_runs import Node
from prefix_interp.errors import check_number
from prefix_interp.views.style import COLOURS, MARKERS, legend_below, look

_STEP, _RADIUS = 74.0, 20.0  # between heads; of a head
_LEFT, _TOP, _BOTTOM = 82.0, 96.0, 74.0
_SLOT_ROW, _HEAD_ROW = 74.0, 112.0
_MLP_UP = 46.0  # height of an MLP above the heads that it reads
_MIN_WIDTH = 560.0
_FILL = {"head": "#dcebf5", "mlp": "#d9efe6", "slot": "#fbe5cf"}
_PALE = 'fill="#ffffff" stroke="#cfcfcf"'
_GLYPH = 6.2  # mean width of a letter at 11 px


class _Place(NamedTuple):
    x: float
    y: float
    half_width: float
    half_height: float


def circuit_svg(circuit: Circuit, title: str | None = None, min_effect: float = 0.02) -> str:
    """Return the graph of a circuit as SVG text, ready for a page or a file.

    Rows are layers, the first at the bottom. Heads are placed by index, so circuits of two prefixes
    can be compared side by side. Slots are below the heads that read them, MLPs in a separate
    column, the logits on top. Edges run upwards, with the effect as width (see
    `Circuit.edge_dataframe`), dashed and orange if cutting the edge helps. Nodes outside the
    circuit are pale. Hovering over a part shows its numbers, without scripts.

    Args:
        circuit: from `find_circuit`, or loaded.
        title: text above the graph; None for `Circuit.caption`.
        min_effect: edges with a smaller absolute effect are left out.

    Raises:
        PrefixInterpError: `min_effect` is below 0.
    """
    check_number("min_effect", min_effect)
    title = circuit.caption() if title is None else title
    places, width, height = _layout(circuit, title)
    drawn = [e for e in circuit.edges if abs(e.effect) >= min_effect]
    drawn.sort(key=lambda e: (abs(e.effect), e.source, e.target))
    hidden = len(circuit.edges) - len(drawn)
    words = (
        f"{len(circuit.nodes)} of {len(circuit.all_nodes)} nodes: "
        f"{', '.join(node.name for node in circuit.nodes)}. "
        f"{len(drawn)} edges; {hidden} with an effect below {min_effect:g} are left out."
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label={quoteattr(title)} '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        'font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(words)}</desc>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        _text(width / 2, 22.0, title, 13),
        *_row_labels(circuit, places),
        *(_edge(edge, places) for edge in drawn),
        _logits(places[LOGITS]),
        *_nodes(circuit, places),
        *_legend(height - 42, min_effect, hidden),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def circuit_curves_figure(circuit: Circuit) -> Figure:
    """Plot faithfulness and completeness against the size of the circuit.

    Lines are the best circuits that the search found. Bands and dotted lines are the range and mean
    of random circuits with as many nodes of each kind. The numbers are in `Circuit.curves`.

    Args:
        circuit: from `find_circuit`, or loaded.
    """
    frame = circuit.curves()
    chosen = len(circuit.nodes)
    has_slots = any(node.kind == "slot" for node in circuit.all_nodes)
    with look():
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for ax, name in zip(axes, SCORES, strict=True):
            low, high = (frame[f"random_{name}_{end}"] for end in ("min", "max"))
            ax.fill_between(
                frame["size"], low, high, color=COLOURS[1], alpha=0.18, linewidth=0,
                label="random, range",
            )  # fmt: skip
            ax.plot(
                frame["size"], frame[f"random_{name}_mean"], color=COLOURS[1], linestyle=":",
                label="random, mean",
            )  # fmt: skip
            many = len(frame) > 40
            ax.plot(
                frame["size"], frame[name], color=COLOURS[0], marker="" if many else MARKERS[0],
                markersize=4, label="best found",
            )  # fmt: skip
            ax.plot(
                [chosen], [frame[name].iloc[chosen]], color="black", marker="o", markersize=10,
                markerfacecolor="none", linestyle="none", label="the circuit",
            )  # fmt: skip
            ax.set(title=name, xlabel="nodes in the circuit")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].axhline(circuit.threshold, color="black", linestyle="--", linewidth=1)
        axes[0].annotate(
            f"threshold {circuit.threshold:g}", (0, circuit.threshold), xytext=(0, 3),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
        axes[0].set_ylabel("share of the prefix's effect")
        if has_slots:
            axes[1].set_title("completeness (1 where all slots are in)")
        legend_below(figure, axes[0])
    return figure


def _layout(circuit: Circuit, title: str) -> tuple[dict[str, _Place], float, float]:
    """Return the position of every node, by name, and the size of the picture."""
    found = circuit.all_nodes
    count = {k: 1 + max([n.index or 0 for n in found if n.kind == k], default=-1) for k in _FILL}
    # Slots share the width of the heads; only very many slots widen it.
    span = max(_STEP * max(count["head"], 1), 16.0 * count["slot"])
    step = span / max(count["head"], 1)
    slot_step = span / max(count["slot"], 1)
    band = _HEAD_ROW + (_SLOT_ROW if count["slot"] else 0.0)
    n_layers = 1 + max(node.layer for node in found)
    right = _STEP if count["mlp"] else 20.0
    width = max(_LEFT + span + right + 12, _MIN_WIDTH, 40 + 1.2 * _GLYPH * len(title))
    height = _TOP + n_layers * band + _BOTTOM
    left = _LEFT + (width - (_LEFT + span + right + 12)) / 2
    places = {LOGITS: _Place(left + (span + right) / 2, _TOP - 40, (span + right) / 2, 13.0)}
    for node in found:
        floor = _TOP + (n_layers - node.layer) * band
        heads = floor - (_SLOT_ROW if count["slot"] else 0.0) - _RADIUS - 6
        if node.kind == "head":
            place = _Place(left + step * (_index(node) + 0.5), heads, _RADIUS, _RADIUS)
        elif node.kind == "mlp":
            place = _Place(left + span + right / 2, heads - _MLP_UP, 24.0, 17.0)
        else:
            radius = min(16.0, 0.44 * slot_step)
            place = _Place(left + slot_step * (_index(node) + 0.5), floor - 26, radius, radius)
        places[node.name] = place
    return places, width, height


def _index(node: Node) -> int:
    return 0 if node.index is None else node.index


def _row_labels(circuit: Circuit, places: Mapping[str, _Place]) -> list[str]:
    first: dict[tuple[int, str], Node] = {}
    for node in circuit.all_nodes:
        first.setdefault((node.layer, str(node.kind)), node)
    left = min(p.x - p.half_width for p in places.values())
    words = {"head": "heads", "slot": "slots"}
    found = []
    for (layer, kind), node in first.items():
        if kind in words:
            y = places[node.name].y + 4
            found.append(_text(left - 12, y, f"{words[kind]} {layer}", 11, "end", "#555555"))
    return found


def _nodes(circuit: Circuit, places: Mapping[str, _Place]) -> list[str]:
    lost = dict(zip(circuit.nodes, circuit.minimality, strict=True))
    return [
        _node(node, places[node.name], lost.get(node), effect)
        for node, effect in zip(circuit.all_nodes, circuit.effects, strict=True)
    ]


def _node(node: Node, place: _Place, minimality: float | None, effect: float) -> str:
    x, y, w, h = place
    inside = minimality is not None
    words = f"in the circuit, minimality {minimality:.3f}" if inside else "outside the circuit"
    look_ = f'fill="{_FILL[node.kind]}" stroke="#333333"' if inside else _PALE
    if node.kind == "mlp":
        shape = (
            f'<rect x="{x - w:.1f}" y="{y - h:.1f}" width="{2 * w:.1f}" height="{2 * h:.1f}" '
            f'rx="4" {look_}/>'
        )
    elif node.kind == "slot":
        points = f"{x:.1f},{y - h:.1f} {x + w:.1f},{y:.1f} {x:.1f},{y + h:.1f} {x - w:.1f},{y:.1f}"
        shape = f'<polygon points="{points}" {look_}/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{w:.1f}" {look_}/>'
    name = f"mlp {node.layer}" if node.index is None else str(node.index)
    colour = "#000000" if inside else "#8a8a8a"
    texts = []
    if node.kind == "slot":
        texts = [_text(x, y + 3.5, name, 10, colour=colour)] if w >= 9 else []
        if inside and w >= 12:
            texts.append(_text(x, y + h + 9, f"{minimality:.2f}", 8.5))
    else:
        texts.append(_text(x, y - 1 if inside else y + 4, name, 11, colour=colour))
        if inside:
            texts.append(_text(x, y + 11, f"{minimality:.2f}", 9.5))
    hover = f"<title>{escape(f'{node.name}: {words}, effect {effect:.3f}')}</title>"
    return f'<g class="node" data-name="{node.name}">{hover}{shape}{"".join(texts)}</g>'


def _logits(place: _Place) -> str:
    x, y, w, h = place
    return (
        f'<g class="node" data-name="{LOGITS}"><rect x="{x - w:.1f}" y="{y - h:.1f}" '
        f'width="{2 * w:.1f}" height="{2 * h:.1f}" rx="4" fill="#f2f2f2" stroke="#333333"/>'
        f"{_text(x, y + 4, LOGITS, 11)}</g>"
    )


def _edge(edge: Edge, places: Mapping[str, _Place]) -> str:
    a, b = places[edge.source], places[edge.target]
    x1, y1 = a.x, a.y - a.half_height
    x2 = min(max(x1, b.x - b.half_width), b.x + b.half_width) if edge.target == LOGITS else b.x
    y2 = b.y + b.half_height
    if edge.target.startswith("mlp") and a.y - b.y <= _MLP_UP:  # heads of its own layer
        x2, y2 = b.x - b.half_width, b.y
        curve = f"C{x1:.1f},{y2:.1f} {x1:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    elif abs(x1 - x2) < 1 and y1 - y2 > _HEAD_ROW:
        # In one column other nodes are in the way: go around them, long edges further out.
        away = 46.0 + 6.0 * (y1 - y2) / _HEAD_ROW
        pull = (y1 - y2) / 4
        curve = (
            f"C{x1 + away:.1f},{y1 - pull:.1f} {x2 + away:.1f},{y2 + pull:.1f} {x2:.1f},{y2:.1f}"
        )
    else:
        pull = (y1 - y2) / 2
        curve = f"C{x1:.1f},{y1 - pull:.1f} {x2:.1f},{y2 + pull:.1f} {x2:.1f},{y2:.1f}"
    words = f"{edge.source} → {edge.target}: effect {edge.effect:.3f}"
    return (
        f'<path class="edge" d="M{x1:.1f},{y1:.1f} {curve}" fill="none" '
        f"{_stroke(edge.effect)}><title>{escape(words)}</title></path>"
    )


def _stroke(effect: float) -> str:
    width = max(0.8, 6 * min(abs(effect), 1.5))
    dash = f' stroke-dasharray="{2 * width + 3:.1f} {width + 2:.1f}"' if effect < 0 else ""
    colour = COLOURS[1 if effect < 0 else 0]
    return f'stroke="{colour}" stroke-width="{width:.1f}" stroke-opacity="0.7"{dash}'


def _legend(y: float, min_effect: float, hidden: int) -> list[str]:
    found, x = [_text(16.0, y + 4, "edge cut, effect", 10, "start")], 100.0
    for effect in (0.1, 0.5, 1.0, -0.5):
        label = f"{effect:g}".replace("-", "−")
        found.append(f'<path d="M{x:.0f},{y:.0f} h34" fill="none" {_stroke(effect)}/>')
        found.append(_text(x + 40, y + 4, label, 10, "start"))
        x += 70
    found.append(_text(x, y + 4, "of the prefix's effect", 10, "start"))
    found.append(f'<circle cx="24" cy="{y + 22:.0f}" r="7" fill="{_FILL["head"]}" stroke="#333"/>')
    found.append(_text(38.0, y + 26, "in the circuit, with its minimality", 10, "start"))
    found.append(f'<circle cx="228" cy="{y + 22:.0f}" r="7" {_PALE}/>')
    found.append(_text(242.0, y + 26, "outside", 10, "start"))
    if hidden:
        words = f"edges below {min_effect:g} not drawn: {hidden}"
        found.append(_text(310.0, y + 26, words, 10, "start"))
    return found


def _text(
    x: float,
    y: float,
    text: str,
    size: float | int,
    anchor: str = "middle",
    colour: str = "#000000",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" '
        f'fill="{colour}">{escape(text)}</text>'
    )
