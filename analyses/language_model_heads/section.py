"""The report's section on the heads of a real language model under prefixes."""

from __future__ import annotations

from matplotlib.figure import Figure

from analyses.panels import panels
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Column, decimals, percent, power, rows_table
from analyses.study import Tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, legend_below
from prefix_interp.words import counted

_KINDS = {"random": "random", "zero": "zero", "text": "of an instruction", "tuned": "tuned"}


def section(evidence: Evidence) -> Section:
    """Return how exact eq. 6 and 7 are in a language model, and what prefixes do to attention.

    Args:
        evidence: with the result of this study.
    """
    name = "language-model-heads"
    result, tables = evidence.result(name), evidence.tables(name)
    assert result is not None
    size, rows = result.settings["protocol"], tables["prefixes"]
    n_heads = len({(r["layer"], r["head"]) for r in result.rows("heads")})
    worst = max(max(row["eq6"], row["eq7"]) for row in rows)
    last = rows[-1]
    return Section(
        name, "Heads of a language model",
        f"In all {counted(n_heads, 'head')} of {result.settings['model']} eq. 6 and 7 hold to "
        f"{power(worst)}",
        "does",
        f"{size['n_sentences']} sentences, {counted(size['n_slots'], 'slot')}. The "
        f"{_KINDS[last['prefix']]} prefix takes "
        f"{percent(last['gate'])} % of attention, and {percent(last['sink_off'])} % on the first "
        f"token become {percent(last['sink_on'])} %.",
        picture(
            "language-model-layers",
            layers_figure(tables),
            "By layer: the attention that slots take, that on the first token with and without "
            "the prefix, and how far relative attention moves, for each prefix.",
            "Means over heads, sentences and positions. Dashed: without a prefix. Moved: total "
            "variation of relative attention from the run without the prefix; 0 in the first "
            "layer. Baseline: masked.",
        ),
        [
            
            Words("By prefix", "Eq. 6: largest violation. Eq. 7: relative to the largest output in "
                  "the layer. Moved: total variation of relative attention from the run without "
                  "the prefix. Range over slots: the paper's appendix B, of all heads and of head "
                  "i in layer i alone, as its authors measured it.",
                  rows_table(rows, [
                      Column("Prefix", "prefix", _KINDS.__getitem__), Column("Eq. 6", "eq6", power),
                      Column("Eq. 7", "eq7", power), Column("On slots (%)", "gate", percent),
                      Column("First token, without (%)", "sink_off", percent),
                      Column("with (%)", "sink_on", percent),
                      Column("Moved, first layer", "moved_first", power),
                      Column("deeper", "moved_deeper", decimals(3)),
                      Column("Range, all heads", "range_all", decimals(3)),
                      Column("head i of layer i", "range_diagonal", decimals(3))])),
        ],
        numbers=tables,
    )  # fmt: skip


def layers_figure(
    tables: Tables, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the mass on the slots, the sink and the moved attention by layer, a line per prefix.

    Args:
        tables: of this study.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    rows = tables["layers"]
    titles = {"gate": "on the slots", "sink_on": "on the first token", "moved": "moved"}
    with sheet(figsize, width) as room:
        found = panels(room, 3, size=(3.0, 2.6), beside=(0.3, 0.6), each=2.0, sharey=False)
        for ax, (key, title) in zip(found.axes, titles.items(), strict=True):
            for i, kind in enumerate(dict.fromkeys(row["prefix"] for row in rows)):
                own = [row for row in rows if row["prefix"] == kind]
                layers = [row["layer"] for row in own]
                ax.plot(layers, [row[key] for row in own], color=COLOURS[i], label=_KINDS[kind])
                if key == "sink_on" and i == 0:
                    off = [row["sink_off"] for row in own]
                    ax.plot(layers, off, "--", color="black", label="without a prefix")
            ax.set(title=title, xlabel="layer", ylim=(-0.02, 1.02))
        for ax in found.left:
            ax.set_ylabel("share of attention")
        legend_below(found.figure, found.axes[1], 5)
    return found.figure
