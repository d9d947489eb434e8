"""The report's section on what one vector makes a language model say."""

from __future__ import annotations

from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words
from analyses.report.tables import Column, decimals, percent, rows_table
from prefix_interp.words import counted

_KINDS = {"text": "movie reviews", "uniform": "uniform tokens"}


def section(evidence: Evidence) -> Section:
    """Return how many exact tokens one vector holds, and how many bits these are.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("cramming"), evidence.tables("cramming")
    assert result is not None
    size, kinds = result.settings["protocol"], {row["kind"]: row for row in tables["kinds"]}
    text, uniform = kinds["text"], kinds["uniform"]
    shown = {kind: counted(row["median"], "token") for kind, row in kinds.items()}
    return Section(
        "cramming", "Cramming",
        f"One vector makes the model emit {shown['text']} of a review, or {shown['uniform']} drawn "
        "at random, exactly (median)",
        "reaches",
        f"The longest of {text['tried']} reviews is {text['longest']}, of {uniform['tried']} "
        f"random targets {uniform['longest']}; the medians in bits are "
        f"{text['median_bits']:.0f} and {uniform['median_bits']:.0f}. "
        "A longer search may reach more: these are lower bounds.",
        folded=[
            Words("By kind", f"{result.settings['model']}; token by token, each from the vector "
                  f"found before, at most {counted(size['steps'], 'step')} a token, up to "
                  f"{counted(size['max_length'], 'token')}. Exact under greedy decoding. Bits: "
                  "surprisal in the bare model.",
                  rows_table(tables["kinds"], [
                      Column("Target", "kind", _KINDS.__getitem__), Column("Tried", "tried"),
                      Column("Shortest", "shortest"), Column("Median", "median"),
                      Column("Longest", "longest"),
                      Column("Median bits", "median_bits", decimals(0)),
                      Column("Most bits", "most_bits", decimals(0))])),
            Words("From noise", "The same without warm starts.",
                  rows_table(tables["from_noise"], [
                      Column("Target", "kind", _KINDS.__getitem__), Column("Length", "length"),
                      Column("Tried", "tried"), Column("Reached", "reached")])),
            Words("Attention", "Of the emitted tokens, to the vector in front and to an ordinary "
                  "token there, mean over heads.",
                  rows_table(tables["attention"], [
                      Column("Target", "kind", _KINDS.__getitem__), Column("Layer", "layer"),
                      Column("To the vector (%)", "crammed", percent),
                      Column("To an ordinary token (%)", "ordinary", percent)])),
        ],
        numbers=tables,
    )  # fmt: skip
