"""The report's section on bias subspaces: what they share and what they carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.sections import Cell, Claim, Section, Words, picture, records, spread_frame
from analyses.report.tables import Column, Table, decimals, mean_share, percent, rows_table
from analyses.subspaces.figures import angles_figure, removal_figure
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]

_RANKS = ("rank", "effective_rank")
_ANGLES = ("mean_angle", "chance_angle", "overlap", "chance_overlap")
_SCORES = ("exact_match", "token_accuracy", "late_token_accuracy", "loss")
_SPACES = {
    "own": "the bias's own", "random": "random, equal rank", "other": "another task's bias",
    "content": "strongest of the content", "none": "nothing",
}  # fmt: skip
_REMOVED = {
    "output": "all of the output in it", "restore": "the prefix's part in it",
    "isolate": "the prefix's part outside it", "bias": "the bias alone, the gate stays",
}  # fmt: skip
_LEVELS = {"head": "heads", "layer": "layer", "written": "heads, after W_O"}
_METHODS = {"prefix": "tuned", "random prefix": "untuned start",
            "norm-matched prefix": "random, tuned norms"}  # fmt: skip


def section(evidence: Evidence) -> Section:
    """Return rank, angles and removal of the bias subspaces of Table 2's prefixes.

    Args:
        evidence: with the result of the study.
    """
    result, rows = evidence.result("subspaces"), evidence.tables("subspaces")
    assert result is not None
    n, pooled = len(result.seeds), [r for r in rows["removal"] if r["task"] is None]
    kept = {kind: _removed(pooled, kind) for kind in ("residual", "kv")}
    own = {
        space: percent(kept["residual"][space]) for space in ("own", "random", "other", "content")
    }
    frames = {
        "removal": spread_frame(rows["removal"], _SCORES),
        "angles": spread_frame(rows["angle"], _ANGLES),
        "spectra": spread_frame(rows["spectrum"], _RANKS),
    }
    return Section(
        "subspaces", "The line of the bias",
        f"Without the line of its own bias in every head a prefix keeps {own['own']} % of its "
        f"sequences, without a random line {own['random']} %",
        "lives",
        "With one slot a head's bias lies on a line, and the skill needs that line more than a "
        f"random one or that of another task ({own['other']} %). It is not the line that matters "
        "most, though: without the strongest direction of the content itself "
        f"{own['content']} % are right.",
        picture(
            "removal",
            removal_figure(rows["removal"], result.rows("removal")),
            "Bars of exact match per prefix with a subspace removed from all heads: its own bias "
            "subspace, random ones of equal rank, other tasks' and the strongest content "
            "directions.",
            f"A subspace removed from every head's output in layer 0, {counted(n, 'seed')}, "
            "masked baseline. "
            "Output projected out: nothing is left in it, content included. Plain run's inside it: "
            "the part in it is that of the run without prefix; outside it: the reverse. Bias "
            "projected out: the gate stays.",
        ),
        [
            Words("Every removal", f"Exact match in percent with 95% intervals, mean over tasks "
                  f"and {counted(n, 'seed')}, with the prefix; heads all at once.",
                  _removals([r for r in pooled if r["run"] == "on"])),
            picture(
                "angles",
                angles_figure(result.rows("angle")),
                "Strips of principal angles between bias subspaces of different tasks, starts, "
                "parameterizations and heads, beside those of random subspaces.",
                f"Mean principal angle between two bias subspaces, {counted(n, 'seed')}, layer 0. "
                "Models of "
                "different seeds share no basis: starts are random starts on one model. Heads are "
                "compared after W_O, where they write.",
                dense=True,
            ),
            Words("Angles in numbers", "Means over pairs and seeds, in degrees.",
                  _angles(rows["angle"])),
            Words("Rank and effective rank", "Means over seeds, tasks and heads (or of the layer); "
                  "one slot, four heads.", _ranks(rows["spectrum"])),
        ],
        {name: records(frame) for name, frame in frames.items()},
        claims=[
            Claim(
                "Exact match without the line of its own bias / a random line / another task's / "
                "the content's strongest",
                {f"{kind}, 1 slot": Cell(" / ".join(
                    percent(found[s]) for s in ("own", "random", "other", "content")) + " %")
                 for kind, found in kept.items()},
            )
        ],
    )  # fmt: skip


def _removed(rows: Rows, kind: str) -> dict[str, float]:
    """Return the mean exact match with each space projected out of every head's output."""
    return {
        r["space"]: r["exact_match"]["mean"]
        for r in rows
        if (r["parameterization"], r["run"], r["level"], r["remove"])
        == (kind, "on", "head", "output")
    }


def _removals(rows: Rows) -> Table:
    shown = [r for r in rows if r["level"] in ("head", None)]
    return rows_table(
        shown,
        [Column("Prefix", "parameterization"), Column("Space", "space", _SPACES.__getitem__),
         Column("Removed", "remove", _REMOVED.__getitem__),
         Column("Exact match (%)", "exact_match", mean_share),
         Column("Token accuracy (%)", "token_accuracy", mean_share)],
    )  # fmt: skip


def _angles(rows: Rows) -> Table:
    def degrees(spread: Mapping[str, float]) -> str:
        return decimals(0)(math.degrees(spread["mean"]))

    return rows_table(
        rows,
        [Column("Between", "comparison"), Column("Prefix", "parameterization"),
         Column("Subspaces of", "level", lambda level: _LEVELS.get(level, level)),
         Column("Mean angle", "mean_angle", degrees),
         Column("Random subspaces", "chance_angle", degrees)],
    )  # fmt: skip


def _ranks(rows: Rows) -> Table:
    def mean(spread: Mapping[str, float]) -> str:
        return decimals(2)(spread["mean"])

    return rows_table(
        [r for r in rows if r["task"] is None],
        [Column("Prefix", "parameterization"), Column("Which", "method", _METHODS.__getitem__),
         Column("Level", "level"), Column("Rank", "rank", mean),
         Column("Effective rank", "effective_rank", mean)],
    )  # fmt: skip
