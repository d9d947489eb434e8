"""The claims of the report about learning, from the measured Table 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analyses.claims.claim import claim_record
from analyses.study import Tables
from analyses.table1.measure import NEW
from prefix_interp.estimates import wilson
from prefix_interp.tuning.content_blind import content_blind_hits
from prefix_interp.words import counted


def accuracy_claims(table1: Tables) -> Iterator[dict[str, Any]]:
    """Yield the claim that no prefix learns to sort descending, for each variant of Table 1.

    Args:
        table1: the summaries of Table 1's result.
    """
    sweep = table1["sweep"]
    for row in table1["rows"]:
        if row["method"] != "prefix":
            continue
        kind, n = row["parameterization"], row["n_slots"]
        own = [r for r in sweep if (r["parameterization"], r["n_slots"]) == (kind, n)]
        best = max(own, key=lambda r: r["exact_match"]["max"])
        exact, top = row[NEW]["exact_match"], best["exact_match"]["max"]
        about = {
            "subject": f"{kind}, {counted(n, 'slot')}, {counted(row['n_seeds'], 'seed')}",
            "parameterization": kind,
            "n_slots": n,
            "level": "model",
            "layer": None,
            "baseline": "none: with the prefix",
        }
        words = "No prefix learns to sort descending."
        scope = "The paper prints 0 ± 0 % for this variant." if row["paper"] else (
            "The paper prints no number for this variant."
        )  # fmt: skip
        yield claim_record(
            about, "no-prefix-learns", words, "exact match = 0",
            "mean exact match over seeds, learning rate of lowest training loss", exact["mean"],
            "at most", 0.0, low=exact["low"], high=exact["high"], note=f"{scope}{_finding(top)}",
        )  # fmt: skip
        yield claim_record(
            about, "no-prefix-learns-any-lr", words, "exact match = 0",
            "largest exact match of any seed at any learning rate", top, "at most", 0.0,
            note=f"Reached at a learning rate of {best['lr']:g}." if top > 0 else
            f"{counted(len(own), 'learning rate')}.",
        )  # fmt: skip


def control_claims(seed: int, n_count: int) -> Iterator[dict[str, Any]]:
    """Yield the scores of a rule that cannot see the content (one record per metric).

    Args:
        seed: chooses the sequences.
        n_count: number of training sequences to estimate the rule from.
    """
    hits = content_blind_hits(NEW, seed=seed, n_count=n_count)
    about = {
        "subject": "best content-blind rule",
        "parameterization": None,
        "n_slots": None,
        "level": "model",
        "layer": None,
        "baseline": "none: no model",
    }
    words = "A control: how far sorting descending goes without looking at the content."
    scores = {"exact match": hits.all(dim=-1), "token accuracy": hits.double().mean(dim=-1)}
    for metric, values in scores.items():
        score = wilson(float(values.double().sum()), len(values))
        yield claim_record(
            about, "no-content", words, "output = f(index, token before)",
            f"{metric} of the best table from an output's index and the token before it",
            score.value, low=score.low, high=score.high,
            note="95% Wilson interval over 3,200 sequences. A prefix that takes all attention at "
            "every output can do no better.",
        )  # fmt: skip


def _finding(top: float) -> str:
    if top == 0:
        return ""
    return (
        " Finding: some sequences are sorted descending although equation 6 holds exactly, so a "
        "fixed relative attention alone does not rule out a new task."
    )
