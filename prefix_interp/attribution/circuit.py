"""The smallest part of the model through which a prefix has its effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from prefix_interp.attribution.circuit_dot import dot_text
from prefix_interp.attribution.circuit_parts import LOGITS, Edge, SizePoint
from prefix_interp.attribution.circuit_record import (
    PLAIN_FIELDS,
    SCHEMAS,
    SCORES,
    Search,
    fields_of,
    interval_record,
)
from prefix_interp.attribution.circuit_runs import (
    Node,
    circuit_metrics,
    circuit_nodes,
    share_interval,
)
from prefix_interp.attribution.pair import Contrast
from prefix_interp.errors import PrefixInterpError, check_number
from prefix_interp.estimates import Estimate
from prefix_interp.figure_files import Size, Width, refuse_figure, save_figure
from prefix_interp.models.model import has_id, model_id
from prefix_interp.records import one_line
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.storage import read_json, write_json
from prefix_interp.tasks.words import task_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Circuit(ResultObject):
    """A set of heads, MLPs and slots that keeps a prefix's effect, and how good it is.

    With m(S) the mean metric of the run in which exactly the nodes S act as with the prefix:

    - faithfulness(S) = (m(S) - m(off)) / (m(on) - m(off)). Above 1 the nodes left out work
      against the prefix.
    - completeness(S) = 1 - faithfulness(all nodes without S): 1 if the other nodes alone have no
      effect (Marks et al. 2024; Wang et al. 2023, their criterion with K = C), below 1 if they have
      part of it, above 1 if they work against it. It is 1 by construction if S contains all slots:
      search with ``kinds=("head", "mlp")`` to see what other heads do with the prefix.
    - minimality of a node of S = faithfulness(S) - faithfulness(S without the node).

    All are shares of the prefix's effect on the examples that the search saw. The search picks what
    looks best there: measure again on others with `faithfulness` and `completeness`.

    Attributes:
        nodes: the circuit, in order of decreasing minimality.
        all_nodes: the candidates of the search; parts of other kinds always stay in.
        threshold: the faithfulness that the search had to reach.
        metric: the name of what was measured.
        search: ``"exhaustive"``: no smaller set reaches the threshold, and no other of this size
            is more faithful. ``"backward"``: every node is needed, but a smaller set may exist.
        on: mean metric with the prefix.
        off: mean metric without it (masked baseline).
        scores: faithfulness and completeness with their 95% intervals over examples.
        minimality: of each of `nodes`.
        effects: of each of `all_nodes`, what is lost when it alone is left out of all nodes.
        sizes: the best and random circuits of 0, 1, 2, ... nodes.
        edges: inside the circuit, and to the logits.
        provenance: model, prefix, task, seeds, baseline and versions.
        plain: mean metric of the model as it is (see `Contrast`); None in old files.

    Example:
        >>> len(pi.find_circuit(model, prefix, task, n=8, progress=False).nodes)
        4
    """

    nodes: tuple[Node, ...]
    all_nodes: tuple[Node, ...]
    threshold: float
    metric: str
    search: Search | str
    on: float
    off: float
    scores: Mapping[str, Estimate]
    minimality: tuple[float, ...]
    effects: tuple[float, ...]
    sizes: tuple[SizePoint, ...]
    edges: tuple[Edge, ...]
    provenance: Mapping[str, Any]
    plain: float | None = None

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0.0, low_open=True)
        if not isinstance(self.metric, str) or not self.metric:
            raise PrefixInterpError(f"metric={self.metric!r} must be a name; make it again")
        names = {node.name for node in self.all_nodes}
        inside = {node.name for node in self.nodes}
        sizes = [len(p.nodes) for p in self.sizes]
        drawn = {len(x) for p in self.sizes for x in (p.random_faithfulness, p.random_completeness)}
        bad = {
            "all_nodes": len(names) != len(self.all_nodes) or not inside <= names,
            "nodes": len(inside) != len(self.nodes),
            "minimality": len(self.minimality) != len(self.nodes),
            "effects": len(self.effects) != len(self.all_nodes),
            "sizes": sizes != list(range(len(names) + 1))
            or any(node.name not in names for p in self.sizes for node in p.nodes),
            "random circuits": len(drawn) != 1 or drawn == {0},
            "edges": any({e.source, e.target} - inside - {LOGITS} for e in self.edges),
        }
        for name, wrong in bad.items():
            if wrong:
                raise PrefixInterpError(f"{name} does not fit the nodes; make the circuit again")

    def faithfulness(self, contrast: Contrast | None = None) -> Estimate:
        """Return the share of the prefix's effect that the circuit keeps, with a 95% interval.

        Args:
            contrast: other examples (another seed) or another prefix on the same model; None for
                the examples that the circuit was found on.

        Raises:
            PrefixInterpError: `contrast` is of another model, lacks nodes or the metric, or its
                prefix has no effect.
        """
        if contrast is None:
            return self.scores["faithfulness"]
        return self._measure(contrast, inside=True)

    def completeness(self, contrast: Contrast | None = None) -> Estimate:
        """Return the share of the prefix's effect that is lost without the circuit.

        Args:
            contrast: as for `faithfulness`.

        Raises:
            PrefixInterpError: as `faithfulness`.
        """
        if contrast is None:
            return self.scores["completeness"]
        rest = self._measure(contrast, inside=False)
        return Estimate(1 - rest.value, 1 - rest.high, 1 - rest.low)

    def _measure(self, contrast: Contrast, inside: bool) -> Estimate:
        if not has_id(contrast.model, self.provenance["model_id"]):
            raise PrefixInterpError(
                f"contrast is of the model {model_id(contrast.model)!r} but the circuit of "
                f"{self.provenance['model_id']!r}; make the contrast with the circuit's model"
            )
        kinds = tuple(dict.fromkeys(node.kind for node in self.all_nodes))
        if set(circuit_nodes(contrast.model, contrast.prefix, kinds)) != set(self.all_nodes):
            raise PrefixInterpError(
                f"contrast has a prefix of {contrast.n_slots} slots, which are not those of the "
                "circuit; give a prefix with as many"
            )
        if self.metric not in contrast.metrics:
            raise PrefixInterpError(
                f"contrast measures {', '.join(contrast.metrics)} but the circuit {self.metric}; "
                f"make the contrast with metrics=({self.metric!r},)"
            )
        keep = torch.tensor([[(node in self.nodes) == inside for node in self.all_nodes]])
        values = circuit_metrics(contrast, keep, self.all_nodes)[self.metric][0]
        return share_interval(contrast, self.metric, values)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per node.

        Columns: ``name``, ``kind``, ``layer``, ``index``, ``in_circuit``, ``minimality`` (NaN
        outside the circuit) and ``effect``, the last two as shares of the prefix's effect.
        """
        lost = dict(zip(self.nodes, self.minimality, strict=True))
        rows = [
            {
                "name": node.name,
                "kind": node.kind,
                "layer": node.layer,
                "index": node.index,
                "in_circuit": node in lost,
                "minimality": lost.get(node, math.nan),
                "effect": effect,
            }
            for node, effect in zip(self.all_nodes, self.effects, strict=True)
        ]
        return pd.DataFrame(rows).astype({"index": "Int64"})

    def curves(self) -> pd.DataFrame:
        """Return one row per size: the best nodes, their scores, and the scores of random circuits.

        Columns: ``size``, ``nodes``, ``chosen`` (the circuit's own size), and for faithfulness
        and completeness the score and ``random_..._min``, ``_mean`` and ``_max``.
        """
        rows = []
        for size, point in enumerate(self.sizes):
            row: dict[str, Any] = {
                "size": size,
                "nodes": ", ".join(node.name for node in point.nodes),
                "chosen": size == len(self.nodes),
            }
            for name in SCORES:
                drawn = getattr(point, f"random_{name}")
                row[name] = getattr(point, name)
                row[f"random_{name}_min"] = min(drawn)
                row[f"random_{name}_mean"] = math.fsum(drawn) / len(drawn)
                row[f"random_{name}_max"] = max(drawn)
            rows.append(row)
        return pd.DataFrame(rows)

    def edge_dataframe(self) -> pd.DataFrame:
        """Return one row per edge: ``source``, ``target`` and ``effect``."""
        rows = [vars(edge) for edge in self.edges]
        return pd.DataFrame(rows, columns=["source", "target", "effect"])

    def save(self, path: str | Path) -> Path:
        """Write the circuit as JSON, atomically; return the path. `savefig` writes a picture.

        Raises:
            PrefixInterpError: a name that ends as a picture's, the file cannot be written, or a
                value is NaN or infinite.
        """
        refuse_figure(path)
        lost = dict(zip(self.nodes, self.minimality, strict=True))
        order = {node: i for i, node in enumerate(self.nodes)}
        record = {
            "format": max(SCHEMAS),
            **{key: getattr(self, key) for key in PLAIN_FIELDS},
            **{name: interval_record(self.scores[name]) for name in SCORES},
            "nodes": [
                {"name": n.name, "rank": order.get(n), "minimality": lost.get(n), "effect": x}
                for n, x in zip(self.all_nodes, self.effects, strict=True)
            ],
            "sizes": [
                {**vars(point), "nodes": [node.name for node in point.nodes]}
                for point in self.sizes
            ],
            "edges": [vars(edge) for edge in self.edges],
            "provenance": dict(self.provenance),
        }
        return write_json(path, record)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Return the circuit in a JSON file.

        Raises:
            PrefixInterpError: the file is missing, not JSON, or not a circuit.
        """
        record = read_json(path, SCHEMAS)
        try:
            return cls(**fields_of(record))
        except KeyError as error:
            reason = f"it lacks the key {error}"
        except (AttributeError, TypeError, ValueError) as error:
            reason = str(error)
        raise PrefixInterpError(
            f"path={str(path)!r} is not a whole circuit ({one_line(reason)}); save it again"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return faithfulness and completeness by size; `savefig` writes the graph."""
        curves = drawing("circuit_curves.circuit_curves_figure")
        return curves(self, figsize=figsize, width=width)

    def savefig(
        self, path: str | Path, *, figsize: Size | None = None, width: Width | None = None
    ) -> Path:
        """Write the graph of the circuit to a file, atomically; return the path.

        An SVG shows the numbers of a node or edge on hovering. To write faithfulness and
        completeness by size, use ``circuit.plot().savefig(path)``.

        Args:
            path: a name that ends in ``.svg``, ``.pdf`` or ``.png``.
            figsize: width and height in inches; None for a size of its own.
            width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

        Raises:
            PrefixInterpError: another ending, or the file cannot be written.

        Example:
            >>> circuit = pi.find_circuit(model, prefix, task, n=8, progress=False)
            >>> circuit.savefig("circuit.pdf", width="column").name
            'circuit.pdf'
        """
        graph, as_svg = (drawing(f"circuit_graph.circuit_{x}") for x in ("figure", "svg"))
        size = {"figsize": figsize, "width": width}
        return save_figure(path, lambda: graph(self, **size), lambda: as_svg(self, **size))

    def _picture(self) -> str:
        return drawing("circuit_graph.circuit_svg")(self)

    def to_dot(self) -> str:
        """Return the circuit as Graphviz text: slots, heads and MLPs by layer, logits on top.

        Node labels show the minimality, edge widths and labels the effect. Edges that work against
        the prefix are dashed and orange.
        """
        lost = dict(zip(self.nodes, self.minimality, strict=True))
        ordered = {node: lost[node] for node in self.all_nodes if node in lost}
        return dot_text(self.caption(), ordered, self.edges)

    def caption(self) -> str:
        """Return one line: task, size, faithfulness and completeness."""
        found = (
            f"{task_words(self.provenance['task'])}: "
            f"{len(self.nodes)} of {len(self.all_nodes)} nodes, "
            f"faithfulness {self.scores['faithfulness'].value:.2f}, "
            f"completeness {self.scores['completeness'].value:.2f}"
        )
        if self.plain in (None, self.off):
            return found
        return f"{found}; {self.metric} {self.plain:.4g} plain, {self.off:.4g} off"
