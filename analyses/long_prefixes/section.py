"""The report's section on long prefixes: how many directions they use."""

from __future__ import annotations

import pandas as pd

from analyses.long_prefixes.figures import slots_figure
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture, records, spread_frame
from analyses.report.tables import frame_table

_COUNTS = ("bound", "rank", "effective_rank", "n_95", "n_99", "slot_range", "top_slot")


def section(evidence: Evidence) -> Section:
    """Return how many directions prefixes of 1 to 32 slots use.

    Args:
        evidence: with the result of the study.
    """
    result, rows = evidence.result("long-prefixes"), evidence.tables("long-prefixes")
    assert result is not None
    tuning = spread_frame(rows["tuning"], ("exact_match", "loss"))
    bias = spread_frame(rows["bias"], _COUNTS)
    bias = bias[bias["task"].isna()].drop(columns=["task"])
    parts = [
        picture(
            "slots",
            slots_figure(rows["bias"], result.rows("bias")),
            "Effective rank of the bias, by head and by layer, and the range of attention over "
            "the slots, against the number of slots, tuned and random prefixes.",
            "Prefixes of 1 to 32 slots for each of the four tasks, layer 0, "
            f"{len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}. "
            "Effective rank of the bias (exp of the entropy of its singular values) beside the "
            "bound n_s. Right: the paper's statistic of appendix B at every head: 99th minus 1st "
            "percentile over inputs of the renormalised attention to each slot, mean over "
            "slots. Random prefix: the start that was tuned.",
            bias,
        ),
        Words(
            "How well they do",
            "Exact match and test loss by number of slots, mean over seeds.",
            frame_table(tuning[tuning["task"].isna()].drop(columns=["task"])),
            folded=True,
        ),
    ]
    return Section(
        "long-prefixes", "Long prefixes", "How many directions does a longer prefix use?",
        "The bias of a head can have as many directions as the prefix has slots. How many it has "
        "and how many matter, are different questions.",
        parts, {"bias": records(bias), "tuning": records(tuning)}, _long_findings(bias),
    )  # fmt: skip


def _long_findings(bias: pd.DataFrame) -> list[str]:
    own = bias[(bias["method"] == "prefix") & (bias["level"] == "head")]
    found = []
    for kind, rows in own.groupby("parameterization", sort=False):
        last = rows.loc[rows["n_slots"].idxmax()]
        found.append(
            f"Long prefixes, {kind}: with {int(last['n_slots'])} slots a head's bias has an "
            f"effective rank of {last['effective_rank']:.1f} and {last['n_95']:.1f} directions "
            "carry 95 % of it (means over heads, tasks and seeds)."
        )
    return found
