"""The elicited heads in the report: which heads a prefix elicits, how, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analyses.heads.tables import counts
from analyses.panels import panels
from analyses.report.evidence import Evidence
from analyses.report.sections import Cell, Claim, Folded, Picture, Section, Words, picture, records
from analyses.report.tables import Column, decimals, percent, rows_table, whole
from analyses.table2.skills import SKILL_WORDS, load_skills
from prefix_interp.attribution.patching import patch_heads
from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tasks.words import task_words
from prefix_interp.views.elicitation import elicitation_figure, patch_figure
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]

N_PATCHED = 32
_DIRECTIONS = {
    "denoise": "the head's prefixed output alone in the run without prefix: is it enough?",
    "noise": "the head's plain output alone in the prefixed run: is it needed?",
}
_KIND = Column("Prefix", "parameterization")
_WAY = Column("Direction", "direction")
_TASK = Column("Tuned on", "tuned_on", task_words)


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
    patching, patched = _patching(evidence)
    n_random = result.settings["protocol"]["n_random"]
    found = counts(residual[residual["direction"] == "denoise"])
    (harm,) = [r["mean"] for r in summary["calibration"] if r["prefix"] == "norm-matched"
               and (r["parameterization"], r["direction"]) == ("residual", "denoise")]  # fmt: skip
    gates = [r["gate_share"] for r in summary["elicited"] if r["parameterization"] == "residual"
             and r["direction"] == "denoise"]  # fmt: skip
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
        "elicitation", "Heads it elicits",
        f"{found.more} of {counted(found.heads, 'head')} do more than under any of {n_random} "
        "random "
        f"prefixes, {found.less} do less",
        "lives",
        f"By chance alone {found.heads / (n_random + 1):.0f} would do more, and the control is "
        "weak: random prefixes with the tuned norms mostly do harm "
        f"({decimals(2)(harm)} nats on average), so small helpful effects pass. What a head does "
        f"comes mostly from the bias; the gate's share is {percent(min(gates))} to "
        f"{percent(max(gates))} %.",
        _elicitation(result, residual, "denoise"),
        [*_method(n_random), _elicitation(result, residual, "noise"),
         *_copying(result, residual, summary["copying"]), patching,
         *_summaries(summary, int(frame["head"].nunique()))],
        numbers,
        claims=[_claim(frame, n_random)],
    )  # fmt: skip


def _claim(frame: pd.DataFrame, n_random: int) -> Claim:
    cells = {}
    for kind, own in frame[frame["direction"] == "denoise"].groupby("parameterization"):
        found = counts(own)
        cells[f"{kind}, 1 slot"] = Cell(f"{found.more} more, {found.less} less, of {found.heads}")
    return Claim(f"Heads that do more, or less, than under any of {n_random} random prefixes",
                 cells)  # fmt: skip


def _method(n_random: int) -> list[Folded]:
    return [
        Words(
            "Method",
            "A head is elicited if its effect lies outside those of all random prefixes and its "
            f"95% interval over sequences excludes 0. That is a level of 1 in {n_random + 1} for "
            "one head on one side, with no correction for the number of heads. The controls below "
            "include stronger ones: the prefix of another task, of another start and of another "
            "seed.",
        )
    ]


def _elicitation(result: Result, heads: pd.DataFrame, direction: str) -> Picture:
    sizes = result.settings["protocol"]
    own = heads[(heads["seed"] == result.seeds[0]) & (heads["direction"] == direction)]
    frames = {SKILL_WORDS[t]: own[own["tuned_on"] == t] for t in FOUR_SKILLS}
    return picture(
        f"elicitation-{direction}",
        elicitation_figure(frames, gate_column="gate_effect"),
        "One bar per head and prefix, split into gate and bias, beside the range of random "
        "prefixes.",
        f"{direction.capitalize()}: {_DIRECTIONS[direction]} First of "
        f"{counted(len(result.seeds), 'seed')}, "
        "heads of layer 0, residual prefixes, masked baseline. Effect on the log-probability of "
        f"the right answer, mean over {sizes['n']} test sequences, as Shapley values of gate and "
        "bias; diamonds are totals with 95% bootstrap intervals. Grey: the range over "
        f"{sizes['n_random']} norm-matched random prefixes; where it goes on beyond the axis, "
        "a number says how far.",
    )


def _copying(result: Result, residual: pd.DataFrame, rows: Rows) -> list[Folded]:
    return [
        picture(
            "copying",
            copying_figure(residual[residual["direction"] == "noise"]),
            "One panel per prefix, one point per head and seed: the gate at the first output "
            "against how much the head copies.",
            f"All heads of {counted(len(result.seeds), 'seed')}: the gate at output 0 against the "
            "attention from output i to input i that the same head has without a prefix. Filled: "
            "elicited (noise). Residual prefixes, layer 0.",
        ),
        Words(
            "The head that copies",
            "Gate at output 0 of the head that copies most in the pretrained model, and of the "
            "others.",
            rows_table(
                rows,
                [_TASK, Column("Its gate, median (%)", "median", percent),
                 Column("Seeds above one half", "seeds_above_half"), Column("Seeds", "seeds"),
                 Column("Other heads, mean (%)", "other_gate", percent)],
            ),
        ),
    ]  # fmt: skip


def _summaries(summary: Mapping[str, Rows], n_heads: int) -> list[Folded]:
    """Return the summaries over seeds as tables."""
    two = decimals(2)
    return [
        Words("How many heads", "Over all seeds: heads outside the range of all random prefixes, "
              "and how the effect splits.", rows_table(
            summary["elicited"],
            [_KIND, _WAY, _TASK, Column("Heads", "heads"), Column("Elicited", "elicited"),
             Column("Seeds with one", "seeds_with_one"),
             Column("Gate (%)", "gate_share", percent), Column("Bias (%)", "bias_share", percent),
             Column("Recovered by the strongest (%)", "largest", percent)])),
        Words("The prefix at one head", "Exact match with the prefix kept only at its best head, "
              "and dropped at the one head where this costs most; mean over seeds.", rows_table(
            summary["gating"],
            [_KIND, _TASK, Column("Seeds", "seeds"),
             Column("Kept at one (%)", "kept_at_one", percent),
             Column("Dropped at one (%)", "dropped_at_one", percent)])),
        Words("Controls", "The effect of one head, mean over heads and seeds, under the prefix and "
              "under other prefixes (nats per output), with 95% intervals for new seeds and new "
              "test inputs, which all seeds share. Those of the random prefixes are for new seeds "
              "alone: they were recorded with the range of their draws.", rows_table(
            summary["calibration"],
            [_KIND, _WAY, Column("Under", "prefix"), Column("Mean", "mean", two),
             Column("From", "low", two), Column("To", "high", two),
             Column("Largest", "largest", two)])),
        Words("Estimates by gradients", "Rank correlation with exact patches, median and range "
              f"over seeds and tasks. Those of gates rank only {counted(n_heads, 'head')} each, "
              "so a single "
              "swap of neighbours already makes it 0.8 and chance alone often gives high values.",
              rows_table(
            summary["agreement"],
            [Column("Estimate", "estimate"), _WAY, Column("Pairs", "n", whole),
             Column("Median", "median", two), Column("Smallest", "min", two),
             Column("Largest", "max", two)])),
    ]  # fmt: skip


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
    )
    return shown, frame


def copying_figure(
    heads: pd.DataFrame, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot each head's gate at output 0 against how much it copies, over all seeds.

    Args:
        heads: the table ``head`` in one direction: one row per seed, task and head, with columns
            ``tuned_on``, ``copy``, ``gate_first`` and ``elicited``.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: nothing to draw.
    """
    if heads.empty:
        raise PrefixInterpError("heads is empty; give rows of the table head")
    tasks = list(dict.fromkeys(heads["tuned_on"]))
    with sheet(figsize, width) as room:
        found = panels(room, len(tasks), size=(2.4, 2.9), beside=(0.6, 0.0))
        for i, (ax, task) in enumerate(zip(found.axes, tasks, strict=True)):
            own = heads[heads["tuned_on"] == task]
            for elicited, face in ((True, COLOURS[i]), (False, "none")):
                some = own[own["elicited"] == elicited]
                ax.plot(
                    some["copy"], some["gate_first"], MARKERS[i], color=COLOURS[i],
                    markerfacecolor=face, markersize=5, linestyle="none", alpha=0.8,
                )  # fmt: skip
            ax.set(title=task_words(str(task)), xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        for ax in found.bottom:
            ax.set_xlabel("attention from output i to input i")
        for ax in found.left:
            ax.set_ylabel("gate at output 0")
    return found.figure


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result: first seed, and all."""
    frame = result.to_dataframe("head")
    noise = frame[(frame["parameterization"] == "residual") & (frame["direction"] == "noise")]
    first = noise[noise["seed"] == result.seeds[0]]
    groups = {task_words(str(task)): own for task, own in first.groupby("tuned_on", sort=False)}
    return {
        "": elicitation_figure(groups, gate_column="gate_effect"),
        "-copying": copying_figure(noise),
    }
