"""The README's one table: claim, what the paper prints, what was measured here, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.claims.claim import FAILS, HOLDS
from analyses.report.evidence import Evidence
from analyses.report.tables import markdown, mean_and_sd
from analyses.table1.measure import NEW

Row = Mapping[str, Any]


def claims_table(evidence: Evidence) -> str:
    """Return the table in Markdown; each claim links to its discussion.

    Args:
        evidence: results of the studies.
    """
    claims = evidence.tables("claims")["claims"]
    lines = [
        ["claim", "the paper", "here", "verdict"],
        _theorem(claims, "relative-attention", "a prefix leaves relative attention as it is",
                 "docs/theory.md", "largest change"),
        _theorem(claims, "bias-rank", "its bias has at most as many directions as slots",
                 "docs/theory.md#the-level-of-a-rank", "beyond them, relative"),
        _sorting(evidence, "residual", 1, "one vector cannot teach sorting the other way"),
        _sorting(evidence, "kv", 10, "nor can ten free keys and values"),
        *_skills(evidence),
        _sequences(evidence),
        _circuits(evidence),
    ]  # fmt: skip
    return markdown(lines)


def _link(words: str, page: str) -> str:
    return f"[{words}]({page})"


def _theorem(claims: Sequence[Row], claim: str, words: str, page: str, what: str) -> list[str]:
    own = [row for row in claims if row["claim"] == claim]
    # Rounded up to a power of ten, which does not depend on the processor.
    bound = math.ceil(math.log10(max(row["value"] for row in own)))
    verdict = HOLDS if all(row["verdict"] == HOLDS for row in own) else FAILS
    return [_link(words, page), "proved", f"{what} under 1e{bound}", verdict]


def _sorting(evidence: Evidence, kind: str, n_slots: int, words: str) -> list[str]:
    rows = evidence.tables("table1")["rows"]
    row = next(
        row for row in rows
        if (row["method"], row["parameterization"], row["n_slots"]) == ("prefix", kind, n_slots)
    )  # fmt: skip
    score, paper = row[NEW]["exact_match"], row["paper"] and row["paper"][NEW]
    return [
        _link(words, "docs/findings.md#table-1-sorting-the-other-way"),
        f"{paper[0]} ± {paper[1]} % right" if paper else "not printed",
        f"{mean_and_sd(score)} % right",
        HOLDS if score["max"] == 0 else FAILS,
    ]


def _skills(evidence: Evidence) -> list[list[str]]:
    rows = [
        row for row in evidence.tables("table2")["rows"]
        if row["method"] == "prefix" and row["paper"] and row["init_std"] != 1.0
    ]  # fmt: skip
    tasks = [row["tuned_on"] for row in rows]
    page = "docs/findings.md#table-2-choosing-among-skills"

    def percents(own: bool) -> tuple[str, str, list[float]]:
        pairs = [(row, task) for row in rows for task in tasks if (row["tuned_on"] == task) is own]
        paper = [row["paper"][task][0] for row, task in pairs]
        here = [100 * row[task]["exact_match"]["mean"] for row, task in pairs]
        own_range = f"{min(here):.1f} to {max(here):.1f} % right"
        return f"{min(paper)} to {max(paper)} % right", own_range, here

    own_paper, own_here, own = percents(own=True)
    other_paper, other_here, other = percents(own=False)
    return [
        [_link("one vector chooses among pretrained skills", page), own_paper, own_here,
         HOLDS if min(own) > 90 else FAILS],
        [_link("and switches the others off", page), other_paper, other_here,
         HOLDS if max(other) < 5 else FAILS],
    ]  # fmt: skip


def _sequences(evidence: Evidence) -> list[str]:
    rows = [
        row for row in evidence.tables("constructions")["right"]
        if row["construction"].startswith("Theorem 1")
    ]  # fmt: skip
    right, checked = (sum(row[key] for row in rows) for key in ("right", "checked"))
    return [
        _link("one token can name any sequence", "docs/findings.md#what-one-token-can-say"),
        "proved", f"{right:,} of {checked:,} right", HOLDS if right == checked else FAILS,
    ]  # fmt: skip


def _circuits(evidence: Evidence) -> list[str]:
    rows = evidence.tables("heads")["circuit"]
    smallest, largest = min(r["smallest"] for r in rows), max(r["largest"] for r in rows)
    held_out = 100 * sum(row["held_out"] for row in rows) / len(rows)
    return [
        _link("a few nodes carry a skill", "docs/findings.md#table-2-choosing-among-skills"),
        "not asked",
        f"{smallest} to {largest} of {rows[0]['of']} nodes keep {held_out:.0f} %", "measured",
    ]  # fmt: skip
