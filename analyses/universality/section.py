"""The section on universality: one head, ever more slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from analyses.report.evidence import Evidence
from analyses.report.sections import Cell, Claim, Picture, Section, Words, picture
from analyses.report.tables import Column, decimals, power, rows_table, whole
from analyses.study import Tables
from analyses.universality.figure import universality_figure
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return how well one fixed head fits functions on spheres with ever more slots.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("universality"), evidence.tables("universality")
    assert result is not None
    fits = tables["fits"]
    shown = _SHOWN if _SHOWN in {r["sphere"] for r in fits} else fits[0]["sphere"]
    own = [r for r in fits if (r["sphere"], r["function"]) == (shown, "harmonic")]
    few, many = _ends(own, "quadrature")
    eq6 = max(r["eq. 6"] for r in fits if "eq. 6" in r)
    _, random = _ends(own, "random values")
    others = [dim for dim in sorted({r["sphere"] for r in fits}) if dim != shown]
    return Section(
        "universality", "One head, many slots",
        f"One fixed head fits functions on a sphere ever better with more slots: error {_two(few)} "
        f"with {few['slots']}, {_two(many)} with {many['slots']:,}",
        "reaches",
        f"Relative attention stays fixed (equation 6 holds within {power(eq6, 0)}), and the bias "
        "never has more directions than outputs: each slot's share of the attention is a "
        "kernel around its key (Petrov et al. 2024). With random values in place of the right ones "
        f"the error is {_two(random)}.",
        _picture(tables, shown, len(result.seeds)),
        [*(_picture(tables, dim, len(result.seeds)) for dim in others), *_tables(own, shown)],
        {"fits": fits},
        claims=[
            Claim(
                "One head fits a function on a sphere ever better: error with "
                f"{few['slots']} / {many['slots']:,} slots",
                {"other": Cell(f"{_two(few)} / {_two(many)}")},
            )
        ],
    )  # fmt: skip


_SHOWN = 2  # the sphere in the open


def _two(row: Mapping[str, Any]) -> str:
    return f"{row['rmse']:.3f}"


def _ends(rows: Rows, method: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the fits with the fewest and the most slots."""
    own = sorted((r for r in rows if r["method"] == method), key=lambda r: r["slots"])
    return own[0], own[-1]


def _picture(tables: Tables, dim: int, n_seeds: int) -> Picture:
    return picture(
        f"universality-{dim}",
        universality_figure(tables, dim),
        f"Error against the number of slots on the sphere S{dim}, falling lines for fitted values "
        "and flat lines for random values; also the violations of equations 6 and 7 and the "
        "bias's rank.",
        Markup(
            "One head with fixed weights, functions on S<sup>{}</sup> with variance 1, held-out "
            "points, {} (bands: all). Layer 0, head 0, masked baseline. Only the prefix "
            "differs from line to line: its values, or the length of its keys (κ)."
        ).format(dim, counted(n_seeds, "seed")),
    )


def _tables(rows: Rows, dim: int) -> list[Words]:
    return [
        Words(f"A harmonic on S^{dim}", "Root mean square and largest error, mean over seeds.",
              rows_table(rows, [
                  Column("Values", "method"), Column("Slots", "slots", whole),
                  Column("Error", "rmse", decimals(4)),
                  Column("Largest error", "largest error", decimals(4)),
                  Column("Equation 6", "eq. 6", power), Column("Rank", "rank", whole),
                  Column("Bound", "bound", whole), Column("Gate", "gate", decimals(3))]))
    ]  # fmt: skip
