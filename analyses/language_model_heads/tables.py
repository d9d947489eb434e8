"""Attention of a language model under prefixes, as the report shows it."""

from __future__ import annotations

from analyses.study import Rows, Tables
from prefix_interp.results import Result


def tables(result: Result) -> Tables:
    """Return ``prefixes``, one row per prefix, and ``layers``, one per prefix and layer.

    ``range_all`` is the paper's range of attention over slots, of all heads; ``range_diagonal`` as
    the authors measured it: of head i in layer i alone, their loop over layers having indexed the
    heads.

    Args:
        result: of this study.
    """
    layers, heads = result.rows("layers"), result.rows("heads")
    return {"prefixes": _prefixes(layers, heads), "layers": layers}


def _prefixes(layers: Rows, heads: Rows) -> Rows:
    found = []
    for name in dict.fromkeys(row["prefix"] for row in layers):
        own, by_head = ([r for r in rows if r["prefix"] == name] for rows in (layers, heads))
        deeper = [row["moved"] for row in own if row["layer"] > 0]
        found.append(
            {
                "prefix": name,
                "eq6": max(row["eq6"] for row in own),
                "eq7": max(row["eq7"] for row in own),
                **{key: _mean([r[key] for r in own]) for key in ("gate", "sink_off", "sink_on")},
                "moved_first": next(row["moved"] for row in own if row["layer"] == 0),
                "moved_deeper": _mean(deeper),
                "range_all": _mean([row["slot_range"] for row in by_head]),
                "range_diagonal": _mean(
                    [row["slot_range"] for row in by_head if row["layer"] == row["head"]]
                ),
                "top_slot": _mean([row["top_slot"] for row in by_head]),
            }
        )
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
