"""What a circuit contains besides its nodes: edges, and the circuits of other sizes."""

from __future__ import annotations

from dataclasses import dataclass

from prefix_interp.attribution.circuit_runs import Node

LOGITS = "logits"


@dataclass(frozen=True)
class Edge:
    """A direct connection inside a circuit.

    Attributes:
        source: name of the node that writes.
        target: name of the node that reads, or ``"logits"``.
        effect: the faithfulness that is lost when this edge alone is cut.
    """

    source: str
    target: str
    effect: float


@dataclass(frozen=True)
class SizePoint:
    """The best circuit of one size, and random ones with as many nodes of each kind.

    Attributes:
        nodes: of the best that the search found.
        faithfulness: of these nodes.
        completeness: of these nodes.
        random_faithfulness: one value per random circuit.
        random_completeness: one value per random circuit.
    """

    nodes: tuple[Node, ...]
    faithfulness: float
    completeness: float
    random_faithfulness: tuple[float, ...]
    random_completeness: tuple[float, ...]
