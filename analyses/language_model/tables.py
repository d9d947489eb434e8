"""What one token of a language model calls up, as the report and the findings show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.one_token import counted
from analyses.report.evidence import Evidence
from prefix_interp.results import Result

Rows = Sequence[Mapping[str, Any]]


def tables(result: Result) -> dict[str, Rows]:
    """Return ``distinct``, with the share of different continuations, and ``lengths``.

    Args:
        result: of this study.
    """
    distinct = [{**row, "share": row["distinct"] / row["tried"]} for row in result.rows("distinct")]
    return {name: [{k: v for k, v in row.items() if k != "seed"} for row in rows]
            for name, rows in (("distinct", distinct), ("lengths", result.rows("length")))
            }  # fmt: skip


def findings_line(evidence: Evidence) -> list[str]:
    """Return the language model's line in the findings' table of single tokens.

    Args:
        evidence: with the result of this study.
    """
    result, summary = evidence.result("language-model"), evidence.tables("language-model")
    assert result is not None
    counts = {row["kind"]: row for row in summary["distinct"]}
    lengths = summary["lengths"]
    half = max((r["length"] for r in lengths if 2 * r["reached"] >= r["tried"]), default=0)
    longest = max((r["length"] for r in lengths if r["reached"]), default=0)
    cells = [f"{counts[k]['distinct']:,} of {counts[k]['tried']:,}" for k in ("hard", "searched")]
    name = result.settings["model"].split(" (")[0]
    return [name, *cells, counted(half, "token"), counted(longest, "token")]
