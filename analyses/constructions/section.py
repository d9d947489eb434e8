"""The section on the theorems: one virtual token makes a special transformer say anything."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from analyses.constructions.trace import trace, trace_figure
from analyses.report.evidence import Evidence, numbers
from analyses.report.sections import Cell, Claim, Picture, Section, Words, picture
from analyses.report.tables import Column, decimals, percent, rows_table, whole
from analyses.study import Tables
from prefix_interp.results import Result
from prefix_interp.theory.constructions import any_map_to_sequences, any_sequence

WRITTEN = torch.tensor([3, 1, 4, 1, 5, 9])  # a sequence to show Theorem 1 on


def section(evidence: Evidence) -> Section:
    """Return the constructions at work, their success and how sharp their bounds are.

    Args:
        evidence: with the result of the constructions.
    """
    tables = evidence.tables("constructions")
    right, checked = (sum(r[key] for r in tables["right"]) for key in ("right", "checked"))
    writer = any_sequence(n_tokens=10, length=len(WRITTEN))
    all_right = right == checked
    return Section(
        "constructions", "Theorems",
        "In a transformer made for it, one virtual token can say anything: "
        f"{right:,} of {checked:,} wanted outputs come out right",
        "reaches",
        "Section 3 of the paper proves it, and here its constructions run as models with hooks. "
        "The virtual token holds one number for each output; at each output the heads leave that "
        "number alone, and the unembedding names the token whose code is nearest.",
        picture(
            "theorem-1",
            trace_figure(writer, trace(writer, WRITTEN)),
            "Five panels: the virtual token's coordinates, heads that look at their own position "
            "and at the virtual token, the number read at each output, and the logits.",
            "Theorem 1 as a model, V = 10, N = 6, block 0: head self marks a coordinate, head "
            "first brings the virtual token, their sum less 1 leaves one number, and the "
            "unembedding names the code nearest to it (ringed). Rows in bold are read.",
        ),
        [_longer(), *_tables(tables)], numbers(tables),
        claims=[
            Claim("One virtual token can make a transformer emit any outputs, if it is made for it",
                  {"other": Cell(f"{right:,} of {checked:,}", all_right)}, "all")
        ],
    )  # fmt: skip


def _longer() -> Picture:
    """Return the construction for answers of several tokens at work."""
    answers = any_map_to_sequences(n_tokens=4, n_out=3)
    table = torch.tensor([[3, 1, 0], [0, 0, 2], [2, 1, 1], [1, 3, 2]])
    return picture(
        "longer-responses",
        trace_figure(answers, trace(answers, table, [2])),
        "Virtual tokens with a table of answers, the head that fetches one token at each "
        "position, the head that fetches the input, the numbers and the logits.",
        "Three answers to one input from three virtual tokens, V = 4: slot k holds the k-th "
        "answers to all inputs; at each output one head brings the slot, the other the input "
        "token, which picks a coordinate.",
    )


def _tables(tables: Tables) -> list[Words]:
    three = decimals(3)
    return [
        Words("What came out right", "Counted are rows of wanted outputs; a row is right only if "
              "every output is. Float64, temperature 5 above the smallest.", rows_table(
            tables["right"],
            [Column("Construction", "construction"), Column("V", "V", whole),
             Column("Outputs", "outputs", whole), Column("Virtual tokens", "virtual tokens", whole),
             Column("Layers", "layers", whole), Column("Behaviours", "behaviours", whole),
             Column("Inputs", "inputs", whole), Column("Right", "right", whole),
             Column("Checked", "checked", whole)])),
        Words("How sharp", "Share of random behaviours that come out right on every input at the "
              "smallest temperature plus an offset, and whether the hardest does.", rows_table(
            [r for r in tables["sharp"] if r["n_tokens"] <= 4],
            [Column("Construction", "construction"), Column("V", "n_tokens", whole),
             Column("Smallest temperature", "smallest_temperature", three),
             Column("Offset", "offset", "{:g}".format), Column("Right (%)", "exact", percent),
             Column("Hardest", "hardest", lambda good: "right" if good else "wrong")])),
        Words("Precision", "Codes that come out right, by dtype and decoder. Largest: the largest "
              "proved vocabulary.", rows_table(
            tables["precision"],
            [Column("Precision", "dtype"), Column("Decoder", "decoder"),
             Column("Largest", "largest", whole), Column("Codes", "n_tokens", whole),
             Column("Right", "right", whole), Column("Checked", "checked", whole)])),
    ]  # fmt: skip


def figures(result: Result) -> dict[str, Figure]:
    """Return what the command writes beside the result: Theorem 1 at work.

    Args:
        result: of this study; the picture is the same for all.
    """
    written = any_sequence(n_tokens=10, length=len(WRITTEN))
    return {"": trace_figure(written, trace(written, WRITTEN))}
