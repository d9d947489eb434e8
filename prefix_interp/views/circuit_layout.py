"""Where the parts of a circuit's graph stand, whoever draws them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_parts import LOGITS, Edge
from prefix_interp.attribution.circuit_runs import Node
from prefix_interp.views.style import COLOURS

PIXELS = 96.0  # an inch; all lengths here are in pixels, y runs downwards
_STEP, _RADIUS = 74.0, 20.0  # between heads; of a head
_SLOT_ROW, _HEAD_ROW = 74.0, 112.0
_MLP_UP = 46.0  # height of an MLP above the heads that it reads
_MIN_WIDTH = 560.0
_HIGHEST = {False: 1400.0, True: 560.0}  # of all layers; more of them stand closer
_EM = 11.0  # size of text in a graph of its own size
_GLYPH = 0.6  # mean width of a letter, as a share of its size
FILL = {"head": "#dcebf5", "mlp": "#d9efe6", "slot": "#fbe5cf"}
PALE, PALE_EDGE, LINE = "#ffffff", "#cfcfcf", "#333333"


class Place(NamedTuple):
    """The middle of a part, and half of its width and height."""

    x: float
    y: float
    half_width: float
    half_height: float


class Label(NamedTuple):
    """A text; `anchor` is ``"start"``, ``"middle"`` or ``"end"``."""

    x: float
    y: float
    text: str
    size: float
    anchor: str = "middle"
    colour: str = "#000000"


class Stroke(NamedTuple):
    """How an edge is drawn: orange and dashed if cutting it helps."""

    colour: str
    width: float
    dash: tuple[float, float] | None


class Mark(NamedTuple):
    """One entry of the legend: an edge of some effect, a node, or words alone."""

    x: float
    y: float
    shows: float | bool | None
    label: Label


@dataclass(frozen=True)
class Graph:
    """A circuit's graph, ready to be drawn.

    Attributes:
        circuit: what is drawn.
        places: of every node and the logits, by name.
        width: of the picture.
        height: of the picture.
        em: size of text.
        edges: those drawn, the strongest last.
        titles: lines above the graph.
        marks: the legend.
        words: the graph in words, and what is left out of it.
    """

    circuit: Circuit
    places: Mapping[str, Place]
    width: float
    height: float
    em: float
    edges: tuple[Edge, ...]
    titles: tuple[Label, ...]
    marks: tuple[Mark, ...]
    words: str

    def curve(self, edge: Edge) -> tuple[tuple[float, float], ...]:
        """Return start, two control points and end of a cubic curve."""
        a, b = self.places[edge.source], self.places[edge.target]
        x1, y1 = a.x, a.y - a.half_height
        x2, y2 = b.x, b.y + b.half_height
        if edge.target == LOGITS:
            x2 = min(max(x1, b.x - b.half_width), b.x + b.half_width)
        beside = (
            edge.target.startswith("mlp")
            and edge.source.split()[-1].split(".")[0] == (edge.target.split()[-1])
        )
        if beside:  # heads of its own layer
            x2, y2 = b.x - b.half_width, b.y
            return (x1, y1), (x1, y2), (x1, y2), (x2, y2)
        between = (p for p in self.places.values() if y2 < p.y < a.y)
        if abs(x1 - x2) < 1 and any(abs(p.x - x1) < 1 for p in between):
            # In one column other nodes are in the way: go around them, long edges further out.
            away = min(2.3 * a.half_width + 0.054 * (y1 - y2), self.width - x1 - 2)
            pull = (y1 - y2) / 4
            return (x1, y1), (x1 + away, y1 - pull), (x2 + away, y2 + pull), (x2, y2)
        pull = (y1 - y2) / 2
        return (x1, y1), (x1, y1 - pull), (x2, y2 + pull), (x2, y2)

    def stroke(self, effect: float) -> Stroke:
        """Return how an edge with this effect looks; no edge is too weak to be seen."""
        scale = self.em / _EM
        width = max(0.8 * scale, 6 * scale * min(abs(effect), 1.5))
        dash = (2 * width + 3, width + 2) if effect < 0 else None
        return Stroke(COLOURS[1 if effect < 0 else 0], width, dash)

    def row_labels(self) -> list[Label]:
        """Return the names of the rows, as many as fit; those of heads come first."""
        rows: dict[tuple[int, str], float] = {}
        for node in self.circuit.all_nodes:
            if node.kind != "mlp":
                rows.setdefault((node.layer, str(node.kind)), self.places[node.name].y)
        left = min(p.x - p.half_width for p in self.places.values())
        found: list[Label] = []
        for (layer, kind), middle in sorted(rows.items(), key=lambda row: (row[0][1], row[0][0])):
            y = middle + 0.36 * self.em
            if all(abs(y - other.y) > 1.35 * self.em for other in found):
                text = f"{kind}s {layer}"
                found.append(Label(left - self.em, y, text, self.em, "end", "#555555"))
        return found

    def node_labels(self, node: Node, minimality: float | None) -> list[Label]:
        """Return the number of a node, and its minimality in the circuit where that fits."""
        x, y, w, h = self.places[node.name]
        colour = "#8a8a8a" if minimality is None else "#000000"
        name = f"mlp {node.layer}" if node.index is None else str(node.index)
        size = min(self.em, 1.8 * w / max(len(name), 2) / _GLYPH)
        if size < 0.55 * self.em:
            return []
        number = "" if minimality is None else f"{minimality:.2f}"
        small = 0.86 * self.em
        if node.kind == "slot":
            found = [Label(x, y + 0.34 * size, name, size, colour=colour)]
            if number and 2 * w >= 0.5 * len(number) * small:
                found.append(Label(x, y + h + 0.82 * self.em, number, 0.77 * self.em))
            return found
        if number and 2 * w > _GLYPH * len(number) * small + 2 and h >= 1.5 * self.em:
            return [Label(x, y - 0.1 * self.em, name, size), Label(x, y + self.em, number, small)]
        return [Label(x, y + 0.36 * size, name, size, colour=colour)]


def graph_of(
    circuit: Circuit,
    title: str | None,
    min_effect: float,
    em: float = _EM,
    size: tuple[float | None, float | None] = (None, None),
) -> Graph:
    """Return where everything stands.

    Args:
        circuit: what to draw.
        title: None for `Circuit.caption`.
        min_effect: edges with a smaller absolute effect are left out.
        em: size of text.
        size: width and height in pixels; None for what the graph needs.
    """
    title = circuit.caption() if title is None else title
    drawn = [e for e in circuit.edges if abs(e.effect) >= min_effect]
    drawn.sort(key=lambda e: (abs(e.effect), e.source, e.target))
    hidden = len(circuit.edges) - len(drawn)
    joined = {end for edge in drawn for end in (edge.source, edge.target)}
    alone = [node.name for node in circuit.nodes if node.name not in joined]
    notes = [f"edges below {min_effect:g} not drawn: {hidden}"] if hidden else []
    if alone:
        notes.append(f"without an edge: {', '.join(alone)}")
    fixed, high = size
    found = circuit.all_nodes
    count = {k: 1 + max([n.index or 0 for n in found if n.kind == k], default=-1) for k in FILL}
    heads, n_layers = max(count["head"], 1), 1 + max(node.layer for node in found)
    left = 7.5 * em
    right = (_STEP * em / _EM if count["mlp"] else 1.8 * em) + 12
    # Slots share the width of the heads; only very many slots widen it.
    span = max(_STEP * heads, 16.0 * count["slot"]) if fixed is None else fixed - left - right
    width = fixed or max(left + span + right, _MIN_WIDTH, 40 + 7.44 * len(title))
    titles = _lines(title, width, em)
    marks = _legend(notes, width, em)
    top = 74.0 * em / _EM + 2 * em + 1.5 * em * (len(titles) - 1)
    bottom = 2.7 * em + 2 * em * (1 + round(marks[-1].y / (2 * em)))
    band = _HEAD_ROW + (_SLOT_ROW if count["slot"] else 0.0)
    if high is not None:
        band = max((high - top - bottom) / n_layers, 4.0)
    else:
        band = min(band * (em / _EM), max(_HIGHEST[fixed is not None] / n_layers, 2.2 * em))
    tight = band / (_HEAD_ROW + (_SLOT_ROW if count["slot"] else 0.0))
    height = high or top + n_layers * band + bottom
    places = _places(circuit, count, (left + (width - left - span - right) / 2, span, right - 12),
                     (top, band, tight, em))  # fmt: skip
    words = (
        f"{len(circuit.nodes)} of {len(found)} nodes: "
        f"{', '.join(node.name for node in circuit.nodes)}. {len(drawn)} edges"
        + "".join(f"; {note}" for note in notes) + "."
    )  # fmt: skip
    y = height - bottom + 2.9 * em
    marks = [Mark(m.x, m.y + y, m.shows, m.label._replace(y=m.label.y + y)) for m in marks]
    return Graph(
        circuit, places, width, height, em, tuple(drawn), tuple(titles), tuple(marks), words
    )


def _places(
    circuit: Circuit,
    count: Mapping[str, int],
    across: tuple[float, float, float],
    along: tuple[float, float, float, float],
) -> dict[str, Place]:
    """Return the place of every node and of the logits, by name."""
    (left, span, right), (top, band, tight, em) = across, along
    n_layers = 1 + max(node.layer for node in circuit.all_nodes)
    step, slot_step = span / max(count["head"], 1), span / max(count["slot"], 1)
    slot_row = tight * _SLOT_ROW if count["slot"] else 0.0
    head_row = band - slot_row
    radius = min(_RADIUS * em / _EM, 0.44 * step, 0.36 * head_row)
    middle = left + (span + right) / 2
    places = {LOGITS: Place(middle, top - 3.6 * em, (span + right) / 2, 1.2 * em)}
    for node in circuit.all_nodes:
        floor = top + (n_layers - node.layer) * band
        heads = floor - slot_row - radius - 6 * tight
        index = 0 if node.index is None else node.index
        if node.kind == "head":
            place = Place(left + step * (index + 0.5), heads, radius, radius)
        elif node.kind == "mlp":
            up = _MLP_UP * tight
            place = Place(left + span + right / 2, heads - up, min(24 * em / _EM, 0.45 * right),
                          min(17.0 * em / _EM, 0.42 * band))  # fmt: skip
        else:
            small = min(16.0 * em / _EM, 0.44 * slot_step, 0.25 * slot_row)
            place = Place(left + slot_step * (index + 0.5), floor - 0.35 * slot_row, small, small)
        places[node.name] = place
    return places


def _lines(title: str, width: float, em: float) -> list[Label]:
    letters = max(int((width - 2 * em) / (0.56 * 1.18 * em)), 10)
    lines = textwrap.wrap(title, letters) or [""]
    return [Label(width / 2, 2 * em + 1.5 * em * i, x, 1.18 * em) for i, x in enumerate(lines)]


def _legend(notes: Sequence[str], width: float, em: float) -> list[Mark]:
    """Return the entries, in as many rows as they need; the first row is at 0."""
    edges = [(x, f"{x:g}".replace("-", "−")) for x in (0.1, 0.5, 1.0, -0.5)]
    entries: list[tuple[float | bool | None, str]] = [(None, "effect lost with an edge"), *edges]
    entries.append((True, "in the circuit, with its minimality"))
    entries += [(False, "outside"), *((None, note) for note in notes)]
    found, x, y, size = [], 1.5 * em, 0.0, 0.91 * em
    for shows, text in entries:
        lead = 0.0 if shows is None else 1.6 * em if isinstance(shows, bool) else 2.7 * em
        letters = max(int((width - 3 * em - lead) / (_GLYPH * size)), 10)
        for i, line in enumerate(textwrap.wrap(text, letters)):
            long = lead + 0.56 * size * len(line)
            new_row = shows is True or i > 0  # nodes below edges
            if x > 1.5 * em and (new_row or x + long > width - em):
                x, y = 1.5 * em, y + 2 * em
            label = Label(x + lead, y + 0.36 * em, line, size, "start")
            found.append(Mark(x, y, shows if i == 0 else None, label))
            x += long + em
    return found
