"""The report's section on what one vector makes a language model say."""

from __future__ import annotations

from matplotlib.figure import Figure

from analyses.panels import panels
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Column, decimals, percent, rows_table
from analyses.study import Tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, legend_below
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
        picture(
            "cramming-length",
            cramming_figure(tables),
            "Left: the share of targets whose first tokens one vector calls up, by their number. "
            "Right: the attention of the emitted tokens to the vector in front, by layer, and to "
            "an ordinary token in its place.",
            "Exact under greedy decoding. Attention: mean over heads, tokens and targets.",
        ),
        [
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


def cramming_figure(
    tables: Tables, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the share of targets reached against their length, and attention to the vector.

    Args:
        tables: of this study.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    with sheet(figsize, width) as room:
        found = panels(room, 2, size=(3.6, 2.8), beside=(0.2, 0.6), each=2.4, sharey=False)
        left, right = found.axes
        for i, (kind, name) in enumerate(_KINDS.items()):
            own = [row for row in tables["stages"] if row["kind"] == kind]
            shares = [100.0, *(100 * row["reached"] / own[0]["tried"] for row in own)]
            at = [0, *(row["length"] for row in own)]
            left.step(at, shares, where="post", color=COLOURS[i], label=name)
            layers = [row for row in tables["attention"] if row["kind"] == kind]
            for key, style in (("crammed", "-"), ("ordinary", "--")):
                right.plot(
                    [row["layer"] for row in layers], [100 * row[key] for row in layers], style,
                    color=COLOURS[i], label=name if key == "crammed" else "ordinary token in front",
                )  # fmt: skip
        left.set(xlabel="first tokens", ylabel="targets reached (%)", ylim=(-3, 103))
        right.set(xlabel="layer", ylabel="attention (%)", ylim=(-3, 103))
        legend_below(found.figure, [left, right])
    return found.figure
