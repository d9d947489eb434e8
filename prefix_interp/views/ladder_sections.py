"""The report's sections on what contexts can do: the ladder, suffixes, the capacity of a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from prefix_interp.experiments.ladder_summary import (
    METRICS,
    distinct_rows,
    ladder_rows,
    length_rows,
    longest_rows,
    suffix_rows,
)
from prefix_interp.results import Result
from prefix_interp.views.ladder import TASK_WORDS, capacity_figure, ladder_figure, suffix_figure
from prefix_interp.views.sections import Section, Words, picture, records, spread_frame
from prefix_interp.views.tables import frame_table, percent

_SPREADS = ("suffix_exact_match", "suffix_first_output", "suffix_later_outputs",
            "front_exact_match", "front_first_output", "front_later_outputs")  # fmt: skip


def ladder_section(result: Result) -> Section:
    """Return what each kind of context makes the same toys do, suffixes apart.

    Args:
        result: from `ladder`.
    """
    rows = ladder_rows(result)
    frame = spread_frame(rows, tuple(METRICS))
    suffixes = suffix_rows(result)
    table = spread_frame(suffixes, _SPREADS)
    n, own = len(result.seeds), frame["method"] == "context"
    sizes = result.settings["protocol"]
    shown = frame[own].drop(columns=["method"])
    controls = frame[~own & (frame["n_slots"] == frame["n_slots"].max())]
    seeds = f"{n} seed{'s' if n > 1 else ''}"
    parts = [
        picture(
            "ladder",
            ladder_figure(result),
            "Heat maps of exact match, one for each depth: contexts from none over hard prompts, "
            "examples and soft prompts to prefixes and suffixes, by task.",
            "Exact match in percent on unseen inputs, whole model, mean over "
            f"{seeds}. The toys know ascending, +1 and +2; ascending then +1 combines them, "
            "descending and histogram are new. Each tuned context counts at the learning rate with "
            f"the lowest training loss of {len(sizes['lrs'])} ({sizes['steps']} steps each), each "
            "hard prompt is the best that the search found. "
            "No context: masked baseline.",
            shown,
        ),
        picture(
            "suffixes",
            suffix_figure(result),
            "Exact match of prefixes and suffixes against depth, one panel a task, with intervals.",
            "Contexts in front of the input and behind it, all with the most slots that were "
            f"tuned; bars are 95% t intervals over {seeds}. A soft suffix stands at the embedding, "
            "so that what deeper layers hold there depends on the input; a suffix at every layer "
            "is written over at each and does not. The first output is read at the last slot of a "
            "suffix, the others at the outputs before them.",
            table,
        ),
        picture(
            "suffixes-later",
            suffix_figure(result, "later_outputs"),
            "Share of right outputs behind the first, by depth, one panel a task.",
            "The same contexts: right answers at outputs 1 to 9, under teacher forcing, which "
            "leaves out the one output that a suffix's own slot predicts. In one layer a suffix at "
            "every layer and a prefix of the same vectors are equal there.",
            _outputs(shown),
        ),
        Words(
            "Controls",
            "Untuned starts and random directions with the tuned norms, exact match on the task "
            "that the tuned context was made for.",
            frame_table(controls.drop(columns=[c for c in controls if " " in str(c)])),
            folded=True,
        ),
    ]
    return Section(
        "ladder-section", "Ladder", "A ladder of contexts, and suffixes",
        "Real tokens, examples, soft prompts, prefixes at every layer, and the same vectors behind "
        "the input: what can each make one and the same frozen model do?",
        parts, {"ladder": records(frame), "suffixes": records(table)},
        _suffix_findings(suffixes),
    )  # fmt: skip


def _outputs(frame: pd.DataFrame) -> pd.DataFrame:
    keys = ["depth", "context", "n_slots", "task"]
    return frame.loc[:, [*keys, *(c for c in frame if str(c).startswith(("first", "later")))]]


def _suffix_findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence a depth: the soft suffix on new tasks beside the best context in front."""
    found = []
    for depth in sorted({r["depth"] for r in rows}):
        own = [
            r for r in rows
            if r["depth"] == depth and r["suffix"] == "soft suffix" and r["asks_for"] == "new"
        ]  # fmt: skip
        words = ". ".join(
            f"{TASK_WORDS[r['task']]} {percent(r['suffix_exact_match']['mean'])} % against "
            f"{percent(r['front_exact_match']['mean'])} % ({r['front']}), {r['verdict']}; first "
            f"output, read at the last slot, {percent(r['suffix_first_output']['mean'])} % "
            f"against {percent(r['front_first_output']['mean'])} %"
            for r in own
        )
        layers = f"{depth} layer{'' if depth == 1 else 's'}"
        found.append(f"Soft suffix of {own[0]['n_slots']} slots on new tasks, {layers}: {words}.")
    return found


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
            f"One token, {row['depth']} layer{'' if row['depth'] == 1 else 's'}: "
            f"{hard['distinct']:.1f} different continuations from {hard['tried']:.0f} hard tokens, "
            f"{searched['distinct']:.1f} from {searched['tried']:.0f} searched soft ones; half of "
            f"the random targets are emitted up to {row['half_mean']:.1f} tokens (mean over seeds)."
        )
    return found
