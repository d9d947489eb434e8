"""The section on the capacity of one token."""

from __future__ import annotations

import pandas as pd

from analyses.capacity.figure import capacity_figure
from analyses.capacity.tables import toy_words
from analyses.one_token import counted
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture, records, spread_frame
from analyses.report.tables import frame_table


def section(evidence: Evidence) -> Section:
    """Return how many continuations one token calls up, and how long a sequence it can name.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("capacity"), evidence.tables("capacity")
    assert result is not None
    distinct = spread_frame(tables["distinct"], ("tried", "distinct"))
    lengths = spread_frame(tables["length"], ("share", "tokens_right", "loss"))
    longest = pd.DataFrame(tables["longest"])
    n_out = result.settings["protocol"]["n_out"]
    parts = [
        picture(
            "capacity",
            capacity_figure(tables),
            "Left: bars of different continuations for hard, random and searched soft tokens. "
            "Right: share of random targets emitted against their length.",
            "One token in an otherwise empty context, greedy decoding, toys of the ladder, "
            f"{counted(len(result.seeds), 'seed')}. Left: different continuations of {n_out} "
            "tokens. Right: one soft token is optimised per random target; bands are 95% t "
            "intervals over seeds, dashed lines are the same shapes with their initial weights.",
            distinct,
        ),
        Words(
            "Longest sequence",
            "The longest random target that at least half of the soft tokens, or any, made the toy "
            "emit.",
            frame_table(longest),
        ),
        Words("By length", "Shares are of random targets.", frame_table(lengths), folded=True),
    ]
    numbers = {"distinct": records(distinct), "lengths": records(lengths),
               "longest": records(longest)}  # fmt: skip
    return Section(
        "capacity-section", "Capacity", "How much one token can say",
        "Hard tokens call up at most as many continuations as there are tokens. Soft tokens are "
        "not bound by that limit.",
        parts, numbers, _findings(distinct, longest),
    )  # fmt: skip


def _findings(distinct: pd.DataFrame, longest: pd.DataFrame) -> list[str]:
    found = []
    for row in longest[longest["trained"]].to_dict("records"):
        own = distinct[distinct["trained"] & (distinct["depth"] == row["depth"])]
        counts = {k: own[own["kind"] == k] for k in ("hard", "searched")}
        hard, searched = (x.iloc[0] for x in counts.values())
        found.append(
            f"One token, {toy_words(row['depth'], True)}: "
            f"{hard['distinct']:.1f} different continuations from {hard['tried']:.0f} hard tokens, "
            f"{searched['distinct']:.1f} from {searched['tried']:.0f} searched soft ones; half of "
            f"the random targets are emitted up to {row['half_mean']:.1f} tokens (mean over seeds)."
        )
    return found
