"""The report's section on the ladder of contexts, with suffixes separate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analyses.ladder.figures import (
    TASK_WORDS,
    ladder_figure,
    layers,
    suffix_figure,
    tuning_length_figure,
)
from analyses.ladder.protocol import BLIND, TUNED
from analyses.ladder.tables import METRICS, verdict_counts
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture, records, spread_frame
from analyses.report.tables import frame_table, markdown, percent

_COMPARED = ("suffix", "front", "peer", "blind")
_SPREADS = tuple(f"{who}_{metric}" for metric in METRICS for who in _COMPARED)


def section(evidence: Evidence) -> Section:
    """Return what each kind of context makes the same toys do, with suffixes separate.

    Args:
        evidence: with the result of the study.
    """
    result, rows = evidence.result("ladder"), evidence.tables("ladder")["ladder"]
    assert result is not None
    suffixes = evidence.tables("ladder")["suffixes"]
    frame, table = spread_frame(rows, tuple(METRICS)), spread_frame(suffixes, _SPREADS)
    n, own = len(result.seeds), frame["method"] == "context"
    sizes = result.settings["protocol"]
    shown = frame[own].drop(columns=["method"])
    controls = frame[~own & (frame["n_slots"] == frame["n_slots"].max())]
    seeds = f"{n} seed{'s' if n > 1 else ''}"
    parts = [
        picture(
            "ladder",
            ladder_figure(rows),
            "Heat maps of exact match, one per depth and by task: no context, hard prompts, "
            "examples, soft prompts, prefixes and suffixes.",
            "Exact match in percent on unseen inputs, whole model, mean over "
            f"{seeds}. The toys know ascending, +1 and +2; ascending then +1 combines them, "
            "descending and histogram are new. Each tuned context counts at the learning rate with "
            f"the lowest training loss of {len(sizes['lrs'])}. Each hard prompt is the best that "
            "the search found. No context: masked baseline. The blind rule knows an output's index "
            "and the token before it, but no content. Empty: not measured.",
            shown,
        ),
        picture(
            "suffixes",
            suffix_figure(rows),
            "Exact match of prefixes and suffixes against depth, one panel per task, with "
            "intervals.",
            "Contexts before and after the input, all with the largest number of slots that was "
            f"tuned, {sizes['steps']:,} steps each; bars are 95% t intervals over {seeds}, dotted "
            "lines the blind rule. A soft suffix is inserted at the embedding, "
            "so its rows in deeper layers depend on the input. A suffix at every layer "
            "is overwritten at each and does not. The first output is read at the last slot of a "
            "suffix, the others at the outputs before them.",
            table,
        ),
        picture(
            "suffixes-first",
            suffix_figure(rows, "first_output"),
            "Share of right first outputs, by depth, one panel per task.",
            "The same contexts: right answers at output 0. With a suffix it is read at the last "
            "slot, whose query is free. Descending mostly begins with the same digit, "
            "which the blind rule (dotted) knows.",
            _outputs(shown, "first"),
        ),
        picture(
            "suffixes-later",
            suffix_figure(rows, "later_outputs"),
            "Share of right outputs after the first, by depth, one panel per task.",
            "The same contexts: right answers at outputs 1 to 9, under teacher forcing, which "
            "leaves out the output that a suffix's own slot predicts. In one layer, a suffix at "
            "every layer and a prefix of the same vectors act equally there.",
            _outputs(shown, "later"),
        ),
        picture(
            "longer",
            tuning_length_figure(rows),
            "Loss of each tuned context after a shorter and a longer tuning, one panel per "
            "depth and task.",
            f"Tuned for {sizes['steps']:,} and, from the same start, {sizes['long_steps']:,} "
            "steps: mean cross-entropy on unseen inputs, 95% t intervals over seeds, dotted lines "
            "the blind rule. If a line still falls, the shorter tuning had not converged.",
            shown[shown["steps"].notna()],
        ),
        Words(
            "Controls",
            "Untuned starts and random directions with the tuned norms, exact match on the task "
            "that the tuned context was made for.",
            frame_table(controls.drop(columns=[c for c in controls if " " in str(c)])),
            folded=True,
        ),
    ]
    return Section(
        "ladder-section", "Ladder", "A ladder of contexts, and suffixes",
        "Real tokens, examples, soft prompts, prefixes at every layer, and the same vectors after "
        "the input: what can each make the same frozen model do?",
        parts, {"ladder": records(frame), "suffixes": records(table)},
        suffix_findings(suffixes),
    )  # fmt: skip


def _outputs(frame: pd.DataFrame, which: str) -> pd.DataFrame:
    keys = ["depth", "context", "n_slots", "steps", "task"]
    return frame.loc[:, [*keys, *(c for c in frame if str(c).startswith(which))]]


def suffix_findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what suffixes do on new tasks: one sentence on all, then one per depth.

    Args:
        rows: from `suffix_rows`.
    """
    new = [r for r in rows if r["asks_for"] == "new"]
    depths = sorted({r["depth"] for r in new})
    found = [
        f"Suffixes on new tasks, {len(new)} comparisons at {_listed(depths)} layers. Exact match "
        f"against the best tuned context in front of the input: {_verdicts(new, 'verdict')}. "
        f"Against the blind rule: at the first output {_verdicts(new, 'first_verdict')}, at the "
        f"later ones {_verdicts(new, 'later_verdict')}. Against as many vectors at the same layers "
        f"in front: at the first output {_verdicts(new, 'peer_first_verdict')}, at the later ones "
        f"{_verdicts(new, 'peer_later_verdict')}."
    ]
    for depth in depths:
        longest = max(r["steps"] for r in new if r["depth"] == depth)
        own = [r for r in new if (r["depth"], r["steps"]) == (depth, longest)]
        tasks = dict.fromkeys(r["task"] for r in own)
        words = "; ".join(_best_suffix([r for r in own if r["task"] == task]) for task in tasks)
        sizes = f"{own[0]['n_slots']} slots, {longest:,} steps"
        found.append(f"New tasks, {layers(depth)}, {sizes}: {words}.")
    return found


def _verdicts(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return how often each verdict was given, as ``better in 1, no difference shown in 5``."""
    return ", ".join(f"{verdict} in {n}" for verdict, n in verdict_counts(rows, key).items())


def _best_suffix(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on the suffix with the highest exact match (ties: the lower loss)."""
    best = max(rows, key=lambda r: (r["suffix_exact_match"]["mean"], -r["suffix_loss"]["mean"]))
    exact = {
        who: percent(best[f"{who}_exact_match"]["mean"]) for who in ("suffix", "front", "blind")
    }
    first, low, high = (percent(best["suffix_first_output"][k]) for k in ("mean", "low", "high"))
    return (
        f"{TASK_WORDS[best['task']]} {exact['suffix']} % of sequences ({best['suffix']}) against "
        f"{exact['front']} % in front ({best['front']}) and {exact['blind']} % blind, first output "
        f"{first} % ({low} to {high}) against a blind "
        f"{percent(best['blind_first_output']['mean'])} %"
    )


def _listed(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def readme(evidence: Evidence) -> str:
    """Return tuned contexts and the blind rule on new tasks as Markdown, with intervals.

    Args:
        evidence: with the result of the study.
    """
    rows = [r for r in evidence.tables("ladder")["ladder"]
            if r["method"] == "context" and r["asks_for"] == "new"]  # fmt: skip
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    lines = [["layers, steps", "context"]]
    for task in tasks:
        lines[0] += [TASK_WORDS[task], "first output", "loss"]
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
    """Return a mean over seeds in percent with its 95% t interval (none for the blind rule)."""
    spread = {key: 100 * row[metric][key] for key in ("mean", "low", "high")}
    words = f"{spread['mean']:.1f}"
    if row["context"] == BLIND:
        return words
    return f"{words} ({spread['low']:.0f} to {spread['high']:.0f})"
