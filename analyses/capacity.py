"""How many continuations one token calls up, and how long a sequence it can make a toy emit.

Hard tokens, random soft tokens and soft tokens searched for random targets, on the toys of the
ladder (analyses/ladder_of_contexts.py leaves them in work/ladder-PRESET) and on untrained ones.
Writes results/capacity-PRESET.json and a figure.

    python analyses/capacity.py --preset fast --seeds 3
    python analyses/capacity.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from prefix_interp.cli import reproduce
from prefix_interp.experiments.capacity_summary import distinct_rows, longest_rows
from prefix_interp.results import Result
from prefix_interp.views.capacity import capacity_figure


def main(argv: Sequence[str] | None = None) -> Result:
    """Search soft tokens, print the counts, and return the result."""
    result, stem = reproduce("capacity", argv, __doc__)
    columns = ["depth", "trained", "kind", "std", "tried.mean", "distinct.mean"]
    print(pd.json_normalize(distinct_rows(result))[columns].to_string(index=False), end="\n\n")
    print(pd.DataFrame(longest_rows(result)).to_string(index=False))
    capacity_figure(result).savefig(stem.with_suffix(".png"), dpi=150)
    return result


if __name__ == "__main__":
    main()
