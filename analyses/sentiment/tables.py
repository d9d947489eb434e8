"""Scores of the sentiment study over seeds, as the report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.sections import missing
from analyses.report.tables import markdown, mean_share
from analyses.study import Rows, Tables
from analyses.summaries import over_seeds
from prefix_interp.results import Result

_ABOUT = ("method", "parameterization", "n_slots", "start", "n_parameters", "rank", "layers")
_LEADING = 10  # heads
METHODS = {"zero-shot": "nothing", "few-shot": "solved examples", "instruction": "instruction",
           "lora": "LoRA", "prefix": "prefix"}  # fmt: skip


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


def nearest_in_size(lora: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the LoRA whose number of parameters is nearest to a prefix's.

    Args:
        lora: rows of LoRA.
        row: of the prefix.
    """
    return min(lora, key=lambda each: abs(each["n_parameters"] - row["n_parameters"]))


def findings_block(evidence: Evidence) -> str:
    """Return two tables in Markdown: the best trained longer, and every start by slots.

    Args:
        evidence: with the result of this study.
    """
    result = evidence.result("sentiment")
    if result is None:
        return missing("sentiment")
    tables, size = evidence.tables("sentiment"), result.settings["protocol"]
    n = result.rows("longer")[0]["evaluation"]["n"]
    best = [[f"{size['longer']} steps, {n} test sentences", "right (%)", "loss (nats)"]]
    best += [
        [METHODS[row["method"]], mean_share(row["choice"]), f"{row['loss']['mean']:.3f}"]
        for row in tables["longer"]
    ]
    scores = tables["scores"]
    tuned, lora = ([r for r in scores if r["method"] == name] for name in ("prefix", "lora"))
    slots = sorted({row["n_slots"] for row in tuned})
    heads = [f"{n} slot{'s' * (n > 1)}, right (%)" for n in slots]
    lines = [[f"{size['steps']} steps, {size['n_test']} test sentences", *heads]]
    for kind in dict.fromkeys(row["parameterization"] for row in tuned):
        of_kind = [row for row in tuned if row["parameterization"] == kind]
        for start in dict.fromkeys(row["start"] for row in of_kind):
            own = {row["n_slots"]: row for row in of_kind if row["start"] == start}
            shares = [mean_share(own[n]["choice"]) for n in slots]
            lines.append([f"{kind} prefix, {start} start", *shares])
        sizes = {row["n_slots"]: nearest_in_size(lora, row) for row in of_kind}
        lines.append(
            [f"LoRA of its size ({kind})", *(mean_share(sizes[n]["choice"]) for n in slots)]
        )
    lines += [
        [METHODS[row["method"]], *([mean_share(row["choice"])] * len(slots))]
        for row in scores
        if row["n_parameters"] is None
    ]
    return f"{markdown(best)}\n\n{markdown(lines)}"
