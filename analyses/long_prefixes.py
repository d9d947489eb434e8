"""Claim (appendix B): longer prefixes do not use all the directions they could.

Prefixes of 1 to 32 slots, tuned for each skill of Table 2 in both parameterizations: rank and
effective rank of the bias at every head, and the paper's spread of attention over the slots.
Writes results/long-prefixes-PRESET.json and a figure. Needs the models of Table 2
(analyses/table2_elicit_skills.py leaves them in work/table2-PRESET).

    python analyses/long_prefixes.py --preset fast --seeds 3      # about 20 minutes
    python analyses/long_prefixes.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from prefix_interp.cli import reproduce
from prefix_interp.experiments.subspace_summary import long_prefix_rows
from prefix_interp.results import Result
from prefix_interp.views.subspaces import slots_figure

COLUMNS = {
    "tuning": ["parameterization", "n_slots", "exact_match.mean", "loss.mean"],
    "bias": ["method", "parameterization", "level", "n_slots", "rank.mean", "effective_rank.mean",
             "n_95.mean"],
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> Result:
    """Tune and measure the prefixes, print the tables, and return the result."""
    result, stem = reproduce("long-prefixes", argv, __doc__)
    rows = [r for r in long_prefix_rows(result) if r["task"] is None]
    for part, columns in COLUMNS.items():
        table = pd.json_normalize([r for r in rows if r["part"] == part])[columns]
        print(part, table.round(3).to_string(index=False), sep="\n", end="\n\n")
    slots_figure(result).savefig(stem.with_suffix(".png"), dpi=150)
    return result


if __name__ == "__main__":
    main()
