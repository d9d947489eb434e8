"""The section on what no prefix of any length does in one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.reachability.figure import reachability_figure
from analyses.reachability.tables import BOUND, BUILT, label, score_of
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture, records, spread_frame
from analyses.report.tables import (
    Column,
    decimals,
    mean_of,
    mean_share,
    percent,
    rows_table,
)
from prefix_interp.words import counted


def section(evidence: Evidence) -> Section:
    """Return the bound on prefixes of any length, the weights above it, and the mechanism.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("reachability"), evidence.tables("reachability")
    assert result is not None
    size, n = result.settings["protocol"], len(result.seeds)
    scores = tables["scores"]
    exact = {
        method: percent(_mean(score_of(scores, method), "exact_match"))
        for method in (BOUND, "MLP alone", "attention alone", "fine-tuning")
    }
    longest = max(r["n_slots"] or 0 for r in scores)
    tuned = percent(_mean(score_of(scores, "kv prefix", longest), "exact_match"))
    (built,) = tables["construction"]
    r2 = [row["r2"]["mean"] for row in tables["read_out"]]
    return Section(
        "reachability", "Any length",
        f"No prefix of any length was found to sort more than {exact[BOUND]} % of sequences "
        f"descending in one layer; the MLP alone, retrained, sorts {exact['MLP alone']} %",
        "cannot",
        f"A tuned prefix of {counted(longest, 'slot')} sorts {tuned} %, new attention alone "
        f"{exact['attention alone']} %, all weights {exact['fine-tuning']} %. "
        f"{_tight(built, scores)}; its search is not convex, so it is the best found and no "
        "proof.",
        picture(
            "reachability-slots",
            reachability_figure(tables),
            "Left: exact match of kv prefixes rises with the number of slots to below the line of "
            "the best table. Right: right outputs by output, lowest at the first and the last.",
            f"Sort descending on the toy that sorts ascending, {counted(n, 'seed')}, "
            f"{counted(size['n_test'], 'test sequence')} each. Left: bands are 95% intervals over "
            "seeds; lines are the best table found (any length), the prefix that is built from "
            "it, and the model with some or all weights trained.",
        ),
        [
            Words("Scores", "Means with 95% intervals. A restricted table's mean value may differ "
                  "by position alone, not at all (shared), or is 0 (the gate alone acts). Frozen: "
                  "the gate, or the content's own output, held at its mean over each token and "
                  "position.",
                  rows_table([{**row, "name": label(row)} for row in scores], [
                      Column("Method", "name"),
                      Column("Sequences (%)", "exact_match", mean_share),
                      Column("Outputs (%)", "token_accuracy", mean_share),
                      Column("Loss (nats)", "loss", mean_of(3))])),
            Words("The search", f"Free tables of log mass and mean value: {size['steps']} steps "
                  f"of AdamW at rate {size['lr']:g}, batches of {size['batch_size']}, from each "
                  "start. Each token and position takes the best, and at most "
                  f"{size['polish']} iterations of L-BFGS on {size['n_select']} sequences follow "
                  "(polished). Losses are on other sequences.",
                  rows_table(tables["starts"], [
                      Column("Start", "start"), Column("Loss (nats)", "loss", mean_of(3))])),
            Words("Digit counts in the head's own output", "R² of a linear map on test sequences, "
                  "without a prefix, mean over digits.",
                  rows_table(tables["read_out"], [
                      Column("Output", "output"), Column("R²", "r2", mean_of(3)),
                      Column("Worst digit", "r2_min", mean_of(3))])),
            Words("What is left of the way to trained heads", "Share of the squared distance that "
                  "the best gate and bias of rank n found do not cover. In front, the floor under "
                  "it for every prefix, certified.",
                  rows_table([*({**row, "n_slots": "any"} for row in tables["floor"]),
                              *tables["distance"]], [
                      Column("Head of", "method"), Column("Slots", "n_slots"),
                      Column("Left (%)", "share", mean_share)])),
            Words("The prefix that is built", f"From {min(r2):.2f} to {max(r2):.2f} is the R² "
                  "above. One slot for each token and position; largest errors over seeds.",
                  rows_table([built], [
                      Column("Seeds", "seeds"), Column("Built", "built"),
                      Column("Slots", "n_slots"),
                      Column("Queries alone on an edge (%)", "alone", percent),
                      Column("Log mass", "mass_error", decimals(5)),
                      Column("Mean value", "value_error", decimals(5))])),
        ],
        {"scores": records(spread_frame(scores, ("exact_match", "token_accuracy", "loss"))),
         "outputs": records(spread_frame(tables["outputs"], ("share",))),
         "search": records(spread_frame(tables["search"], ("loss",))),
         "starts": records(spread_frame(tables["starts"], ("loss",))),
         "construction": tables["construction"],
         "read_out": records(spread_frame(tables["read_out"], ("r2", "r2_min"))),
         "distance": records(spread_frame(tables["distance"], ("share",))),
         "floor": records(spread_frame(tables["floor"], ("share",)))},
    )  # fmt: skip


def _mean(row: Mapping[str, Any] | None, metric: str) -> float:
    return 0.0 if row is None else row[metric]["mean"]


def _tight(built: Mapping[str, Any], scores: Any) -> str:
    """Return how near the prefix that is built from the best table comes to it."""
    made = f"{built['built']} of {counted(built['seeds'], 'seed')}"
    reached = score_of(scores, BUILT)
    if reached is None:
        return f"A prefix could be {BUILT} for {made}"
    return (
        f"A prefix {BUILT}, of {built['n_slots']} slots, could be made for {made} and sorts "
        f"{percent(_mean(reached, 'exact_match'))} %"
    )
