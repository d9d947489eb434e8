"""The section on one token of a language model."""

from __future__ import annotations

import pandas as pd

from analyses.report.evidence import Evidence, numbers
from analyses.report.sections import Section, Words
from analyses.report.tables import frame_table


def section(evidence: Evidence) -> Section:
    """Return how many continuations one token calls up in a language model.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("language-model"), evidence.tables("language-model")
    assert result is not None
    distinct, lengths = pd.DataFrame(tables["distinct"]), pd.DataFrame(tables["lengths"])
    settings, protocol = result.settings, result.settings["protocol"]
    about = (
        f"{settings['model']}, {settings['d_vocab']:,} tokens; one token and no other context, "
        f"greedy decoding, continuations of {protocol['n_out']} tokens."
    )
    words = [
        Words(
            "Different continuations",
            f"{about} Hard: the whole vocabulary; as many: mean over random subsets of the size "
            "of the searched set; random: normal vectors with the embeddings' spread; "
            f"searched: one per uniform random target, {protocol['steps']} steps.",
            frame_table(distinct.assign(distinct=distinct["distinct"].map(_count))),
        ),
        Words(
            "By length",
            "Random targets that a searched soft token emits exactly, and the share of their "
            "tokens that are right in their place; mean loss over tokens in nats. Lower bounds: a "
            "longer search may reach more.",
            frame_table(lengths),
        ),
    ]
    found = {row["kind"]: row for row in distinct.to_dict("records")}
    hard, few, searched = (found[kind] for kind in ("hard", "hard, as many", "searched"))
    return Section(
        "language-model", "Language model", "One token of a language model",
        "The same count on a pretrained language model, as in the paper.",
        words, numbers(tables),
        [
            f"{settings['model']}: {hard['distinct']:,.0f} different continuations from "
            f"{hard['tried']:,} hard tokens; {searched['distinct']:.0f} from "
            f"{searched['tried']} searched soft ones, against {few['distinct']:.1f} from as many "
            "hard ones."
        ],
    )  # fmt: skip


def _count(number: float) -> str:
    """Return a count in full, or a mean of counts with one decimal."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
