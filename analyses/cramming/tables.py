"""Cramming over seeds and targets, as the report shows it."""

from __future__ import annotations

import statistics

from analyses.study import Rows, Tables
from prefix_interp.results import Result


def tables(result: Result) -> Tables:
    """Return ``kinds``, one row per kind of target, ``stages`` summed over seeds, and the rest.

    Args:
        result: of this study.
    """
    return {
        "kinds": _kinds(result.rows("targets")),
        "stages": _summed(result.rows("stages")),
        "from_noise": _summed(result.rows("from_noise")),
        "attention": _layers(result.rows("attention")),
    }


def _kinds(rows: Rows) -> Rows:
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        lengths, bits = ([r[k] for r in rows if r["kind"] == kind] for k in ("length", "bits"))
        found.append(
            {
                "kind": kind, "tried": len(lengths), "median": statistics.median_low(lengths),
                "longest": max(lengths), "shortest": min(lengths),
                "median_bits": statistics.median(bits), "most_bits": max(bits),
            }
        )  # fmt: skip
    return found


def _summed(rows: Rows) -> Rows:
    found: dict[tuple, dict] = {}
    for row in rows:
        about = {"kind": row["kind"], "length": row["length"]}
        own = found.setdefault(tuple(about.values()), about | {"tried": 0, "reached": 0})
        own["tried"] += row["tried"]
        own["reached"] += row["reached"]
    return list(found.values())


def _layers(rows: Rows) -> Rows:
    """Return the mean over seeds, each weighted by its targets."""
    found = []
    for kind, layer in dict.fromkeys((row["kind"], row["layer"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["layer"]) == (kind, layer)]
        n = sum(row["n"] for row in own)
        means = {k: sum(r[k] * r["n"] for r in own) / n for k in ("crammed", "ordinary")}
        found.append({"kind": kind, "layer": layer, "n": n, **means})
    return found
