"""Claim (section 4): a prefix biases each head inside a subspace of at most n_s directions.

Rank and effective rank of the bias of every prefix of Table 2, principal angles between tasks,
starts and heads, and what becomes of the skill when the subspace is taken out. Writes
results/subspaces-PRESET.json and figures. Needs the models of Table 2
(analyses/table2_elicit_skills.py leaves them in work/table2-PRESET).

    python analyses/bias_subspaces.py --preset fast --seeds 10      # about ten minutes
    python analyses/bias_subspaces.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from prefix_interp.cli import reproduce
from prefix_interp.experiments.subspace_summary import subspace_rows
from prefix_interp.results import Result
from prefix_interp.views.subspaces import angles_figure, removal_figure

COLUMNS = {
    "spectrum": ["method", "parameterization", "level", "rank.mean", "effective_rank.mean"],
    "angle": ["comparison", "parameterization", "level", "mean_angle.mean", "chance_angle.mean"],
    "removal": ["parameterization", "run", "level", "space", "remove", "exact_match.mean",
                "exact_match.low", "exact_match.high", "loss.mean"],
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> Result:
    """Measure the bias subspaces, print the tables, and return the result."""
    result, stem = reproduce("subspaces", argv, __doc__)
    rows = [r for r in subspace_rows(result) if r.get("task") is None]
    for part, columns in COLUMNS.items():
        table = pd.json_normalize([r for r in rows if r["part"] == part])[columns]
        print(part, table.round(3).to_string(index=False), sep="\n", end="\n\n")
    removal_figure(result).savefig(f"{stem}-removal.png", dpi=150)
    angles_figure(result).savefig(f"{stem}-angles.png", dpi=150)
    return result


if __name__ == "__main__":
    main()
