"""What the report found, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.claims.claim import FAILS, HOLDS
from analyses.report.evidence import Evidence
from analyses.report.tables import percent
from analyses.table1.measure import NEW, OLD
from prefix_interp.views.style import variant_label
from prefix_interp.words import counted

Record = Mapping[str, Any]


def headlines(evidence: Evidence) -> list[str]:
    """Return the findings, including those against the paper, in one or two sentences each.

    Args:
        evidence: contains the claims, and the result of Table 1 under each preset if it exists.
    """
    claims = evidence.tables("claims")["claims"]
    theory = [r for r in claims if not r["claim"].startswith("no-prefix")]
    found = [*_theory(theory), *_fine_tuning(theory)]
    if evidence.result("table1") is None:
        found.append("Accuracies are missing: the fast result of Table 1 is not committed.")
    else:
        found += _learning(claims, evidence.tables("table1")["rows"])
    for preset, name in (("fast", "fast protocol"), ("paper", "the paper's protocol")):
        if evidence.result("table1", preset) is not None:
            found.append(_protocol(name, evidence.tables("table1", preset)["rows"]))
    return found


def _theory(records: Sequence[Record]) -> list[str]:
    judged = [r for r in records if r["tolerance"] is not None]
    failed = [r for r in judged if r["verdict"] == FAILS]
    held = sum(r["verdict"] == HOLDS for r in judged)
    count = f"{held} of {len(judged)} measurements of the theory hold on the trained models"
    if not failed:
        return [
            f"{count}: with a prefix, a head's attention to the content keeps its proportions, "
            "and its output is the scaled pretrained output plus a bias of low rank."
        ]
    return [f"{count}.", *(f"Does not hold: {r['statement']} ({r['subject']})" for r in failed)]


def _fine_tuning(records: Sequence[Record]) -> list[str]:
    moved = [r["value"] for r in records if r["claim"] == "fine-tuning-attention"]
    still = [r["value"] for r in records if r["claim"] == "relative-attention"]
    if not moved or not still:
        return []
    return [
        f"Full fine-tuning moves relative attention by {moved[0]:.2f} (mean total variation "
        "distance to the pretrained pattern, layer 0, positions that predict outputs); the "
        f"prefixes move it by at most {max(still):.0e}."
    ]


def _learning(claims: Sequence[Record], table1: Sequence[Record]) -> list[str]:
    tops = [r for r in claims if r["claim"] == "no-prefix-learns-any-lr"]
    means = {r["subject"]: r for r in claims if r["claim"] == "no-prefix-learns"}
    rows = {(r["parameterization"], r["n_slots"]): r for r in table1 if r["method"] == "prefix"}
    found = []
    for top in tops:
        if top["verdict"] == HOLDS:
            continue
        mean = means[top["subject"]]
        tokens = rows[top["parameterization"], top["n_slots"]][NEW]["token_accuracy"]["mean"]
        found.append(
            f"Finding against the claim that no prefix learns a new pattern: {top['subject']}, "
            f"exact match {percent(mean['value'])} % on sorting descending (mean, 95% interval "
            f"{percent(mean['low'])} to {percent(mean['high'])} %), token accuracy "
            f"{percent(tokens)} %; the best seed and learning rate reach "
            f"{percent(top['value'])} %. Equation 6 holds exactly for this kind of prefix too: "
            "unchanged relative attention alone does not keep a prefix from a new task."
        )
    blind = [r for r in claims if r["claim"] == "no-content"]
    if found and blind:
        exact, tokens = (percent(r["value"]) for r in blind)
        found.append(
            f"A control: the best rule that sees an output's index and the token before it, and "
            f"nothing of the content, gets {exact} % of sequences and {tokens} % of tokens."
        )
    zero = [r for r in tops if r["verdict"] == HOLDS]
    if zero:
        kinds = "; ".join(variant_label(r["parameterization"], r["n_slots"]) for r in zero)
        most = max(means[r["subject"]]["high"] for r in zero)
        found.append(
            "Not one test sequence is sorted descending, at any seed or learning rate, with these "
            f"prefixes: {kinds}. The test set leaves open up to {percent(most)} %. The paper "
            "prints 0 ± 0 % for residual, 1 slot."
        )
    return found


def _protocol(name: str, table1: Sequence[Record]) -> str:
    parts = []
    for row in table1:
        if row["paper"] is None:
            continue
        old, new = (percent(row[task]["exact_match"]["mean"]) for task in (OLD, NEW))
        kind = f" ({variant_label('residual', 1)})" if row["method"] == "prefix" else ""
        printed = " and ".join(str(row["paper"][task][0]) for task in (OLD, NEW))
        parts.append(f"{row['method']}{kind} {old} and {new} % (the paper: {printed})")
    seeds = counted(table1[0]["n_seeds"], "seed")
    return f"Table 1, {name}, {seeds}, exact match on ascending and descending: {'; '.join(parts)}."
