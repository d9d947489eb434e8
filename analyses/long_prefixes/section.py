"""The report's section on long prefixes: how many directions they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.long_prefixes.figures import slots_figure
from analyses.one_token import counted
from analyses.report.evidence import Evidence
from analyses.report.sections import Cell, Claim, Section, Words, picture, records, spread_frame
from analyses.report.tables import Column, decimals, mean_of, mean_share, rows_table

Rows = Sequence[Mapping[str, Any]]

_COUNTS = ("bound", "rank", "effective_rank", "n_95", "n_99", "slot_range", "top_slot")
_METHODS = {"prefix": "tuned", "random prefix": "its random start",
            "norm-matched prefix": "random, tuned norms"}  # fmt: skip


def section(evidence: Evidence) -> Section:
    """Return how many directions prefixes of 1 to 32 slots use.

    Args:
        evidence: with the result of the study.
    """
    result, rows = evidence.result("long-prefixes"), evidence.tables("long-prefixes")
    assert result is not None
    bias = [r for r in rows["bias"] if r["task"] is None]
    tuning = [r for r in rows["tuning"] if r["task"] is None]
    n, most = len(result.seeds), max(r["n_slots"] for r in bias)
    found = {kind: _ranks(bias, kind, most) for kind in dict.fromkeys(
        r["parameterization"] for r in bias)}  # fmt: skip
    one = decimals(1)
    shown = found.get("residual") or next(iter(found.values()))
    tuned, matched, start = (one(shown[k]["mean"]) for k in _ORDER)
    wide = " to ".join(one(shown["prefix"][end]) for end in ("low", "high"))
    return Section(
        "long-prefixes", "Long prefixes",
        f"With {counted(most, 'slot')} a head's bias has an effective rank of {tuned}; random "
        "directions of "
        f"the same norms have {matched}",
        "lives",
        f"Its rank is the full {most}, but few directions carry much: in the untuned start the "
        f"effective rank is {start}. With {counted(n, 'seed')} the tuned value is uncertain (95 % "
        f"interval {wide}), so this does not tell tuned from random directions.",
        picture(
            "slots",
            slots_figure(rows["bias"], result.rows("bias")),
            "Effective rank of the bias, by head and by layer, and the range of attention over "
            "the slots, against the number of slots, tuned and random prefixes.",
            f"Prefixes of 1 to {most} slots for each of the four tasks, layer 0, "
            f"{counted(n, 'seed')}. Effective rank: exp of the entropy of the singular "
            "values. Right: 99th minus 1st percentile over inputs of the renormalised attention "
            "to each slot, mean over slots (the paper's appendix B).",
        ),
        [
            Words("Directions by number of slots", "Means with 95% t intervals over "
                                                   f"{counted(n, 'seed')}; "
                  "heads and tasks averaged.", rows_table(
                [r for r in bias if r["level"] == "head"],
                [Column("Prefix", "parameterization"),
                 Column("Which", "method", _METHODS.__getitem__), Column("Slots", "n_slots"),
                 Column("Effective rank", "effective_rank", mean_of(2)),
                 Column("Directions for 95 %", "n_95", mean_of(2))])),
            Words("How well they do", f"Mean with 95% t intervals over {counted(n, 'seed')}, all "
                                      "tasks.",
                  rows_table(tuning, [
                      Column("Prefix", "parameterization"), Column("Slots", "n_slots"),
                      Column("Exact match (%)", "exact_match", mean_share),
                      Column("Test loss (nats)", "loss", mean_of(3))])),
        ],
        {"bias": records(spread_frame(bias, _COUNTS).drop(columns=["task"])),
         "tuning": records(spread_frame(rows["tuning"], ("exact_match", "loss")))},
        claims=[
            Claim(
                f"Effective rank of a head's bias with {counted(most, 'slot')}: tuned / random, "
                "tuned norms / "
                "random start",
                {"other": Cell("; ".join(f"{kind}: {_means(r)}" for kind, r in found.items()))},
            )
        ],
    )  # fmt: skip


_ORDER = ("prefix", "norm-matched prefix", "random prefix")


def _means(ranks: Mapping[str, Any]) -> str:
    return " / ".join(decimals(1)(ranks[k]["mean"]) for k in _ORDER)


def _ranks(bias: Rows, kind: str, n_slots: int) -> dict[str, Any]:
    """Return the spread of the effective rank of a head's bias, by method."""
    return {
        r["method"]: r["effective_rank"]
        for r in bias
        if (r["parameterization"], r["n_slots"], r["level"]) == (kind, n_slots, "head")
    }
