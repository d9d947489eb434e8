"""The section on the theorems: one virtual token makes a special transformer say anything."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure

from analyses.constructions.trace import trace, trace_figure
from analyses.report.evidence import Evidence, numbers
from analyses.report.sections import Interactive, Part, Section, Words, picture
from analyses.report.tables import frame_table
from prefix_interp.results import Result
from prefix_interp.theory.constructions import any_map_to_sequences, any_sequence
from prefix_interp.views.display import attention_div

WRITTEN = torch.tensor([3, 1, 4, 1, 5, 9])  # a sequence to show Theorem 1 on


def section(evidence: Evidence) -> Section:
    """Return the constructions at work, their success and how sharp their bounds are.

    Args:
        evidence: with the result of the constructions.
    """
    tables = evidence.tables("constructions")
    counts, sharp, precision = (
        pd.DataFrame(tables[part]) for part in ("right", "sharp", "precision")
    )
    parts = [
        *_at_work(),
        Words("What came out right", "Counted are rows of wanted outputs; a row is right only if "
              "every output is. Float64, temperature 5 above the smallest.",
              frame_table(counts, 6)),
        Words("How sharp", "Exact: the share of random behaviours that come out right on every "
              "input at the smallest temperature plus an offset. Hardest: whether the hardest "
              "behaviour comes out right.",
              frame_table(sharp, 6), folded=True),
        Words("Precision", "Codes that come out right, by dtype and decoder. "
              "Largest: the largest proved vocabulary.", frame_table(precision, 6), folded=True),
    ]  # fmt: skip
    return Section(
        "constructions", "Theorems", "One virtual token can say anything",
        "This holds in a transformer made for it: section 3 of the paper, as models with hooks "
        "and figures.",
        parts, numbers(tables), _findings(counts),
    )  # fmt: skip


def _at_work() -> list[Part]:
    """Return two constructions with their inner steps."""
    writer = any_sequence(n_tokens=10, length=len(WRITTEN))
    steps = trace(writer, WRITTEN)
    answers = any_map_to_sequences(n_tokens=4, n_out=3)
    table = torch.tensor([[3, 1, 0], [0, 0, 2], [2, 1, 1], [1, 3, 2]])
    longer = trace(answers, table, [2])
    return [
        picture(
            "theorem-1",
            trace_figure(writer, steps),
            "Five panels: the virtual token's coordinates, heads that look at their own position "
            "and at the virtual token, the number read at each output, and the logits.",
            "Theorem 1 as a model with hooks, V = 10, N = 6, block 0: head self marks a "
            "coordinate, head first brings the virtual token, their sum less 1 leaves one number, "
            "and the unembedding names the code nearest to it (ringed). Rows in bold are read; "
            "output 0 is read at the virtual token itself.",
            steps.to_dataframe(),
        ),
        Interactive(
            attention_div(steps.view, "theorem-1-attention"),
            "Theorem 1: attention, to explore",
            "Both heads of block 0; rows are queries, columns keys, s1 is the virtual token.",
            frame_table(steps.view.to_dataframe(), 2),
        ),
        picture(
            "longer-responses",
            trace_figure(answers, longer),
            "Virtual tokens with a table of answers, the head that fetches one token at each "
            "position, the head that fetches the input, the numbers and the logits.",
            "Three answers to one input from three virtual tokens, V = 4: slot k holds the k-th "
            "answers to all inputs; at each output one head brings the slot, the other the input "
            "token, which picks a coordinate.",
            longer.to_dataframe(),
        ),
    ]


def _findings(counts: pd.DataFrame) -> list[str]:
    words = [
        f"{name} {int(own['right'].sum()):,} of {int(own['checked'].sum()):,}"
        for name, own in counts.groupby("construction", sort=False)
    ]
    return [f"Constructions, rows right: {'; '.join(words)}."]


def figures(result: Result) -> dict[str, Figure]:
    """Return what the command writes beside the result: Theorem 1 at work.

    Args:
        result: of this study; the picture is the same for all.
    """
    written = any_sequence(n_tokens=10, length=len(WRITTEN))
    return {"": trace_figure(written, trace(written, WRITTEN))}
