"""The report's section on the capacity of one token."""

from __future__ import annotations

import pandas as pd

from prefix_interp.experiments.capacity_summary import distinct_rows, length_rows, longest_rows
from prefix_interp.results import Result
from prefix_interp.views.capacity import capacity_figure
from prefix_interp.views.ladder import layers
from prefix_interp.views.sections import Section, Words, picture, records, spread_frame
from prefix_interp.views.tables import frame_table


def capacity_section(result: Result) -> Section:
    """Return how many continuations one token calls up, and how long a sequence it can name.

    Args:
        result: from `capacity`.
    """
    distinct = spread_frame(distinct_rows(result), ("tried", "distinct"))
    lengths = spread_frame(length_rows(result), ("share", "tokens_right", "loss"))
    longest = pd.DataFrame(longest_rows(result))
    n = len(result.seeds)
    parts = [
        picture(
            "capacity",
            capacity_figure(result),
            "Left: bars of different continuations for hard, random and searched soft tokens. "
            "Right: share of random targets emitted against their length.",
            "One token in an otherwise empty context, greedy decoding, toys of the ladder, "
            f"{n} seed{'s' if n > 1 else ''}. Left: different continuations of "
            f"{result.settings['n_out']} tokens. Right: a soft token is optimised for each random "
            "target; bands are 95% t intervals over seeds, dashed lines the same shapes with their "
            "initial weights.",
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
        "A hard token calls up at most as many continuations as there are tokens. A soft token is "
        "not bound by that.",
        parts, numbers, _capacity_findings(distinct, longest),
    )  # fmt: skip


def _capacity_findings(distinct: pd.DataFrame, longest: pd.DataFrame) -> list[str]:
    found = []
    for row in longest[longest["trained"]].to_dict("records"):
        own = distinct[distinct["trained"] & (distinct["depth"] == row["depth"])]
        counts = {k: own[own["kind"] == k] for k in ("hard", "searched")}
        hard, searched = (x.iloc[0] for x in counts.values())
        found.append(
            f"One token, {layers(row['depth'])}: "
            f"{hard['distinct']:.1f} different continuations from {hard['tried']:.0f} hard tokens, "
            f"{searched['distinct']:.1f} from {searched['tried']:.0f} searched soft ones; half of "
            f"the random targets are emitted up to {row['half_mean']:.1f} tokens (mean over seeds)."
        )
    return found


def language_model_section(result: Result) -> Section:
    """Return how many continuations one token calls up in a language model.

    Args:
        result: from `language_model`.
    """
    frame = pd.DataFrame(result.records)
    parts = {name: own.dropna(axis="columns") for name, own in frame.groupby("part")}
    distinct = parts["distinct"][["kind", "n_out", "tried", "distinct"]]
    distinct = distinct.assign(share=distinct["distinct"] / distinct["tried"])
    lengths = parts["length"][["length", "tried", "reached", "tokens_right", "loss"]]
    settings = result.settings
    about = (
        f"{settings['model']}, {settings['d_vocab']:,} tokens; one token and no other context, "
        f"greedy decoding, continuations of {settings['n_out']} tokens."
    )
    words = [
        Words(
            "Different continuations",
            f"{about} Hard: the whole vocabulary; as many: the mean over random subsets as large "
            "as the searched tokens are many; random: normal vectors as long as embeddings; "
            f"searched: one for each uniform random target, {settings['steps']} steps.",
            frame_table(distinct.assign(distinct=distinct["distinct"].map(_count))),
        ),
        Words(
            "By length",
            "Random targets that a searched soft token emits exactly, and the share of their "
            "tokens that stand where they should; mean loss in nats a token. Lower bounds: a "
            "longer search may reach more.",
            frame_table(lengths),
        ),
    ]
    found = {row["kind"]: row for row in distinct.to_dict("records")}
    hard, few, searched = (found[kind] for kind in ("hard", "hard, as many", "searched"))
    return Section(
        "language-model", "Language model", "One token of a language model",
        "The same count where the paper made it: a pretrained language model.",
        words, {"distinct": records(distinct), "lengths": records(lengths)},
        [
            f"{settings['model']}: {hard['distinct']:,.0f} different continuations from "
            f"{hard['tried']:,} hard tokens; {searched['distinct']:.0f} from "
            f"{searched['tried']} searched soft ones, against {few['distinct']:.1f} from as many "
            "hard ones."
        ],
    )  # fmt: skip


def _count(number: float) -> str:
    """Return a count in full, a mean of counts with one digit more."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
