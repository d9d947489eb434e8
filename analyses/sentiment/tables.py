"""Scores of the sentiment study over seeds, as the report shows them."""

from __future__ import annotations

from typing import Any

from analyses.study import Rows, Tables
from analyses.summaries import over_seeds
from prefix_interp.results import Result

_ABOUT = ("method", "parameterization", "n_slots", "start", "n_parameters", "rank", "layers")
_LEADING = 10  # heads


def tables(result: Result) -> Tables:
    """Return ``longer``, ``scores``, ``fits``, ``untuned`` over seeds, and the leading ``heads``.

    A row of ``longer`` is a method: each seed chooses its prefix on sentences of its own.

    Args:
        result: of this study.
    """
    return {
        "longer": _grouped(result.rows("longer"), ("method",)),
        "scores": _grouped(result.rows("scores"), _ABOUT),
        "fits": _grouped(result.rows("fits"), (*_ABOUT, "lr")),
        "untuned": _grouped(result.rows("untuned"), _ABOUT),
        "heads": _leading(result.rows("heads")),
    }


def _grouped(rows: Rows, keys: tuple[str, ...]) -> Rows:
    """Return the choice among the answers and the loss of each group, over seeds."""
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    found = []
    for group, own in groups.items():
        about = dict(zip(keys, group, strict=True)) | {"n_seeds": len({r["seed"] for r in own})}
        for score, top in (("choice", 1.0), ("loss", float("inf"))):
            flat = [{"seed": row["seed"], score: row["evaluation"][score]} for row in own]
            about[score] = over_seeds(flat, score, top)
        if "n_parameters" not in about:
            about["chosen"] = [{key: row.get(key) for key in (*_ABOUT, "lr")} for row in own]
        if own[0].get("train_loss") is not None:
            about["train_loss"] = over_seeds(own, "train_loss")
        found.append(about)
    return found


def _leading(rows: Rows) -> Rows:
    """Return the heads with the largest effects of each seed, beside the largest of any control."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if row["seed"] == seed]
        controls = [row for row in own if row["control"]]
        largest = max((abs(row["effect"]) for row in controls), default=None)
        tuned = sorted(
            (row for row in own if not row["control"]), key=lambda row: -abs(row["effect"])
        )
        found += [
            {
                "seed": seed, "prefix": row["prefix"], "layer": row["layer"], "head": row["head"],
                "effect": row["effect"], "whole": row["whole"], "largest_control": largest,
                "control": max((abs(each["effect"]) for each in controls if (
                    each["layer"], each["head"]) == (row["layer"], row["head"])), default=None),
            }
            for row in tuned[:_LEADING]
        ]  # fmt: skip
    return found
