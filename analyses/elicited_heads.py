"""Claim (section 6): a prefix works by turning pretrained heads up and down, and biasing them.

For every prefix of Table 2: each head's effect split into gate and bias, random prefixes as
controls, the prefix gated head by head, the smallest circuit, and estimates by gradients. Writes
results/heads-PRESET.json and figures of the first seed and of all. Needs the models of Table 2
(analyses/table2_elicit_skills.py leaves them in work/table2-PRESET).

    python analyses/elicited_heads.py --preset fast --seeds 10      # about 20 minutes
    python analyses/elicited_heads.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from prefix_interp.cli import reproduce
from prefix_interp.experiments.heads_summary import (
    agreement_rows,
    calibration_rows,
    circuit_rows,
    copying_rows,
    elicited_rows,
    gating_rows,
    heads_frame,
)
from prefix_interp.results import Result
from prefix_interp.views.copying import copying_figure
from prefix_interp.views.elicitation import elicitation_figure


def main(argv: Sequence[str] | None = None) -> Result:
    """Measure which heads are elicited, print the tables, and return the result."""
    result, stem = reproduce("heads", argv, __doc__)
    tables = {
        "elicited heads": elicited_rows(result),
        "the prefix at one head": gating_rows(result),
        "controls": calibration_rows(result),
        "gates and copying": copying_rows(result),
        "circuits": circuit_rows(result),
        "estimates by gradients": agreement_rows(result),
    }
    for title, rows in tables.items():
        print(title, pd.DataFrame(rows).round(3).to_string(index=False), sep="\n", end="\n\n")
    frame = heads_frame(result)
    frame = frame[frame["parameterization"] == "residual"]
    noise = frame[frame["direction"] == "noise"]
    copying_figure(noise).savefig(f"{stem}-copying.png", dpi=150)
    first = noise[noise["seed"] == result.seeds[0]]
    groups = {str(task): own for task, own in first.groupby("tuned_on", sort=False)}
    elicitation_figure(groups, gate_column="gate_effect").savefig(f"{stem}.png", dpi=150)
    return result


if __name__ == "__main__":
    main()
