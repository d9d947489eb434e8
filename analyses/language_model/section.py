"""The section on one token of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from analyses.panels import panels
from analyses.report.evidence import Evidence, numbers
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Column, decimals, percent, rows_table, whole
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]

_KINDS = {"hard": "hard tokens, all", "hard, as many": "hard tokens, as many",
          "random": "random soft tokens", "searched": "searched soft tokens"}  # fmt: skip


def section(evidence: Evidence) -> Section:
    """Return how many continuations one token calls up in a language model.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("language-model"), evidence.tables("language-model")
    assert result is not None
    settings, protocol = result.settings, result.settings["protocol"]
    found = {row["kind"]: row for row in tables["distinct"]}
    few, searched = found["hard, as many"], found["searched"]
    reached = [r for r in tables["lengths"] if r["reached"]]
    longest = max((r["length"] for r in reached), default=0)
    return Section(
        "language-model", "One token of a language model",
        f"In a language model, too, {searched['distinct']:.0f} of {searched['tried']} soft tokens "
        f"call up different continuations, and none names more than {longest} random tokens",
        "reaches",
        f"As many hard tokens call up {decimals(1)(few['distinct'])} on average. A longer search "
        "may reach more: all counts are lower bounds.",
        picture(
            "model-token",
            model_figure(tables),
            "Left: share of tokens that call up a continuation of their own, by kind. Right: share "
            "of random targets emitted, falling to 0 with their length.",
            f"{settings['model']}, {settings['d_vocab']:,} tokens; one token and no other context, "
            f"greedy decoding, continuations of {counted(protocol['n_out'], 'token')}.",
        ),
        [
            Words("Different continuations", "As many: mean over random subsets of the size of "
                  "the searched set; random: normal vectors with the embeddings' spread; "
                  f"searched: one per uniform random target, {counted(protocol['steps'], 'step')}.",
                  rows_table(tables["distinct"], [
                      Column("Tokens", "kind", _KINDS.__getitem__), Column("Tried", "tried", whole),
                      Column("Different", "distinct", decimals(1)),
                      Column("Share (%)", "share", percent)])),
            Words("By length", "Random targets that a searched soft token emits exactly, and the "
                  "share of their tokens that are right in their place.",
                  rows_table(tables["lengths"], [
                      Column("Length", "length"), Column("Tried", "tried"),
                      Column("Emitted", "reached"), Column("Tokens right (%)", "tokens_right",
                                                           percent),
                      Column("Loss (nats)", "loss", decimals(2))])),
        ],
        numbers(tables),
    )  # fmt: skip


def model_figure(
    tables: Mapping[str, Rows], *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the share of different continuations by kind of token, and of targets by length.

    Args:
        tables: of this study.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    kinds = [row for row in tables["distinct"] if row["kind"] in _KINDS]
    lengths = tables["lengths"]
    with sheet(figsize, width) as room:
        found = panels(room, 2, size=(4.3, 2.7), beside=(0.0, 0.0), each=2.4, sharey=False)
        left, right = found.axes
        shares = [100 * row["share"] for row in kinds]
        left.barh(range(len(kinds)), shares, 0.6, color=COLOURS[0])
        for i, (row, value) in enumerate(zip(kinds, shares, strict=True)):
            words = f" {row['distinct']:,.0f} of {row['tried']:,}"
            inside = value > 60
            left.text(
                value, i, f"{words} ", va="center", fontsize="small",
                ha="right" if inside else "left", color="white" if inside else "black",
            )  # fmt: skip
        left.set_yticks(range(len(kinds)), [_KINDS[row["kind"]] for row in kinds])
        left.invert_yaxis()
        left.set(xlim=(0, 100), xlabel="different continuations (%)")
        left.grid(visible=False, axis="y")
        emitted = [100 * row["reached"] / row["tried"] for row in lengths]
        right.plot([row["length"] for row in lengths], emitted, "o-", color=COLOURS[0])
        right.set_xticks([row["length"] for row in lengths])
        right.set(ylim=(-4, 104), xlabel="length of the random target (tokens)",
                  ylabel="targets emitted (%)")  # fmt: skip
    return found.figure
