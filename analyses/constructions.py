"""Claim (section 3): one virtual token makes a fixed transformer do anything out of a whole family.

Theorem 1 (any sequence), Theorem 2 (any map of a token), longer responses and two-token inputs,
each with weights set by hand: how many behaviours come out right, just above and below the
smallest temperature, and how large a vocabulary each dtype holds. Writes
results/constructions-PRESET.json and a picture of Theorem 1 at work.

    python analyses/constructions.py --preset fast --seeds 1      # about two minutes
    python analyses/constructions.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefix_interp.cli import reproduce
from prefix_interp.results import Result
from prefix_interp.theory.constructions import any_sequence
from prefix_interp.views.constructions import trace, trace_figure

COLUMNS = {
    "right": ["construction", "n_tokens", "n_out", "n_slots", "n_layers", "log10_behaviours",
              "behaviours", "inputs", "right", "checked", "greedy"],
    "sharp": ["construction", "n_tokens", "n_out", "smallest_temperature", "offset", "exact",
              "hardest"],
    "precision": ["dtype", "decoder", "largest", "n_tokens", "right", "checked"],
}  # fmt: skip
WRITTEN = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def main(argv: Sequence[str] | None = None) -> Result:
    """Count what comes out right, print the tables, and return the result."""
    result, stem = reproduce("constructions", argv, __doc__)
    table = result.to_dataframe()
    for part, columns in COLUMNS.items():
        shown = table[table["part"] == part][columns].dropna(axis="columns", how="all")
        print(part, shown.to_string(index=False), sep="\n", end="\n\n")
    written = any_sequence(n_tokens=10, length=len(WRITTEN))
    trace_figure(written, trace(written, WRITTEN)).savefig(stem.with_suffix(".png"), dpi=150)
    return result


if __name__ == "__main__":
    main()
