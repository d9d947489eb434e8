"""A circuit as the JSON of its file, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from prefix_interp.attribution.circuit_parts import Edge, SizePoint
from prefix_interp.attribution.circuit_runs import Node
from prefix_interp.estimates import Estimate
from prefix_interp.records import Schema

Search = Literal["exhaustive", "backward"]
SEARCHES = get_args(Search)
SCORES = ("faithfulness", "completeness")
_ENDS = dict[Literal["value", "low", "high"], float | None]
_RECORD = {
    "metric": str, "threshold": float, "search": Search, "on": float, "off": float,
    **dict.fromkeys(SCORES, _ENDS),
    "nodes": list[dict[Literal["name", "rank", "minimality", "effect"], str | float | None]],
    "sizes": list[dict[str, list[str] | list[float] | float]],
    "edges": list[dict[Literal["source", "target", "effect"], str | float]],
    "provenance": dict[str, Any],
}  # fmt: skip
SCHEMAS = {
    **{number: Schema(number, _RECORD) for number in (1, 2)},  # 1 has no checksum
    3: Schema(3, {**_RECORD, "plain": float | None}),
}
PLAIN_FIELDS = ("metric", "threshold", "search", "on", "off", "plain")  # written as they are


def interval_record(x: Estimate) -> dict[str, float | None]:
    """Return an estimate as JSON holds it."""
    # An unbounded interval ends in infinity, which JSON does not have.
    return {key: y if math.isfinite(y) else None for key, y in x.to_dict().items()}


def fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the circuit that a file holds, by name.

    Raises:
        KeyError: one that is missing.
        ValueError: a value that no circuit has.
    """
    rows = record["nodes"]
    ranked = sorted((row for row in rows if row["rank"] is not None), key=lambda row: row["rank"])
    scores = {}
    for name in SCORES:
        value, low, high = (record[name][key] for key in ("value", "low", "high"))
        scores[name] = Estimate(
            _number(value),
            -math.inf if low is None else _number(low),
            math.inf if high is None else _number(high),
        )
    if not all(isinstance(record["provenance"].get(key), str) for key in ("task", "model_id")):
        raise ValueError("provenance lacks task or model_id")
    return dict(
        nodes=tuple(Node.parse(row["name"]) for row in ranked),
        all_nodes=tuple(Node.parse(row["name"]) for row in rows),
        threshold=_number(record["threshold"]),
        metric=str(record["metric"]),
        search=record["search"],
        on=_number(record["on"]),
        off=_number(record["off"]),
        scores=scores,
        minimality=_numbers(row["minimality"] for row in ranked),
        effects=_numbers(row["effect"] for row in rows),
        sizes=tuple(
            SizePoint(
                nodes=tuple(Node.parse(name) for name in point["nodes"]),
                faithfulness=_number(point["faithfulness"]),
                completeness=_number(point["completeness"]),
                random_faithfulness=_numbers(point["random_faithfulness"]),
                random_completeness=_numbers(point["random_completeness"]),
            )
            for point in record["sizes"]
        ),
        edges=tuple(
            Edge(str(edge["source"]), str(edge["target"]), _number(edge["effect"]))
            for edge in record["edges"]
        ),
        provenance=record["provenance"],
        plain=None if record.get("plain") is None else _number(record["plain"]),
    )


def _number(x: object) -> float:
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise ValueError(f"{x!r} is not a number")
    return float(x)


def _numbers(xs: Iterable[object]) -> tuple[float, ...]:
    return tuple(_number(x) for x in xs)
