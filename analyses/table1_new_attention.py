"""Claim (section 5): a prefix cannot teach one layer a new attention pattern.

Pretrain a one-layer, one-head model to sort ascending; then make it sort descending by full
fine-tuning and by prefix-tuning with both parameterizations, 1 and 10 slots, and a sweep of
learning rates. Writes results/table1-PRESET.json and a figure of the sweep.

    python analyses/table1_new_attention.py --preset fast --seeds 10      # about 30 minutes
    python analyses/table1_new_attention.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

from prefix_interp.cli import reproduce
from prefix_interp.experiments.summary import table1_rows
from prefix_interp.experiments.table1 import NEW, OLD
from prefix_interp.results import Result
from prefix_interp.views.plots import sweep_figure


def main(argv: Sequence[str] | None = None) -> Result:
    """Run Table 1, print it, and return the result."""
    result, stem = reproduce("table1", argv, __doc__)
    for row in table1_rows(result):
        scores = "  ".join(
            f"{task} {row[task]['exact_match']['mean']:.3f} "
            f"[{row[task]['exact_match']['low']:.3f}, {row[task]['exact_match']['high']:.3f}]"
            for task in (OLD, NEW)
        )
        kind = f"{row['parameterization']} {row['n_slots']}" if row["n_slots"] else ""
        print(f"{row['method']:20s} {kind:12s} {scores}  loss {row[NEW]['loss']['mean']:.2f}")
    sweep_figure(result).savefig(stem.with_suffix(".png"), dpi=150)
    return result


if __name__ == "__main__":
    main()
