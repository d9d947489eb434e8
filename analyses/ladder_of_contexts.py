"""What each kind of context can make the same frozen toys do, suffixes among them.

Toys of 1, 2 and 4 layers that know three skills; hard prompts, examples, soft prompts, prefixes
and suffixes for known, combined and new tasks. Writes results/ladder-PRESET.json and four figures.

    python analyses/ladder_of_contexts.py --preset fast --seeds 3
    python analyses/ladder_of_contexts.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from prefix_interp.cli import reproduce
from prefix_interp.experiments.ladder_summary import ladder_rows, suffix_rows
from prefix_interp.results import Result
from prefix_interp.views.ladder import ladder_figure, suffix_figure, tuning_length_figure


def main(argv: Sequence[str] | None = None) -> Result:
    """Tune and measure the contexts, print the tables, and return the result."""
    result, stem = reproduce("ladder", argv, __doc__)
    rows = pd.json_normalize(ladder_rows(result))
    rows = rows[rows["method"] == "context"]
    rows["steps"] = rows["steps"].fillna(0).astype(int)
    table = rows.pivot_table(
        "exact_match.mean", ["depth", "context", "n_slots", "steps"], "task", sort=False
    )
    print((100 * table).round(1).to_string(), end="\n\n")
    columns = ["depth", "steps", "task", "suffix", "suffix_exact_match.mean", "front",
               "front_exact_match.mean", "verdict", "suffix_first_output.mean",
               "blind_first_output.mean", "first_verdict"]  # fmt: skip
    print(pd.json_normalize(suffix_rows(result))[columns].round(3).to_string(index=False))
    figures = {
        "": ladder_figure(result), "-suffixes": suffix_figure(result),
        "-first-output": suffix_figure(result, "first_output"),
        "-longer": tuning_length_figure(result),
    }  # fmt: skip
    for name, figure in figures.items():
        figure.savefig(f"{stem}{name}.png", dpi=150)
    return result


if __name__ == "__main__":
    main()
