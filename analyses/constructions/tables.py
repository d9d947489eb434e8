"""What came out right on the constructions, as the report and the findings show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.tables import markdown
from prefix_interp.results import Result

NAMES = {
    "any_sequence": "Theorem 1: any sequence",
    "any_map": "Theorem 2: any map of a token",
    "any_map_to_sequences": "longer responses",
    "any_map_of_pairs": "any map of two tokens",
}
_FINDINGS_NAMES = {
    "any_sequence": "Theorem 1, any sequence",
    "any_map": "Theorem 2, any map",
    "any_map_to_sequences": "longer responses",
    "any_map_of_pairs": "maps of two tokens",
}
_COUNTS = {
    "n_tokens": "V", "n_out": "outputs", "n_slots": "virtual tokens", "n_layers": "layers",
    "behaviours": "behaviours", "inputs": "inputs", "right": "right", "checked": "checked",
}  # fmt: skip
_SHARP = ("n_tokens", "n_out", "smallest_temperature", "offset", "exact", "hardest")
_PRECISION = ("dtype", "decoder", "largest", "n_tokens", "right", "checked")

Rows = Sequence[Mapping[str, Any]]


def tables(result: Result) -> dict[str, Rows]:
    """Return ``right``, ``sharp`` and ``precision`` with the columns that the report shows.

    Args:
        result: of this study.
    """
    rows = {part: _once(result.rows(part)) for part in ("right", "sharp", "precision")}
    return {
        "right": [_named(r) | {words: r[key] for key, words in _COUNTS.items()}
                  for r in rows["right"]],
        "sharp": [_named(r) | {key: r[key] for key in _SHARP} for r in rows["sharp"]],
        "precision": [{key: r[key] for key in _PRECISION} for r in rows["precision"]],
    }  # fmt: skip


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"construction": NAMES[row["construction"]]}


def _once(rows: Rows) -> Rows:
    """Return rows of checks without random draws, equal for every seed, only once."""
    return [row for i, row in enumerate(rows) if row["seed"] is not None or row not in rows[:i]]


def findings_block(evidence: Evidence) -> str:
    """Return the counts in Markdown.

    Args:
        evidence: with the result of this study.
    """
    result = evidence.result("constructions")
    assert result is not None
    lines = [["", "V", "outputs", "virtual tokens", "behaviours", "rows of outputs right"]]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in _once(result.rows("right")):
        groups.setdefault((row["construction"], row["n_out"], row["n"]), []).append(row)
    for (name, n_out, n), rows in groups.items():
        sizes = sorted({row["n_tokens"] for row in rows})
        tried = f"{rows[0]['behaviours']:,}" + ("" if n else " (all)")
        right, checked = (sum(row[key] for row in rows) for key in ("right", "checked"))
        lines.append(
            [_FINDINGS_NAMES[name],
             f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
             str(n_out or 1), str(rows[0]["n_slots"]),
             tried + (" each" if len(sizes) > 1 else ""), f"{right:,} of {checked:,}"]
        )  # fmt: skip
    return markdown(lines)
