"""The subspace experiments over seeds: means, spreads and intervals of what they recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prefix_interp.experiments.grouping import summarise
from prefix_interp.results import Result

# What each kind of record is summarised by, and what of it; numbers lie within the limits.
_SUMMARIES: tuple[tuple[str, tuple[str, ...], Mapping[str, float]], ...] = (
    (
        "spectrum",
        ("method", "parameterization", "n_slots", "task", "level"),
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
        ("parameterization", "n_slots", "task", "run", "level", "space", "remove"),
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
        rows += [{"part": part, **row} for row in summarise(own, keys, metrics)]
    return rows


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
    common = ("parameterization", "n_slots", "task")
    metrics = {"exact_match": 1.0, "loss": math.inf}
    rows += [{"part": "tuning", **row} for row in summarise(tunings, common, metrics)]
    for level, more in (("head", {"slot_range": 1.0, "top_slot": 1.0}), ("layer", {})):
        own = [r for r in biases if r["level"] == level]
        counts = dict.fromkeys(("bound", "rank", "effective_rank", "n_95", "n_99"), math.inf)
        found = summarise(own, ("method", "level", *common), {**counts, **more})
        rows += [{"part": "bias", **row} for row in found]
    return rows
