"""LoRA and prefixes over seeds: every method at its best rate and number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.lora.methods import METHODS
from analyses.lora.protocol import BLIND, NONE
from analyses.study import Rows, Tables
from analyses.summaries import over_seeds, spread
from prefix_interp.results import Result

METRICS = ("exact_match", "token_accuracy", "loss")


def tables(result: Result) -> Tables:
    """Return ``methods`` (see `method_rows`), and ``sweep``: every rate and number of steps.

    Args:
        result: of the study.
    """
    rows = result.rows()
    tuned = [row for row in rows if row["side"] != "control"]
    return {"methods": method_rows(rows), "sweep": _grouped(tuned, ("steps", "lr"))}


def method_rows(records: Sequence[Mapping[str, Any]]) -> Rows:
    """Return one row per method and size, in each seed the training with the lowest training loss.

    Keys: ``method``, ``side``, ``budget``, ``units``, ``n_parameters``, ``exact`` (whether that is
    the budget to the last one), ``runs`` (trainings to choose from, in each seed), ``rates`` and
    ``lengths`` (the chosen ones, in the order of the seeds; empty for a control), ``n_seeds``, and
    the spread over seeds of each of `METRICS` and, if it was trained, of ``train_loss``.

    Args:
        records: of the study, all seeds.
    """
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    runs: dict[tuple[Any, ...], int] = {}
    for row in records:
        key = row["seed"], row["method"], row["budget"]
        runs[key] = runs.get(key, 0) + 1
        if key not in chosen or row["train_loss"] < chosen[key]["train_loss"]:
            chosen[key] = {**row}
    best = [{**row, "runs": runs[key]} for key, row in chosen.items()]
    found = []
    for row in _grouped(best, ("runs",)):
        own = [r for r in best if (r["method"], r["budget"]) == (row["method"], row["budget"])]
        found.append({
            **row, "exact": row["n_parameters"] == row["budget"],
            "rates": [r["lr"] for r in own if r["lr"]],
            "lengths": [r["steps"] for r in own if r["steps"]],
        })  # fmt: skip
    return found


def _grouped(rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...]) -> Rows:
    """Return the scores over seeds of each method, size and further keys."""
    about = ("method", "side", "budget", "units", "n_parameters", *keys)
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in about), []).append(row)
    order = [NONE, BLIND, *METHODS]
    found: Rows = []
    for group, own in groups.items():
        row = {**dict(zip(about, group, strict=True)), "n_seeds": len({r["seed"] for r in own})}
        row |= {metric: spread(own, metric) for metric in METRICS}
        trained = own[0]["train_loss"] is not None
        row["train_loss"] = over_seeds(own, "train_loss") if trained else None
        found.append(row)
    return sorted(found, key=lambda row: (order.index(row["method"]), row["budget"] or 0))


def at_size(rows: Sequence[Mapping[str, Any]], names: Sequence[str], budget: int) -> Rows:
    """Return the rows of some methods at one size.

    Args:
        rows: from `method_rows`.
        names: of methods.
        budget: see `method_rows`.
    """
    return [dict(row) for row in rows if row["method"] in names and row["budget"] == budget]
