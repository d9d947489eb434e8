"""Table 1 over seeds: means, spreads and intervals of the rows that an experiment recorded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefix_interp.errors import PrefixInterpError
from prefix_interp.estimates import seed_interval
from prefix_interp.experiments.table1 import NEW, OLD, PAPER
from prefix_interp.results import Result, committed_result

METRICS = ("exact_match", "token_accuracy", "loss")
METHODS = (
    "pretrained",
    "fine-tuned",
    "prefix",
    "random prefix",
    "norm-matched prefix",
    "other-task prefix",
)


def shipped_result(name: str, preset: str) -> Result | None:
    """Return a result that ships with the package, or None if it does not."""
    try:
        return committed_result(name, preset)
    except PrefixInterpError:
        return None


def table1_rows(result: Result) -> list[dict[str, Any]]:
    """Return the rows of Table 1: each method and variant, summarised over seeds.

    A prefix counts at the learning rate that had the lowest training loss for its seed. Keys:
    ``method``, ``parameterization``, ``n_slots``, ``baseline``, ``lrs`` (rates that were
    chosen, with the number of seeds), ``n_seeds``, ``paper`` (percent, mean and sd, by task)
    and, by task, ``exact_match``, ``token_accuracy`` and ``loss``, each with ``mean``, ``sd``,
    ``low``, ``high``, ``min`` and ``max``.

    Args:
        result: from `table1`.
    """
    chosen = [r for r in result.records if r["chosen"]]
    rows = []
    for method, parameterization, n_slots in _variants(chosen):
        own = [r for r in chosen if _variant(r) == (method, parameterization, n_slots)]
        # The paper's one prefix is the residual one with a single slot.
        published = parameterization in (None, "residual") and n_slots in (None, 1)
        row: dict[str, Any] = {
            "method": method,
            "parameterization": parameterization,
            "n_slots": n_slots,
            "baseline": own[0]["baseline"],
            "lrs": _counts(r["lr"] for r in own if r["task"] == NEW),
            "n_seeds": len({r["seed"] for r in own}),
            "paper": PAPER.get(method) if published else None,
        }
        for task in (OLD, NEW):
            of_task = [r for r in own if r["task"] == task]
            row[task] = {metric: spread(of_task, metric) for metric in METRICS}
        rows.append(row)
    return rows


def sweep_rows(result: Result, task: str = NEW) -> list[dict[str, Any]]:
    """Return a row for each prefix variant and learning rate, summarised over seeds.

    Keys: ``parameterization``, ``n_slots``, ``lr``, ``n_seeds``, ``chosen`` (seeds for which
    this rate had the lowest training loss), ``train_loss`` (mean), and the metrics as in
    `table1_rows`.

    Args:
        result: from `table1`.
        task: the task that was tested on.
    """
    prefixes = [r for r in result.records if r["method"] == "prefix" and r["task"] == task]
    rows = []
    for _, parameterization, n_slots in _variants(prefixes):
        variant = [r for r in prefixes if _variant(r)[1:] == (parameterization, n_slots)]
        for lr in sorted({r["lr"] for r in variant}):
            own = [r for r in variant if r["lr"] == lr]
            rows.append(
                {
                    "parameterization": parameterization,
                    "n_slots": n_slots,
                    "lr": lr,
                    "n_seeds": len(own),
                    "chosen": sum(bool(r["chosen"]) for r in own),
                    "train_loss": statistics.fmean(r["train_loss"] for r in own),
                    **{metric: spread(own, metric) for metric in METRICS},
                }
            )
    return rows


def _variant(record: Mapping[str, Any]) -> tuple[str, str | None, int | None]:
    return record["method"], record["parameterization"], record["n_slots"]


def _variants(records: Iterable[Mapping[str, Any]]) -> list[tuple[str, str | None, int | None]]:
    """Return the variants that occur, in the order of the table."""

    def order(variant: tuple[str, str | None, int | None]) -> tuple[int, bool, int]:
        method, parameterization, n_slots = variant
        return METHODS.index(method), parameterization == "kv", n_slots or 0

    return sorted({_variant(r) for r in records}, key=order)


def _counts(lrs: Iterable[float | None]) -> list[dict[str, float | int]]:
    found = [lr for lr in lrs if lr is not None]
    return [{"lr": lr, "seeds": found.count(lr)} for lr in sorted(set(found))]


def spread(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float | None]:
    """Return mean, sd, 95% t interval, min and max of a metric over records, one a seed."""
    values = [r["evaluation"][metric]["value"] for r in records]
    mean = seed_interval(values, low=0.0, high=math.inf if metric == "loss" else 1.0)
    return {
        "mean": mean.value,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "low": mean.low,
        "high": mean.high,
        "min": min(values),
        "max": max(values),
    }
