"""The elicited heads in the report: which heads a prefix elicits, how, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.report.evidence import Evidence
from analyses.report.sections import Part, Picture, Section, Words, picture, records
from analyses.report.tables import frame_table, percent
from analyses.table2.skills import SKILL_WORDS, load_skills
from prefix_interp.attribution.patching import patch_heads
from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.elicitation import elicitation_figure, patch_figure
from prefix_interp.views.style import COLOURS, MARKERS, look

N_PATCHED = 32
_DIRECTIONS = {
    "denoise": "the head's prefixed output alone in the run without prefix: is it enough?",
    "noise": "the head's plain output alone in the prefixed run: is it needed?",
}
# Summaries that are printed without changes: heading and paragraph.
_WORDS = {
    "elicited": (
        "How many heads",
        "Over all seeds: heads whose effect lies outside those of all random prefixes, and how it "
        "splits.",
    ),
    "gating": (
        "The prefix at one head",
        "Exact match with the prefix kept only at its best head, and with the prefix dropped at "
        "the one head where this costs most, by gating its attention mass; mean over seeds.",
    ),
    "calibration": (
        "Controls",
        "The total effect of one head, mean over heads and seeds, under the prefix itself and "
        "under other prefixes.",
    ),
    "agreement": (
        "Estimates by gradients",
        "Rank correlation with exact patches, median and range over seeds and tasks.",
    ),
}


def section(evidence: Evidence) -> Section:
    """Return which heads each prefix elicits, how, and where.

    Args:
        evidence: contains the results of this study, and the shipped model, which is its first
            seed.
    """
    result, summary = evidence.result("heads"), evidence.tables("heads")
    assert result is not None
    frame = result.to_dataframe("head")
    residual = frame[frame["parameterization"] == "residual"]
    noise = residual[residual["direction"] == "noise"]
    patching, patched = _patching(evidence)
    shown = [_elicitation(result, residual, direction) for direction in _DIRECTIONS]
    parts: list[Part] = [
        *shown,
        picture(
            "copying",
            copying_figure(noise),
            "One panel per prefix, one point per head and seed: the gate at the first "
            "output against how much the head copies.",
            f"All heads of all {len(result.seeds)} seeds: the gate at output 0 against the "
            "attention from output i to input i that the same head has without a prefix. "
            "Filled: elicited (noise). Residual prefixes, layer 0.",
            pd.DataFrame(summary["copying"]),
        ),
        patching,
    ]
    for name, (title, text) in _WORDS.items():
        parts.append(Words(title, text, frame_table(pd.DataFrame(summary[name]))))
    numbers = {
        "elicited": summary["elicited"],
        "gating": summary["gating"],
        "controls": summary["calibration"],
        "agreement": summary["agreement"],
        "heads": result.rows("head"),
        "patching": records(patched),
        "copying": summary["copying"],
    }
    return Section(
        "elicitation", "Elicited heads", "Which heads a prefix elicits",
        "Each head's share of what the prefix does, split into the scaling of its own output "
        "(gate) and what the prefix adds (bias).",
        parts, numbers, _findings(summary["copying"]),
    )  # fmt: skip


def _elicitation(result: Result, heads: pd.DataFrame, direction: str) -> Picture:
    sizes = result.settings["protocol"]
    own = heads[(heads["seed"] == result.seeds[0]) & (heads["direction"] == direction)]
    frames = {SKILL_WORDS[t]: own[own["tuned_on"] == t] for t in FOUR_SKILLS}
    return picture(
        f"elicitation-{direction}",
        elicitation_figure(frames, gate_column="gate_effect"),
        "One bar per head and prefix, split into gate and bias, beside the range of random "
        "prefixes.",
        f"{direction.capitalize()}: {_DIRECTIONS[direction]} Effect on the log-probability of the "
        f"right answer (nats per output, mean over {sizes['n']} test sequences), heads of layer 0, "
        "residual prefixes, masked baseline. Gate and bias are Shapley values, which add up to "
        "the total (diamond, 95% bootstrap interval over sequences). Grey: the range over "
        f"{sizes['n_random']} norm-matched random prefixes, cut off by the picture where "
        "they do more harm. A head above it with its interval above 0 (or both below) is elicited "
        "at the 95% level of one head.",
        own.drop(columns=["parameterization", "direction"]),
    )


def _patching(evidence: Evidence) -> tuple[Picture, pd.DataFrame]:
    """Return what each head of the shipped model does at each position, and its numbers."""
    skills = evidence.once(load_skills)
    grids = {
        SKILL_WORDS[t]: patch_heads(
            skills.model, skills.prefixes[t], t, by_position=True, n=N_PATCHED, progress=False
        )
        for t in FOUR_SKILLS
    }
    frame = pd.concat([g.to_dataframe().assign(prefix=name) for name, g in grids.items()])
    shown = picture(
        "patching",
        patch_figure(grids),
        "Heat maps of heads by position: nearly all of the effect is at the position that predicts "
        "the first outputs.",
        "Denoise by position: one head's prefixed output at one content position put into the run "
        "without prefix, as a share of the prefix's total effect on the log-probability "
        f"({N_PATCHED} test sequences, layer 0, masked baseline). Position 9 is the last input, "
        "which predicts output 0.",
        frame,
    )
    return shown, frame


def _findings(copying: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"Prefix for {SKILL_WORDS[row['tuned_on']]}: at output 0 it takes "
        f"{percent(row['median'])} % of the attention (median; more than half in "
        f"{row['seeds_above_half']} of {row['seeds']} seeds) of the head that copies inputs to "
        "outputs in the pretrained model, and on average "
        f"{percent(row['other_gate'])} % of that of the other heads."
        for row in copying
    ]


def copying_figure(heads: pd.DataFrame) -> Figure:
    """Plot each head's gate at output 0 against how much it copies, over all seeds.

    Args:
        heads: the table ``head`` in one direction: one row per seed, task and head, with columns
            ``tuned_on``, ``copy``, ``gate_first`` and ``elicited``.

    Raises:
        PrefixInterpError: nothing to draw.
    """
    if heads.empty:
        raise PrefixInterpError("heads is empty; give rows of the table head")
    tasks = list(dict.fromkeys(heads["tuned_on"]))
    with look():
        figure = Figure(figsize=(2.4 * len(tasks) + 0.6, 2.9), layout="constrained")
        axes = figure.subplots(1, len(tasks), sharey=True, sharex=True, squeeze=False)[0]
        for i, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
            own = heads[heads["tuned_on"] == task]
            for elicited, face in ((True, COLOURS[i]), (False, "none")):
                some = own[own["elicited"] == elicited]
                ax.plot(
                    some["copy"], some["gate_first"], MARKERS[i], color=COLOURS[i],
                    markerfacecolor=face, markersize=5, linestyle="none", alpha=0.8,
                )  # fmt: skip
            ax.set(title=str(task).replace("_", " "), xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
            ax.set_xlabel("attention from output i to input i")
        axes[0].set_ylabel("gate at output 0")
    return figure


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result: first seed, and all."""
    frame = result.to_dataframe("head")
    noise = frame[(frame["parameterization"] == "residual") & (frame["direction"] == "noise")]
    first = noise[noise["seed"] == result.seeds[0]]
    groups = {str(task): own for task, own in first.groupby("tuned_on", sort=False)}
    return {
        "": elicitation_figure(groups, gate_column="gate_effect"),
        "-copying": copying_figure(noise),
    }
