"""The ladder of contexts over seeds, and the comparison of the suffixes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.ladder.protocol import BLIND, TASKS, TUNED
from analyses.study import Rows, Tables
from analyses.summaries import summarise, with_test_error
from prefix_interp.results import Result

METRICS = {
    "exact_match": 1.0,
    "token_accuracy": 1.0,
    "loss": math.inf,
    "first_output": 1.0,
    "later_outputs": 1.0,
}
# Each suffix, and the context with as many vectors at the same layers before the input.
SUFFIXES = {"soft suffix": "soft prompt", "suffix at every layer": "prefix, residual"}
VERDICTS = ("better", "worse", "no difference shown", "too few seeds to say")
ENOUGH = 3  # seeds: two that agree by chance have an interval of width 0
FRONT = ("soft prompt", "prefix, residual", "prefix, kv")

_KEYS = ("depth", "context", "n_slots", "steps", "method", "task")


def tables(result: Result) -> Tables:
    """Return ``ladder`` (see `ladder_rows`) and ``suffixes`` (see `suffix_rows`).

    Args:
        result: of the study.
    """
    rows = ladder_rows(result.rows())
    return {"ladder": rows, "suffixes": suffix_rows(rows)}


def ladder_rows(records: Sequence[Mapping[str, Any]]) -> Rows:
    """Return one row per depth, context, slots, steps, method and task, summarised over seeds.

    Tuned contexts are those with the lowest training loss of their sweep, tested on their own task.
    The blind rule, no context, and in-context examples (mean over draws) are tested on each task.
    Each of `METRICS` has ``mean``, ``sd``, its 95% t interval over seeds ``low`` and ``high``,
    ``min`` and ``max``; ``first_output`` and ``later_outputs`` are shares of right answers there.

    Args:
        records: of the study, all seeds.
    """
    own = [
        {
            **{key: r[key] for key in ("seed", *_KEYS)},
            **{k: r["evaluation"][k] for k in ("exact_match", "token_accuracy", "loss")},
            "first_output": r["by_output"][0],
            "later_outputs": sum(r["by_output"][1:]) / len(r["by_output"][1:]),
        }
        for r in records
        if r["chosen"] and r["tuned_on"] in (None, r["task"])
    ]
    (n_test,) = {r["evaluation"]["n"] for r in records} or {0}
    return [
        {**row, "asks_for": TASKS[row["task"]], "n_test": n_test}
        for row in summarise(own, _KEYS, METRICS)
        if row["task"] is not None
    ]


def suffix_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Return each suffix and the best tuned context in front, by depth, steps and task.

    All have the largest number of slots that was tuned. ``front`` is the soft prompt or prefix with
    the highest mean exact match (ties: the lower loss). ``peer`` has as many vectors at the same
    layers, tuned in front. Rows contain each of `METRICS` for the suffix, ``front``, ``peer`` and
    the ``blind`` rule. ``verdict`` compares exact match with ``front``. ``first_verdict`` and
    ``later_verdict`` compare the first and the later outputs with the blind rule,
    ``peer_first_verdict`` and ``peer_later_verdict`` with ``peer`` (see `compare`).

    Args:
        rows: from `ladder_rows`.
    """
    contexts = [r for r in rows if r["method"] == "context"]
    most = max(r["n_slots"] for r in contexts if r["context"] in TUNED)
    found = [r for r in contexts if r["context"] in TUNED and r["n_slots"] == most]
    blind = {(r["depth"], r["task"]): r for r in contexts if r["context"] == BLIND}
    compared: Rows = []
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
        for context, same in SUFFIXES.items():
            suffix, peer = here[context], here[same]
            compared.append(
                {
                    "depth": depth, "steps": steps, "task": task, "asks_for": TASKS[task],
                    "suffix": context, "n_slots": most, "front": front["context"],
                    "peer": same,
                    **{f"suffix_{metric}": suffix[metric] for metric in METRICS},
                    **{f"front_{metric}": front[metric] for metric in METRICS},
                    **{f"peer_{metric}": peer[metric] for metric in METRICS},
                    **{f"blind_{metric}": floor[metric] for metric in METRICS},
                    "verdict": compare(suffix, front, "exact_match"),
                    "first_verdict": compare(suffix, floor, "first_output"),
                    "later_verdict": compare(suffix, floor, "later_outputs"),
                    "peer_first_verdict": compare(suffix, peer, "first_output"),
                    "peer_later_verdict": compare(suffix, peer, "later_outputs"),
                }
            )  # fmt: skip
    return compared


def compare(row: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> str:
    """Return one of `VERDICTS` on `row` against `other`.

    A row is better or worse only if the 95% intervals do not touch, which errs on the safe side.
    They are t intervals over seeds. For shares they are at least as wide as the Wilson interval of
    the test sequences that all seeds have in common, since seeds may agree on a coarse share by
    chance.

    Args:
        row: a row of `ladder_rows`.
        other: the row to compare it with.
        metric: one of `METRICS`; a lower loss is better.
    """
    if min(row["n_seeds"], other["n_seeds"]) < ENOUGH:
        return "too few seeds to say"
    (own_low, own_high), (low, high) = _interval(row, metric), _interval(other, metric)
    above, below = own_low > high, own_high < low
    if metric == "loss":
        above, below = below, above
    return "better" if above else "worse" if below else "no difference shown"


def verdict_counts(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    """Return how often each verdict occurs, without those that do not occur.

    Args:
        rows: from `suffix_rows`.
        key: key of the verdict, e.g. ``"first_verdict"``.
    """
    found = [row[key] for row in rows]
    return {verdict: found.count(verdict) for verdict in VERDICTS if verdict in found}


def _interval(row: Mapping[str, Any], metric: str) -> tuple[float, float]:
    spread = row[metric]
    if METRICS[metric] > 1.0:
        return spread["low"], spread["high"]
    wide = with_test_error(spread, row["n_test"])
    return wide["low"], wide["high"]


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, str]]:
    found = {(r["depth"], r["steps"], r["task"]) for r in rows}
    tasks = list(TASKS)
    return sorted(found, key=lambda group: (group[0], group[1], tasks.index(group[2])))
