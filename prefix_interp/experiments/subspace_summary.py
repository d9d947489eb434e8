"""The subspace experiments over seeds: means, spreads and intervals of what they recorded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from prefix_interp.estimates import seed_interval
from prefix_interp.results import Result

# What each kind of record is summarised by, and what of it; numbers lie within the limits.
_SUMMARIES: tuple[tuple[str, tuple[str, ...], Mapping[str, float]], ...] = (
    (
        "spectrum",
        ("method", "parameterization", "n_prefix", "task", "level"),
        {"rank": math.inf, "effective_rank": math.inf},
    ),
    (
        "angle",
        ("comparison", "parameterization", "level"),
        {"mean_angle": math.pi / 2, "overlap": 1.0, "chance_angle": math.pi / 2,
         "chance_overlap": 1.0},
    ),
    (
        "removal",
        ("parameterization", "n_prefix", "task", "run", "level", "space", "remove"),
        {"exact_match": 1.0, "token_accuracy": 1.0, "late_token_accuracy": 1.0, "loss": math.inf},
    ),
)  # fmt: skip


def subspace_rows(result: Result) -> list[dict[str, Any]]:
    """Return the records summarised over seeds, ``part`` by ``part``.

    A seed counts once: first its heads, pairs and layers are averaged. Rows with ``task`` None are
    averages over tasks too. Each metric has ``mean``, ``sd``, its 95% t interval ``low`` and
    ``high``, ``min`` and ``max`` over seeds.

    Args:
        result: from `subspaces` or `toy_subspaces`.
    """
    rows: list[dict[str, Any]] = []
    for part, keys, metrics in _SUMMARIES:
        own = [record for record in result.records if record["part"] == part]
        rows += _summarise(own, part, keys, metrics)
    return rows


def _summarise(
    records: Sequence[Mapping[str, Any]],
    part: str,
    keys: tuple[str, ...],
    metrics: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return a row a combination of `keys`, and a row over all tasks of each."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    pooled = [{**record, "task": None} for record in records] if "task" in keys else []
    for record in [*records, *pooled]:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record)
    return [
        {
            "part": part,
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


def long_prefix_rows(result: Result) -> list[dict[str, Any]]:
    """Return a row a kind of prefix, number of slots, task and level, summarised over seeds.

    Rows with ``task`` None are averages over tasks. ``part`` is ``"tuning"`` (``exact_match`` and
    ``loss``) or ``"bias"``; metrics as in `subspace_rows`, those of a head averaged over heads.

    Args:
        result: from `long_prefixes`.
    """
    rows: list[dict[str, Any]] = []
    tunings = [
        {**r, "exact_match": r["evaluation"]["exact_match"], "loss": r["evaluation"]["loss"]}
        for r in result.records
        if r["part"] == "tuning"
    ]
    biases = [r for r in result.records if r["part"] == "bias"]
    common = ("parameterization", "n_prefix", "task")
    rows += _summarise(tunings, "tuning", common, {"exact_match": 1.0, "loss": math.inf})
    for level, more in (("head", {"slot_range": 1.0, "top_slot": 1.0}), ("layer", {})):
        own = [r for r in biases if r["level"] == level]
        counts = dict.fromkeys(("bound", "rank", "effective_rank", "n_95", "n_99"), math.inf)
        rows += _summarise(own, "bias", ("method", "level", *common), {**counts, **more})
    return rows
