"""Records summarised over seeds: means, spreads and intervals, group by group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from prefix_interp.estimates import seed_interval, wilson


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

    Args:
        records: with ``seed`` and the metric, a number or one with its interval.
        metric: its key.
        top: largest possible value.
    """
    by_seed: dict[int, list[float]] = {}
    for record in records:
        value = record[metric]
        number = value["value"] if isinstance(value, Mapping) else value
        by_seed.setdefault(record["seed"], []).append(float(number))
    values = [statistics.fmean(own) for own in by_seed.values()]
    mean = seed_interval(values, low=0.0, high=top)
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
    own = [{"seed": i, metric: r["evaluation"][metric]} for i, r in enumerate(records)]
    return over_seeds(own, metric, math.inf if metric == "loss" else 1.0)


def with_test_error(spread: Mapping[str, Any], n_test: int) -> dict[str, Any]:
    """Return the spread of a share with an interval that also covers the error of the test set.

    Seeds that share one test set also share its error, which a t interval over seeds lacks; seeds
    may even agree on a coarse share by chance. The interval is the union of that over seeds and the
    Wilson interval of the test sequences.

    Args:
        spread: of a share, 0 to 1, from `over_seeds`.
        n_test: number of test sequences that all seeds have in common.
    """
    least = wilson(spread["mean"] * n_test, n_test)
    return {
        **spread,
        "low": min(spread["low"], least.low),
        "high": max(spread["high"], least.high),
    }
