"""The ladder of contexts over seeds, and what the suffixes come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefix_interp.experiments.grouping import summarise
from prefix_interp.experiments.ladder_protocol import BLIND, TASKS, TUNED
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


_KEYS = ("depth", "context", "n_slots", "steps", "method", "task")


def ladder_rows(result: Result) -> list[dict[str, Any]]:
    """Return a row a depth, context, slots, steps, method and task, summarised over seeds.

    Contexts are those with the lowest training loss of their sweep, tested on the task they were
    tuned for; the blind rule, no context, and a context of examples (mean over draws), on each
    task. Each of `METRICS` has ``mean``, ``sd``, its 95% t interval over seeds ``low`` and
    ``high``, ``min`` and ``max``; ``first_output`` and ``later_outputs`` are shares of right
    answers there.

    Args:
        result: from `ladder`.
    """
    own = [
        {
            **{key: r[key] for key in ("seed", *_KEYS)},
            **{k: r["evaluation"][k] for k in ("exact_match", "token_accuracy", "loss")},
            "first_output": r["by_output"][0],
            "later_outputs": sum(r["by_output"][1:]) / len(r["by_output"][1:]),
        }
        for r in result.records
        if r["chosen"] and r["tuned_on"] in (None, r["task"])
    ]
    rows = summarise(own, _KEYS, METRICS)
    return [{**row, "asks_for": TASKS[row["task"]]} for row in rows if row["task"] is not None]


def suffix_rows(result: Result) -> list[dict[str, Any]]:
    """Return, by depth, steps and task, each suffix beside the best context in front of the input.

    Both have the most slots that were tuned. ``front`` is the context in front with the highest
    mean exact match, of equal ones that with the lower loss. Each of `METRICS` stands there of the
    suffix, of ``front`` and of the ``blind`` rule. ``verdict`` compares exact match with that of
    ``front``, ``first_verdict`` and ``later_verdict`` the first and the later outputs with the
    blind rule's (see `compare`).

    Args:
        result: from `ladder`.
    """
    all_rows = [r for r in ladder_rows(result) if r["method"] == "context"]
    most = max(r["n_slots"] for r in all_rows if r["context"] in TUNED)
    found = [r for r in all_rows if r["context"] in TUNED and r["n_slots"] == most]
    blind = {(r["depth"], r["task"]): r for r in all_rows if r["context"] == BLIND}
    rows = []
    for depth, steps, task in _in_order(found):
        here = {
            r["context"]: r
            for r in found
            if (r["depth"], r["steps"], r["task"]) == (depth, steps, task)
        }
        front = max(
            (here[c] for c in FRONT), key=lambda r: (r["exact_match"]["mean"], -r["loss"]["mean"])
        )
        floor = blind[depth, task]
        for context in SUFFIXES:
            suffix = here[context]
            rows.append(
                {
                    "depth": depth, "steps": steps, "task": task, "asks_for": TASKS[task],
                    "suffix": context, "n_slots": most, "front": front["context"],
                    **{f"suffix_{metric}": suffix[metric] for metric in METRICS},
                    **{f"front_{metric}": front[metric] for metric in METRICS},
                    **{f"blind_{metric}": floor[metric] for metric in METRICS},
                    "verdict": compare(suffix, front, "exact_match"),
                    "first_verdict": compare(suffix, floor, "first_output"),
                    "later_verdict": compare(suffix, floor, "later_outputs"),
                }
            )  # fmt: skip
    return rows


def compare(row: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> str:
    """Return ``better``, ``worse``, ``no difference shown`` or ``too few seeds to say``.

    One is better where the 95% t intervals over seeds do not touch, which errs on the side of no
    difference.

    Args:
        row: of `ladder_rows`.
        other: what it is held against.
        metric: one of `METRICS`; of the loss the lower is better.
    """
    if min(row["n_seeds"], other["n_seeds"]) < ENOUGH:
        return "too few seeds to say"
    own, rival = row[metric], other[metric]
    if metric == "loss":
        own, rival = rival, own
    if own["low"] > rival["high"]:
        return "better"
    return "worse" if own["high"] < rival["low"] else "no difference shown"


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, str]]:
    found = {(r["depth"], r["steps"], r["task"]) for r in rows}
    tasks = list(TASKS)
    return sorted(found, key=lambda group: (group[0], group[1], tasks.index(group[2])))
