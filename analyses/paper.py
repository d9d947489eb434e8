"""Tables 1 and 2 for a paper: a number a cell, ready for `prefix_interp.tables.to_latex`.

Example:
    >>> to_latex(table2_frame(table2_rows(result)), "table2.tex")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analyses.table1.measure import NEW, OLD
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tasks.words import task_words
from prefix_interp.views.style import variant_label

Rows = Sequence[Mapping[str, Any]]


def table1_frame(rows: Rows) -> pd.DataFrame:
    """Return Table 1 with exact match in percent: our mean and standard deviation, the paper's.

    Args:
        rows: from `analyses.table1.tables.table1_rows`.
    """
    return pd.DataFrame(
        [
            {
                "model": row["method"],
                "prefix": variant_label(row["parameterization"], row["n_slots"]),
                **_scores(row, (OLD, NEW)),
            }
            for row in rows
        ]
    )


def table2_frame(rows: Rows) -> pd.DataFrame:
    """Return Table 2 with exact match in percent: our mean and standard deviation, the paper's.

    Args:
        rows: from `analyses.table2.tables.table2_rows`.
    """
    return pd.DataFrame(
        [
            {
                "model": row["method"],
                "prefix": row["parameterization"] or "no prefix",
                "start std": row["init_std"],
                "tuned on": "" if row["tuned_on"] is None else task_words(row["tuned_on"]),
                **_scores(row, FOUR_SKILLS),
            }
            for row in rows
        ]
    )


def _scores(row: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for task in tasks:
        words, exact = task_words(task), row[task]["exact_match"]
        sd = exact["sd"]
        found[f"{words} (%)"] = 100 * exact["mean"]
        found[f"{words}, sd"] = None if sd is None else 100 * sd
        found[f"{words}, paper (%)"] = row["paper"] and float(row["paper"][task][0])
    return found
