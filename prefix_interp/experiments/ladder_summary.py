"""The ladder and the capacity experiment over seeds, and what the suffixes come to."""

from __future__ import annotations

import math
from typing import Any

from prefix_interp.experiments.grouping import summarise
from prefix_interp.experiments.ladder import TASKS, TUNED
from prefix_interp.results import Result

METRICS = {
    "exact_match": 1.0,
    "token_accuracy": 1.0,
    "loss": math.inf,
    "first_output": 1.0,
    "later_outputs": 1.0,
}
SUFFIXES = ("soft suffix", "suffix at every layer")
ENOUGH = 3  # seeds: two that agree by chance give an interval of no width
FRONT = ("soft prompt", "prefix, residual", "prefix, kv")


def ladder_rows(result: Result) -> list[dict[str, Any]]:
    """Return a row a depth, context, number of slots, method and task, summarised over seeds.

    Contexts are those with the lowest training loss of their sweep, tested on the task they were
    tuned for; without context, and a context of examples (mean over draws), on each task. Each of
    `METRICS` has ``mean``, ``sd``, its 95% t interval over seeds ``low`` and ``high``, ``min`` and
    ``max``; ``first_output`` and ``later_outputs`` are shares of right answers there.

    Args:
        result: from `ladder`.
    """
    own = [
        {
            **{k: r[k] for k in ("seed", "depth", "context", "n_slots", "method", "task")},
            **{k: r["evaluation"][k] for k in ("exact_match", "token_accuracy", "loss")},
            "first_output": r["by_output"][0],
            "later_outputs": sum(r["by_output"][1:]) / len(r["by_output"][1:]),
        }
        for r in result.records
        if r["chosen"] and r["tuned_on"] in (None, r["task"])
    ]
    rows = summarise(own, ("depth", "context", "n_slots", "method", "task"), METRICS)
    return [{**row, "asks_for": TASKS[row["task"]]} for row in rows if row["task"] is not None]


def suffix_rows(result: Result) -> list[dict[str, Any]]:
    """Return, by depth and task, each suffix beside the best context in front of the input.

    Both have the most slots that were tuned. ``front`` is the context in front with the highest
    mean exact match; ``verdict`` compares 95% t intervals over seeds: ``suffix better``, ``front
    better``, ``no difference shown``, or ``too few seeds to say``.

    Args:
        result: from `ladder`.
    """
    found = [r for r in ladder_rows(result) if r["method"] == "context" and r["context"] in TUNED]
    most = max(r["n_slots"] for r in found)
    rows = []
    for depth in sorted({r["depth"] for r in found}):
        for task in TASKS:
            here = {
                r["context"]: r
                for r in found
                if (r["depth"], r["task"], r["n_slots"]) == (depth, task, most)
            }
            front = max((here[c] for c in FRONT), key=lambda r: r["exact_match"]["mean"])
            for context in SUFFIXES:
                suffix, rival = here[context]["exact_match"], front["exact_match"]
                if here[context]["n_seeds"] < ENOUGH:
                    verdict = "too few seeds to say"
                elif suffix["low"] > rival["high"]:
                    verdict = "suffix better"
                elif suffix["high"] < rival["low"]:
                    verdict = "front better"
                else:
                    verdict = "no difference shown"
                rows.append(
                    {
                        "depth": depth, "task": task, "asks_for": TASKS[task], "suffix": context,
                        "n_slots": most, "suffix_exact_match": suffix,
                        "suffix_first_output": here[context]["first_output"],
                        "suffix_later_outputs": here[context]["later_outputs"],
                        "front": front["context"], "front_exact_match": rival,
                        "front_first_output": front["first_output"],
                        "front_later_outputs": front["later_outputs"], "verdict": verdict,
                    }
                )  # fmt: skip
    return rows


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
