"""Table 3 over seeds: what prefixes of a deep model do, and the search for their rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.sections import missing
from analyses.report.tables import markdown, mean_and_sd
from analyses.summaries import spread
from analyses.table3.measure import COMBINED, NEW, TASKS
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tasks.words import task_words

METRICS = ("exact_match", "token_accuracy", "loss")
METHODS = ("pretrained", "content-blind", "prefix", "random prefix", "norm-matched prefix")
# The paper's exact match in percent by task: the slides' 40 layers, and the notebook's 4 layers.
PAPER = {
    40: {
        "pretrained": dict(zip(TASKS, (17, 23, 34, 25, 0, 0), strict=True)),
        "prefix": dict(zip(TASKS, (100, 100, 100, 100, 93, 1), strict=True)),
    },
    4: {
        "pretrained": dict(zip(TASKS, (5.91, 27.75, 39.66, 22.81, 0, 0), strict=True)),
        "prefix": dict(zip(TASKS, (99.69, 99.59, 100, 99.97, 71.59, 0.62), strict=True)),
    },
}

Row = dict[str, Any]


def tables(result: Result) -> dict[str, list[Row]]:
    """Return ``rows`` (see `own_rows`), ``others`` and ``rates`` (see `rate_rows`)."""
    return {
        "rows": own_rows(result),
        "others": other_rows(result),
        "rates": rate_rows(result),
    }


def own_rows(result: Result) -> list[Row]:
    """Return one row per method, parameterization and task, scored on that task, over seeds.

    A prefix counts at the start and rate with the lowest training loss. Keys: ``method``,
    ``parameterization``, ``n_layers``, ``task``, ``n_seeds``, ``paper`` (percent, or None) and
    ``exact_match``, ``token_accuracy`` and ``loss``, each as `spread` returns it.

    Args:
        result: of this study.
    """
    rows = []
    for method in METHODS:
        own = [
            r for r in result.rows()
            if r["method"] == method and r["chosen"] and r["tuned_on"] in (None, r["task"])
        ]  # fmt: skip
        for kind in dict.fromkeys(r["parameterization"] for r in own):
            for task in TASKS:
                found = [r for r in own if (r["parameterization"], r["task"]) == (kind, task)]
                if not found:
                    continue
                layers = found[0]["n_layers"]
                paper = PAPER.get(layers, {}).get(method) if kind in (None, "residual") else None
                rows.append({
                    "method": method, "parameterization": kind, "n_layers": layers, "task": task,
                    "n_seeds": len({r["seed"] for r in found}),
                    "paper": paper and paper[task],
                    **{metric: spread(found, metric) for metric in METRICS},
                })  # fmt: skip
    return rows


def other_rows(result: Result) -> list[Row]:
    """Return, per prefix, its largest mean exact match on a task that it was not tuned on.

    Args:
        result: of this study.
    """
    rows = []
    own = [r for r in result.rows() if r["method"] == "prefix" and r["chosen"]]
    for kind in dict.fromkeys(r["parameterization"] for r in own):
        for tuned in TASKS:
            by_task = {
                task: spread(found, "exact_match")["mean"]
                for task in TASKS if task != tuned
                for found in [[r for r in own if (r["parameterization"], r["tuned_on"], r["task"])
                               == (kind, tuned, task)]] if found
            }  # fmt: skip
            if by_task:
                most = max(by_task, key=lambda task: by_task[task] or 0.0)
                rows.append({
                    "parameterization": kind, "tuned_on": tuned, "task": most,
                    "exact_match": by_task[most],
                })  # fmt: skip
    return rows


def rate_rows(result: Result) -> list[Row]:
    """Return one row per parameterization, task and learning rate: the search that was made.

    Keys: ``parameterization``, ``task``, ``lr``, ``steps``, ``runs``, ``chosen`` (of how many seeds
    the best run has this rate), ``train_loss`` (mean) and ``exact_match`` (over seeds).

    Args:
        result: of this study.
    """
    own = [r for r in result.rows() if r["method"] == "prefix" and r["tuned_on"] == r["task"]]
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in own:
        key = tuple(row[k] for k in ("parameterization", "task", "lr", "steps"))
        groups.setdefault(key, []).append(row)
    return [
        {
            "parameterization": kind, "task": task, "lr": lr, "steps": steps, "runs": len(found),
            "chosen": sum(r["chosen"] for r in found),
            "train_loss": sum(r["train_loss"] for r in found) / len(found),
            "exact_match": spread(found, "exact_match"),
        }
        for (kind, task, lr, steps), found in groups.items()
    ]  # fmt: skip


def prefix_scores(rows: Sequence[Row], tasks: Sequence[str], kind: str | None = None) -> list[Row]:
    """Return the rows of tuned prefixes on their own tasks.

    Args:
        rows: from `own_rows`.
        tasks: which.
        kind: a parameterization; None for all.
    """
    return [
        r for r in rows
        if r["method"] == "prefix" and r["task"] in tasks and kind in (None, r["parameterization"])
    ]  # fmt: skip


def findings_block(evidence: Evidence, name: str = "table3") -> str:
    """Return Table 3 in Markdown: ours, the paper's number in brackets; what to run before that.

    Args:
        evidence: results of this study.
        name: of the study.
    """
    if evidence.result(name) is None:
        return missing(name)
    rows = evidence.tables(name)["rows"]
    lines = [["", *map(task_words, TASKS)]]
    for method in METHODS:
        own = [r for r in rows if r["method"] == method]
        for kind in dict.fromkeys(r["parameterization"] for r in own):
            by_task = {r["task"]: r for r in own if r["parameterization"] == kind}
            name = method if kind is None else f"{method}, {kind}"
            lines.append([name, *(_cell(by_task.get(task)) for task in TASKS)])
    return markdown(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    printed = "" if row["paper"] is None else f" ({row['paper']:g})"
    return mean_and_sd(row["exact_match"]) + printed


SEEN, UNSEEN = FOUR_SKILLS, (COMBINED, NEW)
