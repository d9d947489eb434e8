"""The bias subspaces over seeds: means, spreads and intervals of the measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analyses.study import Tables
from analyses.summaries import summarise
from prefix_interp.results import Result

# For each table: the keys to group by, and the metrics with their largest possible values.
_SUMMARIES: Mapping[str, tuple[tuple[str, ...], Mapping[str, float]]] = {
    "spectrum": (
        ("method", "parameterization", "n_slots", "task", "level"),
        {"rank": math.inf, "effective_rank": math.inf},
    ),
    "angle": (
        ("comparison", "parameterization", "level"),
        {
            "mean_angle": math.pi / 2,
            "overlap": 1.0,
            "chance_angle": math.pi / 2,
            "chance_overlap": 1.0,
        },
    ),
    "removal": (
        ("parameterization", "n_slots", "task", "run", "level", "space", "remove"),
        {"exact_match": 1.0, "token_accuracy": 1.0, "late_token_accuracy": 1.0, "loss": math.inf},
    ),
}


def tables(result: Result) -> Tables:
    """Return each table of the result summarised over seeds, by the name of the table.

    Each seed counts once: its heads, pairs and layers are averaged first. Rows with ``task`` None
    are also averaged over tasks. Each metric has ``mean``, ``sd``, its 95% interval ``low`` and
    ``high`` (see `over_seeds`), ``min`` and ``max`` over seeds.

    Args:
        result: of the study, or from `toy_subspaces`.
    """
    return {
        name: summarise(list(map(_without_range, result.rows(name))), keys, metrics)
        for name, (keys, metrics) in _SUMMARIES.items()
    }


def _without_range(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose chance angle is a number: its range is over draws, not test inputs."""
    chance = row.get("chance_angle")
    return {**row, "chance_angle": chance["value"]} if isinstance(chance, Mapping) else dict(row)
