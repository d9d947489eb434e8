"""The report's section on LoRA and prefixes of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.lora.figures import size_figure
from analyses.lora.methods import LORAS, PREFIXES
from analyses.lora.protocol import BLIND, NONE, PAPER, PAPER_SIZE
from analyses.lora.tables import METRICS, at_size
from analyses.report.evidence import Evidence
from analyses.report.sections import (
    Cell,
    Claim,
    Section,
    Words,
    missing,
    picture,
    records,
    spread_frame,
)
from analyses.report.tables import (
    Column,
    decimals,
    markdown,
    mean_and_sd,
    mean_of,
    mean_share,
    percent,
    rows_table,
)
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return what LoRA and prefixes with as many parameters learn.

    Args:
        evidence: with the result of this study.
    """
    result, summary = evidence.result("lora"), evidence.tables("lora")
    assert result is not None
    rows = summary["methods"]
    size = max(row["budget"] or 0 for row in rows)
    lora, prefix = (_best(at_size(rows, names, size)) for names in (LORAS, PREFIXES))
    others = [r for r in rows if r["side"] == "edits" or r["method"] == "soft prompt"]
    other, full = _best([r for r in others if r["budget"] in (None, size)]), _full(rows)
    blind = next(row for row in rows if row["method"] == BLIND)
    alone = next(row for row in rows if row["method"] == NONE)
    runs = {row["side"]: row["runs"] for row in rows}
    return Section(
        "lora", "LoRA or a prefix",
        f"With {lora['n_parameters']:,} parameters LoRA gets {_exact(lora)} % of histograms "
        f"right, the best prefix with {prefix['n_parameters']:,} {_exact(prefix)} %",
        "cannot",
        f"The histogram is new to the model: alone it gets {_exact(alone)} %, the best rule that "
        f"sees no content {_exact(blind)} %, full fine-tuning {_exact(full)} %. Of what is neither "
        f"a prefix nor LoRA, {other['method']} is best with {_exact(other)} %.",
        picture(
            "lora-size", size_figure(rows),
            "Sequences and outputs right against the number of tuned parameters, one mark per "
            "method and size.",
            f"Whole model (one layer, four heads), mean over {counted(len(result.seeds), 'seed')} "
            "with 95% intervals; in each seed the rate and the number of steps with the lowest "
            f"training loss, of {runs['contexts']} trainings of each context and "
            f"{runs['weights']} of each LoRA. Head offsets have one size. No context: masked "
            "baseline.",
        ),
        [
            Words("Every method", "The paper, four layers and one run: "
                  f"{PAPER['LoRA']} % with LoRA, {PAPER['prefix']} % with a prefix, at "
                  f"{PAPER_SIZE:,} parameters; it gives LoRA a hundred times the rate. Its code "
                  "adapts the output matrix of attention beside the MLP, and clips the gradient of "
                  "each matrix on its own; ours has one layer and clips all together. Parameters "
                  "are counted from the tuned tensors.",
                  rows_table(rows, [
                      Column("Method", "method"), Column("Parameters", "n_parameters", _whole),
                      Column("Slots or rank", "units"), Column("Trainings", "runs"),
                      Column("Right (%)", "exact_match", mean_share),
                      Column("Outputs right (%)", "token_accuracy", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2)),
                      Column("Rates", "rates", _listed), Column("Steps", "lengths", _listed)])),
            Words("Every rate and length", "The chosen ones have the lowest training loss.",
                  rows_table(summary["sweep"], [
                      Column("Method", "method"), Column("Parameters", "n_parameters", _whole),
                      Column("Steps", "steps"), Column("Rate", "lr", decimals(3)),
                      Column("Training loss (nats)", "train_loss", mean_of(3)),
                      Column("Right (%)", "exact_match", mean_share)])),
        ],
        {"lora": records(spread_frame(rows, (*METRICS, "train_loss"))),
         "lora-sweep": records(spread_frame(summary["sweep"], (*METRICS, "train_loss")))},
        claims=[_claim(rows, size, lora)],
    )  # fmt: skip


_whole = decimals(0)
_ABOVE = 0.5  # of the sequences right: what a method must reach to have learned the task


def _best(rows: Rows) -> Mapping[str, Any]:
    return max(rows, key=lambda row: row["exact_match"]["mean"])


def _full(rows: Rows) -> Mapping[str, Any]:
    return _best([row for row in rows if row["side"] == "full"])


def _exact(row: Mapping[str, Any]) -> str:
    return percent(row["exact_match"]["mean"])


def _listed(values: Sequence[float | int]) -> str:
    return ", ".join(f"{x:g}" for x in values)


def _claim(rows: Rows, size: int, lora: Mapping[str, Any]) -> Claim:
    """Return how the claim fares for both kinds of prefix."""
    learned = lora["exact_match"]["mean"] >= _ABOVE
    cells = {}
    for row in at_size(rows, PREFIXES, size):
        kind = row["method"].removeprefix("prefix, ")
        own = row["exact_match"]["mean"] < _ABOVE
        cells[f"{kind}, {counted(row['units'], 'slot')}"] = Cell(
            f"{_exact(lora)} % against {_exact(row)} %", learned and own
        )
    return Claim(
        f"LoRA learns the histogram and a prefix of its size ({size:,} parameters) does not: "
        "exact match", cells, f"at least {100 * _ABOVE:.0f} %, and less",
    )  # fmt: skip


def findings(evidence: Evidence) -> str:
    """Return the comparison in Markdown; what to run where it was not made yet.

    Args:
        evidence: results of this study.
    """
    if evidence.result("lora") is None:
        return missing("lora")
    rows = evidence.tables("lora")["methods"]
    size = max(row["budget"] or 0 for row in rows)
    lines = [["", "parameters", "histograms right", "outputs right"]]
    for row in rows:
        if row["budget"] in (None, size):
            scores = [mean_and_sd(row[k]) for k in ("exact_match", "token_accuracy")]
            lines.append([row["method"], f"{row['n_parameters']:,}", *scores])
    return markdown(lines)
