"""What single tokens call up, over seeds: number and length of continuations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.language_model.tables import findings_line
from analyses.one_token import counted
from analyses.report.evidence import Evidence
from analyses.report.tables import markdown
from analyses.summaries import summarise
from prefix_interp.results import Result

Rows = Sequence[Mapping[str, Any]]


def tables(result: Result) -> dict[str, Rows]:
    """Return ``distinct``, ``length`` and ``longest`` (see the functions that make them).

    Args:
        result: of this study.
    """
    return {
        "distinct": distinct_rows(result),
        "length": length_rows(result),
        "longest": longest_rows(result),
    }


def distinct_rows(result: Result) -> list[dict[str, Any]]:
    """Return how many continuations each kind of single token calls up, summarised over seeds.

    Args:
        result: of this study.
    """
    keys = ("depth", "trained", "kind", "std", "n_out")
    return summarise(result.rows("distinct"), keys, {"tried": math.inf, "distinct": math.inf})


def length_rows(result: Result) -> list[dict[str, Any]]:
    """Return the share of random targets that searched soft tokens emit, by length, over seeds.

    Args:
        result: of this study.
    """
    own = [{**r, "share": r["reached"] / r["tried"]} for r in result.rows("length")]
    metrics = {"share": 1.0, "tokens_right": 1.0, "loss": math.inf}
    return summarise(own, ("depth", "trained", "length"), metrics)


def longest_rows(result: Result) -> list[dict[str, Any]]:
    """Return the longest random target that soft tokens emit, by depth and training.

    ``half``: the largest length at which at least half of the targets are emitted, as mean and
    range over seeds. ``any``: the largest length at which at least one is, over all seeds. 0 if
    none.

    Args:
        result: of this study.
    """
    own = result.rows("length")
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


def findings_block(evidence: Evidence) -> str:
    """Return what one token calls up on the toys of the ladder, in Markdown.

    A language model's row follows, if its result exists.

    Args:
        evidence: with the result of this study.
    """
    summary = evidence.tables("capacity")
    counts = {
        (row["depth"], row["trained"], row["kind"]): row
        for row in summary["distinct"] if row["kind"] != "random"
    }  # fmt: skip
    lines = [["toy", "hard tokens", "searched soft tokens", "half of the targets up to", "longest"]]
    for row in summary["longest"]:
        depth, trained = row["depth"], row["trained"]
        cells = [
            f"{own['distinct']['mean']:.1f} of {own['tried']['mean']:.0f}"
            for own in (counts[depth, trained, kind] for kind in ("hard", "searched"))
        ]
        half, longest = counted(row["half_mean"], "token", 1), counted(row["any"], "token")
        lines.append([toy_words(depth, trained), *cells, half, longest])
    if evidence.result("language-model") is not None:
        lines.append(findings_line(evidence))
    return markdown(lines)


def toy_words(depth: int, trained: bool) -> str:
    """Return the name of a toy."""
    return counted(depth, "layer") + ("" if trained else ", never trained")
