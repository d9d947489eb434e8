"""Records summarised over seeds: means, spreads and intervals, group by group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from prefix_interp.estimates import Estimate, combined_interval


def summarise(
    records: Sequence[Mapping[str, Any]],
    keys: tuple[str, ...],
    metrics: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return one row per combination of `keys`, and rows with ``task`` None over all tasks.

    A row has the keys, ``n_seeds``, and the result of `over_seeds` for each metric.

    Args:
        records: with ``seed``, the keys and the metrics.
        keys: keys to group by.
        metrics: names with their largest possible values.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    pooled = [{**record, "task": None} for record in records] if "task" in keys else []
    for record in [*records, *pooled]:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record)
    return [
        {
            **dict(zip(keys, group, strict=True)),
            "n_seeds": len({record["seed"] for record in found}),
            **{metric: over_seeds(found, metric, top) for metric, top in metrics.items()},
        }
        for group, found in groups.items()
    ]


def over_seeds(
    records: Sequence[Mapping[str, Any]], metric: str, top: float = math.inf
) -> dict[str, float | None]:
    """Return the spread over seeds of a metric, averaged within each seed.

    ``low`` and ``high`` are the ends of the 95% interval for new seeds and new test inputs
    (`combined_interval`), as far as records say what their test inputs leave open.

    Args:
        records: with ``seed`` and the metric, a number or one with its interval, and with
            ``test_seed`` if each seed was tested on inputs of its own.
        metric: its key.
        top: largest possible value.
    """
    by_seed: dict[int, list[Estimate]] = {}
    for record in records:
        by_seed.setdefault(record["seed"], []).append(_estimate(record[metric]))
    own = [
        Estimate(*(statistics.fmean(ends) for ends in zip(*map(_ends, found), strict=True)))
        for found in by_seed.values()
    ]
    values = [score.value for score in own]
    mean = combined_interval(own, 0.0, top, shared=not _fresh_inputs(records))
    return {
        "mean": mean.value,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "low": mean.low,
        "high": mean.high,
        "min": min(values),
        "max": max(values),
    }


def spread(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float | None]:
    """Return `over_seeds` of a metric in the ``evaluation`` of records, one record per seed.

    Args:
        records: from `score_rows`.
        metric: ``"exact_match"``, ``"token_accuracy"`` or ``"loss"``.
    """
    own = [
        {"seed": i, "test_seed": r.get("test_seed"), metric: r["evaluation"][metric]}
        for i, r in enumerate(records)
    ]
    return over_seeds(own, metric, math.inf if metric == "loss" else 1.0)


def _estimate(value: Any) -> Estimate:
    """Return a number with its interval over test inputs, of width 0 if it has none."""
    if isinstance(value, Mapping):
        number = float(value["value"])
        return Estimate(number, value.get("low", number), value.get("high", number))
    return Estimate(float(value), float(value), float(value))


def _ends(score: Estimate) -> tuple[float, float, float]:
    return score.value, score.low, score.high


def _fresh_inputs(records: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether each seed was tested on inputs that no other seed saw."""
    pairs = {(r["seed"], r.get("test_seed")) for r in records}
    drawn = {test_seed for _, test_seed in pairs}
    return None not in drawn and len(drawn) == len(pairs)
