"""The report's section on sentiment by prefixes in a real language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words
from analyses.report.tables import Column, decimals, mean_of, mean_share, rows_table
from prefix_interp.words import counted

_METHODS = {"zero-shot": "nothing", "few-shot": "solved examples", "instruction": "instruction",
            "lora": "LoRA", "prefix": "prefix"}  # fmt: skip


def section(evidence: Evidence) -> Section:
    """Return how well prefixes and LoRA of the same size tell positive from negative sentences.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("sentiment"), evidence.tables("sentiment")
    assert result is not None
    protocol, scores = result.settings["protocol"], tables["scores"]
    bare = next(row for row in scores if row["method"] == "zero-shot")
    best = {method: _best(scores, method) for method in ("prefix", "lora")}
    shots = protocol["n_shots"]
    return Section(
        "sentiment", "Sentiment",
        f"A prefix tells {mean_share(best['prefix']['choice'])} % of test sentences right, LoRA "
        f"{mean_share(best['lora']['choice'])} %, the prompt alone {mean_share(bare['choice'])} %",
        "reaches",
        f"{result.settings['model']} on sentences of movie reviews, "
        f"{counted(protocol['steps'], 'step')} of {protocol['batch_size']} sentences, "
        f"{counted(len(result.seeds), 'seed')}; the best size, start and parameterization "
        "of each. The rate is chosen on sentences of neither split.",
        folded=[
            Words("Every method", f"Share of {protocol['n_test']} test sentences whose right "
                  f"answer beats the other, mean with 95% interval over seeds and sentences. "
                  f"Examples: {shots} of them.",
                  rows_table([{**row, "how": _how(row)} for row in scores], [
                      Column("Context", "how"), Column("Parameters", "n_parameters", decimals(0)),
                      Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2))])),
            Words("Every rate", "On validation sentences.",
                  rows_table([{**row, "how": _how(row)} for row in tables["fits"]], [
                      Column("Context", "how"), Column("Rate", "lr", str),
                      Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2)),
                      Column("Training loss (nats)", "train_loss", mean_of(2))])),
            Words("Before tuning", "Every start on the same sentences: what a prefix costs that "
                  "was not tuned.",
                  rows_table([{**row, "how": _how(row)} for row in tables["untuned"]], [
                      Column("Context", "how"), Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2))])),
            Words("Heads", "Effect of each head's prefixed output in the plain run on the logit "
                  "difference of the two answers; the largest of random prefixes with the same "
                  "norms beside it.",
                  rows_table(tables["heads"], [
                      Column("Seed", "seed"), Column("Layer", "layer"), Column("Head", "head"),
                      Column("Effect", "effect", decimals(3)),
                      Column("Of controls at this head", "control", decimals(3)),
                      Column("Of controls at any head", "largest_control", decimals(3))])),
        ],
        numbers=tables,
    )  # fmt: skip


def _best(scores: Any, method: str) -> Mapping[str, Any]:
    own = [row for row in scores if row["method"] == method]
    return max(own, key=lambda row: row["choice"]["mean"])


def _how(row: Mapping[str, Any]) -> str:
    """Return what stood in front of a sentence, or was added to the weights, in words."""
    if row["method"] == "lora":
        layers = counted(row["layers"], "layer")
        return f"LoRA of rank {row['rank']} in {layers}"
    if row["method"] == "prefix":
        slots = counted(row["n_slots"], "slot")
        return f"prefix, {row['parameterization']}, {slots}, {row['start']} start"
    return _METHODS[row["method"]]
