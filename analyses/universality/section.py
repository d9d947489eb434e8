"""The section on universality: one head, ever more slots."""

from __future__ import annotations

import pandas as pd

from analyses.report.evidence import Evidence
from analyses.report.sections import Section, picture, records
from analyses.universality.figure import universality_figure


def section(evidence: Evidence) -> Section:
    """Return how well one fixed head fits functions on spheres with ever more slots.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("universality"), evidence.tables("universality")
    assert result is not None
    fits = pd.DataFrame(tables["fits"])
    parts = [
        picture(
            f"universality-{dim}",
            universality_figure(tables, dim),
            f"Error against the number of slots on the sphere S{dim}, falling lines for fitted "
            "values and flat lines for random values; also the violations of eq. 6 and 7 and "
            "the bias's rank.",
            f"One head with fixed weights, functions on S^{dim} with variance 1, held-out points, "
            f"{len(result.seeds)} seeds (bands: all seeds). Layer 0, head 0, masked baseline. Only "
            "the prefix differs from line to line: its values, or the length of its keys "
            "(κ). With more slots the masses resolve finer detail; the rank of the bias does not "
            "exceed the number of outputs, and eq. 6 always holds.",
            fits[fits["sphere"] == dim],
        )
        for dim in sorted(set(fits["sphere"].tolist()))
    ]
    return Section(
        "universality", "Universality", "One head, many slots: any function on a sphere",
        "Relative attention is fixed and the bias has bounded rank, yet enough slots fit any "
        "continuous function of the query (Petrov et al. 2024): each slot's share of the mass is "
        "a kernel around its key.",
        parts, {"fits": records(fits)}, _findings(fits),
    )  # fmt: skip


def _findings(fits: pd.DataFrame) -> list[str]:
    own = fits[(fits["sphere"] == 2) & (fits["function"] == "harmonic")]
    words = []
    for method in ("quadrature", "least squares, flat", "random values"):
        here = own[own["method"] == method].sort_values("slots")
        first, last = here.iloc[0], here.iloc[-1]
        words.append(
            f"{method} {first['rmse']:.2g} with {int(first['slots'])} slots and {last['rmse']:.2g} "
            f"with {int(last['slots'])}"
        )
    return [
        f"Universality, a harmonic on S^2, root mean square error: {'; '.join(words)}; eq. 6 "
        f"within {fits['eq. 6'].max():.0e}."
    ]
