"""Table 2 over seeds: the matrix of skills and prefixes, and the outcome of the starts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.tables import markdown, mean_and_sd
from analyses.summaries import spread
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS

METHODS = ("pretrained", "prefix", "random prefix", "norm-matched prefix")
METRICS = ("exact_match", "token_accuracy", "loss")
FOUND = 0.5  # a start that gets fewer sequences right than this has missed its skill

# The paper's numbers in percent: mean and standard deviation. Rows: the model alone, then the
# prefix for each skill; columns: the skills in the same order.
PAPER = {
    None: ((25, 13), (25, 12), (24, 11), (22, 7)),
    "sort_ascending": ((95, 2), (0, 0), (0, 0), (0, 0)),
    "sort_descending": ((0, 0), (90, 3), (1, 1), (1, 1)),
    "add_one": ((0, 0), (1, 3), (95, 6), (0, 1)),
    "add_two": ((0, 0), (0, 0), (1, 2), (98, 5)),
}

Row = dict[str, Any]


def tables(result: Result) -> dict[str, list[Row]]:
    """Return ``rows`` (see `table2_rows`), ``diagonal`` and ``restarts``."""
    rows = table2_rows(result)
    return {
        "rows": rows,
        "diagonal": diagonal_rows(rows),
        "restarts": restart_rows(result),
    }


def table2_rows(result: Result) -> list[Row]:
    """Return the rows of Table 2: each model, prefix or control, summarised over seeds.

    A prefix counts at the start and learning rate with the lowest training loss of its trial.
    Keys: ``method``, ``parameterization``, ``init_std``, ``tuned_on``, ``baseline``,
    ``n_seeds``, ``paper`` (percent, mean and sd, by task; None where the paper has no such row)
    and, by task, ``exact_match``, ``token_accuracy`` and ``loss``, each as `spread` returns it.

    Args:
        result: of this study.
    """
    rows = []
    for method, kind, std, tuned_on in _variants(result):
        own = [r for r in result.rows() if _variant(r) == (method, kind, std, tuned_on)]
        own = [r for r in own if r["chosen"]]
        # The paper's prefix is residual; its numbers stand beside every start.
        published = method in ("pretrained", "prefix") and kind in (None, "residual")
        paper = dict(zip(FOUR_SKILLS, PAPER[tuned_on], strict=True)) if published else None
        row: Row = {
            "method": method, "parameterization": kind, "init_std": std, "tuned_on": tuned_on,
            "baseline": own[0]["baseline"], "n_seeds": len({r["seed"] for r in own}),
            "paper": paper,
        }  # fmt: skip
        for task in FOUR_SKILLS:
            of_task = [r for r in own if r["task"] == task]
            row[task] = {metric: spread(of_task, metric) for metric in METRICS}
        rows.append(row)
    return rows


def diagonal_rows(rows: Sequence[Row]) -> list[Row]:
    """Return, per kind of prefix, its means on and off the diagonal of the matrix.

    Keys: ``method``, ``parameterization``, ``init_std``, ``own`` (mean exact match on the task
    it was tuned on, by task), ``other`` (largest mean exact match on any other task).

    Args:
        rows: from `table2_rows`.
    """
    found = []
    kinds = dict.fromkeys((r["method"], r["parameterization"], r["init_std"]) for r in rows)
    for method, kind, std in kinds:
        own = [
            r for r in rows
            if (r["method"], r["parameterization"], r["init_std"]) == (method, kind, std)
        ]  # fmt: skip
        if own[0]["tuned_on"] is None:
            continue
        off = [
            r[task]["exact_match"]["mean"]
            for r in own for task in FOUR_SKILLS if task != r["tuned_on"]
        ]  # fmt: skip
        found.append(
            {
                "method": method, "parameterization": kind, "init_std": std,
                "own": {r["tuned_on"]: r[r["tuned_on"]]["exact_match"]["mean"] for r in own},
                "other": max(off),
            }
        )  # fmt: skip
    return found


def restart_rows(result: Result) -> list[Row]:
    """Return how many starts found their skill, by kind of prefix and task.

    Keys: ``parameterization``, ``init_std``, ``tuned_on``, ``runs`` (starts times learning
    rates, over all seeds), ``found`` (those with at least half of the test sequences right),
    ``seeds``, ``seeds_found`` (seeds whose chosen run is one of them), ``exact_match`` (median
    over all runs) and ``train_loss`` (median).

    Args:
        result: of this study.
    """
    rows = []
    for method, kind, std, tuned_on in _variants(result):
        if method != "prefix":
            continue
        own = [
            r for r in result.rows()
            if _variant(r) == (method, kind, std, tuned_on) and r["task"] == tuned_on
        ]  # fmt: skip
        scores = [r["evaluation"]["exact_match"]["value"] for r in own]
        chosen = [x for r, x in zip(own, scores, strict=True) if r["chosen"]]
        rows.append(
            {
                "parameterization": kind, "init_std": std, "tuned_on": tuned_on,
                "runs": len(own), "found": sum(x >= FOUND for x in scores),
                "seeds": len(chosen), "seeds_found": sum(x >= FOUND for x in chosen),
                "exact_match": statistics.median(scores),
                "train_loss": statistics.median(r["train_loss"] for r in own),
            }
        )  # fmt: skip
    return rows


_Variant = tuple[str, str | None, float | None, str | None]


def _variant(record: Mapping[str, Any]) -> _Variant:
    return tuple(record[k] for k in ("method", "parameterization", "init_std", "tuned_on"))  # type: ignore[return-value]


def _variants(result: Result) -> list[_Variant]:
    """Return the existing variants, in the order of the table."""

    def order(variant: _Variant) -> tuple[int, bool, float, int]:
        method, kind, std, task = variant
        place = -1 if task is None else FOUR_SKILLS.index(task)
        return METHODS.index(method), kind == "kv", std or 0.0, place

    return sorted({_variant(r) for r in result.rows()}, key=order)


def findings_block(evidence: Evidence) -> str:
    """Return Table 2 in Markdown: ours, the paper's number in brackets, without controls.

    Args:
        evidence: results of this study.
    """
    lines = [["", *(task.replace("_", " ") for task in FOUR_SKILLS)]]
    for row in evidence.tables("table2")["rows"]:
        if row["method"] not in ("pretrained", "prefix") or row["init_std"] == 1.0:
            continue
        name = row["method"]
        if row["tuned_on"]:
            name = f"{row['parameterization']} prefix, {row['tuned_on'].replace('_', ' ')}"
        cells = []
        for task in FOUR_SKILLS:
            paper = row["paper"] and row["paper"][task]
            printed = f" ({paper[0]} ± {paper[1]})" if paper else ""
            cells.append(mean_and_sd(row[task]["exact_match"]) + printed)
        lines.append([name, *cells])
    return markdown(lines)
