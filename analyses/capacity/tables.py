"""The capacity experiment over seeds: how many continuations, and how long ones."""

from __future__ import annotations

import math
from typing import Any

from prefix_interp.experiments.grouping import summarise
from prefix_interp.results import Result


def distinct_rows(result: Result) -> list[dict[str, Any]]:
    """Return how many continuations each kind of single token calls up, summarised over seeds.

    Args:
        result: from `capacity`.
    """
    own = [r for r in result.records if r["part"] == "distinct"]
    keys = ("depth", "trained", "kind", "std", "n_out")
    return summarise(own, keys, {"tried": math.inf, "distinct": math.inf})


def length_rows(result: Result) -> list[dict[str, Any]]:
    """Return which share of random targets a searched soft token emits, by length, over seeds.

    Args:
        result: from `capacity`.
    """
    own = [
        {**r, "share": r["reached"] / r["tried"]} for r in result.records if r["part"] == "length"
    ]
    metrics = {"share": 1.0, "tokens_right": 1.0, "loss": math.inf}
    return summarise(own, ("depth", "trained", "length"), metrics)


def longest_rows(result: Result) -> list[dict[str, Any]]:
    """Return the longest random target that soft tokens emit, by depth and training.

    ``half``: the largest length at which at least half of the targets are emitted, mean and range
    over seeds; ``any``: at which at least one is, over all seeds. 0 if none.

    Args:
        result: from `capacity`.
    """
    own = [r for r in result.records if r["part"] == "length"]
    rows = []
    for depth, trained in sorted({(r["depth"], r["trained"]) for r in own}):
        here = [r for r in own if (r["depth"], r["trained"]) == (depth, trained)]
        seeds = sorted({r["seed"] for r in here})
        half = [
            max((r["length"] for r in here if r["seed"] == s and 2 * r["reached"] >= r["tried"]),
                default=0)
            for s in seeds
        ]  # fmt: skip
        rows.append(
            {
                "depth": depth, "trained": trained, "n_seeds": len(seeds),
                "half_mean": sum(half) / len(half), "half_min": min(half), "half_max": max(half),
                "any": max((r["length"] for r in here if r["reached"]), default=0),
            }
        )  # fmt: skip
    return rows
