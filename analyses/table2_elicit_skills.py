"""Claim (section 6): a prefix elicits a skill that the model has.

Pretrain a one-layer, four-head model on an unlabelled mixture of four tasks; tune one slot for
each task, from several starts, in both parameterizations. Writes results/table2-PRESET.json and a
figure of the matrix.

    python analyses/table2_elicit_skills.py --preset fast --seeds 10      # about an hour
    python analyses/table2_elicit_skills.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

from prefix_interp.cli import reproduce
from prefix_interp.experiments.table2_summary import restart_rows, table2_rows
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.skills import kind_label, matrix_figure


def main(argv: Sequence[str] | None = None) -> Result:
    """Run Table 2, print it, and return the result."""
    result, stem = reproduce("table2", argv, __doc__)
    print(f"exact match, mean +- sd in percent, on {', '.join(FOUR_SKILLS)}")
    for row in table2_rows(result):
        scores = "  ".join(
            f"{100 * row[task]['exact_match']['mean']:6.2f} +- "
            f"{100 * (row[task]['exact_match']['sd'] or 0):5.2f}"
            for task in FOUR_SKILLS
        )
        kind = kind_label(row["parameterization"], row["init_std"])
        print(f"{row['method']:20s} {kind:24s} {row['tuned_on'] or '':16s} {scores}")
    for row in restart_rows(result):
        kind = kind_label(row["parameterization"], row["init_std"])
        print(f"{kind:24s} {row['tuned_on']:16s} {row['found']} of {row['runs']} runs found it")
    matrix_figure(result).savefig(stem.with_suffix(".png"), dpi=150)
    return result


if __name__ == "__main__":
    main()
