"""The report's section on the heads of a real language model under prefixes."""

from __future__ import annotations

from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words
from analyses.report.tables import Column, decimals, percent, power, rows_table
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
        folded=[
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
            Words("By layer", "The same, by layer from 0.",
                  rows_table(tables["layers"], [
                      Column("Prefix", "prefix", _KINDS.__getitem__), Column("Layer", "layer"),
                      Column("Eq. 6", "eq6", power), Column("Eq. 7", "eq7", power),
                      Column("On slots (%)", "gate", percent),
                      Column("First token, without (%)", "sink_off", percent),
                      Column("with (%)", "sink_on", percent),
                      Column("Moved", "moved", decimals(3))])),
        ],
        numbers=tables,
    )  # fmt: skip
