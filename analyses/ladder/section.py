"""The report's section on the ladder of contexts, with suffixes separate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.ladder.figures import ladder_figure, layers, suffix_figure, tuning_length_figure
from analyses.ladder.protocol import BLIND, TUNED
from analyses.ladder.tables import METRICS, VERDICTS, verdict_counts
from analyses.one_token import counted
from analyses.report.evidence import Evidence
from analyses.report.sections import (
    Cell,
    Claim,
    Folded,
    Section,
    Words,
    picture,
    records,
    spread_frame,
)
from analyses.report.tables import (
    Column,
    markdown,
    mean_of,
    mean_share,
    percent,
    rows_table,
    whole,
)
from prefix_interp.results import Result
from prefix_interp.tasks.words import task_words

Rows = Sequence[Mapping[str, Any]]

_COMPARED = ("suffix", "front", "peer", "blind")
_SPREADS = tuple(f"{who}_{metric}" for metric in METRICS for who in _COMPARED)


def section(evidence: Evidence) -> Section:
    """Return what each kind of context makes the same toys do, with suffixes folded.

    Args:
        evidence: with the result of the study.
    """
    result, summary = evidence.result("ladder"), evidence.tables("ladder")
    assert result is not None
    rows, suffixes = summary["ladder"], summary["suffixes"]
    own = [r for r in rows if r["method"] == "context"]
    best = {kind: max((r for r in own if r["context"] in TUNED and r["asks_for"] == kind),
                      key=lambda r: r["exact_match"]["mean"]) for kind in _KINDS}  # fmt: skip
    new = best["new"]
    kind = "free keys and values" if new["context"] == "prefix, kv" else new["context"]
    about = f"{kind} at every layer ({task_words(new['task'])}, {layers(new['depth'])})"
    return Section(
        "ladder-section", "A ladder of contexts",
        f"Tuned contexts reach {_exact(best['known'])} % on a known skill, at best "
        f"{_exact(best['combined'])} % on two combined and {_exact(new)} % on a new task",
        "reaches",
        f"{_real_less(own)}The best on a new task is {about}. {suffix_words(suffixes)}",
        picture(
            "ladder",
            ladder_figure(rows),
            "Heat maps of exact match, one per depth and by task: no context, hard prompts, "
            "examples, soft prompts, prefixes and suffixes.",
            "Exact match in percent on unseen inputs, whole model, mean over "
            f"{counted(len(result.seeds), 'seed')}. The toys know sort ascending, add one and add "
            "two; one task combines two of them, the last two are new. The blind rule knows an "
            "output's index and the token before it, but no content. No context: masked baseline. "
            "Empty: not measured.",
        ),
        [*_method(result, suffixes), *_pictures(result, rows), _contexts(own), controls(rows)],
        {"ladder": records(spread_frame(rows, tuple(METRICS))),
         "suffixes": records(spread_frame(suffixes, _SPREADS))},
        claims=[_claim(own)],
    )  # fmt: skip


_KINDS = ("known", "combined", "new")


def _exact(row: Mapping[str, Any]) -> str:
    return percent(row["exact_match"]["mean"])


def _real_less(rows: Rows) -> str:
    """Return a sentence if all real tokens do less than all tuned contexts on a known skill."""
    known = [r for r in rows if r["asks_for"] == "known"]
    real = [r for r in known if r["context"] not in (*TUNED, BLIND, "none")]
    tuned = [r for r in known if r["context"] in TUNED]
    most, least = (
        f(r["exact_match"]["mean"] for r in own) for f, own in ((max, real), (min, tuned))
    )
    if most >= least:
        return ""
    return f"Real tokens and examples reach {percent(most)} % at most, even on a known skill. "


def _claim(rows: Rows) -> Claim:
    """Return the largest exact match on a new task, by kind of prefix."""
    cells = {}
    new = [r for r in rows if r["asks_for"] == "new" and r["context"] in TUNED]
    columns = {
        "prefix, residual": "residual, {} slots",
        "prefix, kv": "kv, {} slots",
        "soft prompt": "other",
    }
    for context, column in columns.items():
        own = [r for r in new if r["context"] == context]
        if own:
            top = max(own, key=lambda r: r["exact_match"]["mean"])
            words = "soft prompt: " if column == "other" else ""
            cells[column.format(top["n_slots"])] = Cell(f"{words}{_exact(top)} %")
    return Claim("Exact match on a new task, at best, toys of up to four layers", cells)


def suffix_words(rows: Rows) -> str:
    """Return one sentence on what suffixes do on new tasks, in comparisons.

    Args:
        rows: from `suffix_rows`.
    """
    new = [r for r in rows if r["asks_for"] == "new"]
    front, first = (
        verdict_counts(new, key).get("better", 0) for key in ("verdict", "first_verdict")
    )
    return (
        f"Behind the input the same vectors get more sequences right in {front} of {len(new)} "
        f"comparisons with the best context in front, and their first output beats the blind rule "
        f"in {first}."
    )


def _method(result: Result, suffixes: Rows) -> list[Folded]:
    sizes = result.settings["protocol"]
    new = [r for r in suffixes if r["asks_for"] == "new"]
    asked = {
        "exact match against the best tuned context in front": "verdict",
        "first output against the blind rule": "first_verdict",
        "later outputs against the blind rule": "later_verdict",
        "first output against as many vectors in front": "peer_first_verdict",
        "later outputs against as many vectors in front": "peer_later_verdict",
    }
    none = dict.fromkeys(VERDICTS, 0)
    compared = [{"asked": words} | none | verdict_counts(new, key) for words, key in asked.items()]
    return [
        Words(
            "Method",
            f"Each tuned context counts at the learning rate with the lowest training loss of "
            f"{len(sizes['lrs'])}; each hard prompt is the best that the search found. Intervals "
            "and verdicts are at 95%, for new seeds and new test sequences: they combine the "
            f"spread over seeds with the error of the {sizes['n_test']} test sequences.",
        ),
        Words(f"Suffixes on new tasks, {len(new)} comparisons", "", rows_table(
            compared,
            [Column("Compared", "asked"), *(Column(v.capitalize(), v) for v in VERDICTS[:3])])),
    ]  # fmt: skip


def _pictures(result: Result, rows: Rows) -> list[Folded]:
    sizes = result.settings["protocol"]
    return [
        picture(
            "suffixes",
            suffix_figure(rows),
            "Exact match of prefixes and suffixes against depth, one panel per task, with "
            "intervals.",
            "Contexts before and after the input, all with the largest number of slots that was "
            f"tuned, {sizes['steps']:,} steps each; bars are 95% intervals for new seeds, dotted "
            "lines the blind rule. A soft suffix is inserted at the embedding, so its rows in "
            "deeper layers depend on the input; a suffix at every layer is overwritten at each.",
        ),
        picture(
            "suffixes-first",
            suffix_figure(rows, "first_output"),
            "Share of right first outputs, by depth, one panel per task.",
            "The same contexts: right answers at output 0. With a suffix it is read at the last "
            "slot, whose query is free. Sort descending mostly begins with the same digit, which "
            "the blind rule (dotted) knows.",
        ),
        picture(
            "suffixes-later",
            suffix_figure(rows, "later_outputs"),
            "Share of right outputs after the first, by depth, one panel per task.",
            "The same contexts: right answers at outputs 1 to 9, under teacher forcing, which "
            "leaves out the output that a suffix's own slot predicts.",
        ),
        picture(
            "longer",
            tuning_length_figure(rows),
            "Loss of each tuned context after a shorter and a longer tuning, one panel per depth "
            "and task.",
            f"Tuned for {sizes['steps']:,} and, from the same start, {sizes['long_steps']:,} "
            "steps: mean cross-entropy on unseen inputs, 95% intervals for new seeds. If a line "
            "still falls, the shorter tuning had not converged.",
        ),
    ]


_COLUMNS = (
    Column("Layers", "depth"), Column("Context", "context"), Column("Steps", "steps", whole),
    Column("Task", "task", task_words), Column("Exact match (%)", "exact_match", mean_share),
)  # fmt: skip


def _contexts(rows: Rows) -> Words:
    """Return the tuned contexts on tasks that are not known, as a table."""
    shown = [r for r in rows if r["asks_for"] != "known" and r["context"] in TUNED]
    columns = [*_COLUMNS, Column("Loss (nats)", "loss", mean_of(2))]
    title = "Tuned contexts beyond the known skills"
    return Words(title, "Mean over seeds with its interval.", rows_table(shown, columns))


def controls(rows: Rows) -> Words:
    """Return the controls of the tuned contexts as a table.

    Args:
        rows: from `ladder_rows`.
    """
    best: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in (r for r in rows if r["method"] != "context"):
        key = row["method"], row["context"], row["task"]
        if key not in best or row["exact_match"]["mean"] > best[key]["exact_match"]["mean"]:
            best[key] = row
    shown = list(best.values())
    return Words(
        "Controls",
        "Untuned starts and random directions with the tuned norms, on the task that the tuned "
        "context was made for; each at the depth and tuning where it does best.",
        rows_table(shown, [Column("Control", "method"), *_COLUMNS]),
    )


def findings(evidence: Evidence) -> str:
    """Return tuned contexts and the blind rule on new tasks as Markdown, with intervals.

    Args:
        evidence: with the result of the study.
    """
    rows = [r for r in evidence.tables("ladder")["ladder"]
            if r["method"] == "context" and r["asks_for"] == "new"]  # fmt: skip
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    lines = [["layers, steps", "context"]]
    for task in tasks:
        lines[0] += [task_words(task), "first output", "loss"]
    for depth in sorted({r["depth"] for r in rows}):
        longest = max(r["steps"] or 0 for r in rows if r["depth"] == depth)
        for context in (BLIND, *TUNED):
            own = {
                r["task"]: r for r in rows
                if (r["depth"], r["context"]) == (depth, context)
                and r["steps"] in (None, longest)
            }  # fmt: skip
            cells = [f"{depth}, {longest:,}", context]
            for task in tasks:
                cells += [_with_interval(own[task], m) for m in ("exact_match", "first_output")]
                cells += [f"{own[task]['loss']['mean']:.2f}"]
            lines.append(cells)
    return markdown(lines)


def _with_interval(row: Mapping[str, Any], metric: str) -> str:
    """Return a mean over seeds in percent with its interval (none for the blind rule)."""
    if row["context"] == BLIND:
        return f"{100 * row[metric]['mean']:.1f}"
    return mean_share(row[metric])
