"""The report's section on bias subspaces: what they share and what they carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture, records, spread_frame
from analyses.report.tables import frame_table, percent
from analyses.subspaces.figures import angles_figure, removal_figure

_RANKS = ("rank", "effective_rank")
_ANGLES = ("mean_angle", "chance_angle", "overlap", "chance_overlap")
_SCORES = ("exact_match", "token_accuracy", "late_token_accuracy", "loss")


def section(evidence: Evidence) -> Section:
    """Return rank, angles and removal of the bias subspaces of Table 2's prefixes.

    Args:
        evidence: with the result of the study.
    """
    result, rows = evidence.result("subspaces"), evidence.tables("subspaces")
    assert result is not None
    removal = spread_frame(rows["removal"], _SCORES)
    angles = spread_frame(rows["angle"], _ANGLES)
    spectra = spread_frame(rows["spectrum"], _RANKS)
    n = len(result.seeds)
    parts = [
        picture(
            "removal",
            removal_figure(rows["removal"], result.rows("removal")),
            "Bars of exact match per prefix with a subspace removed from all heads: its own "
            "bias subspace, random ones of equal rank, other tasks' and the strongest content "
            "directions.",
            f"Exact match with a subspace removed from every head's output in layer 0, {n} seeds. "
            "Blue: the subspace of the prefix's own bias (rank 1 per head with one slot). Output "
            "projected out: nothing is left in the subspace, including content. Plain "
            "run's inside it: the part in the subspace is that of the run without prefix, the rest "
            "stays. Plain run's outside it: the reverse, so only the part in the subspace is "
            "the prefix's. Bias projected out: the bias goes, the gate stays. Baseline: masked.",
            removal,
        ),
        picture(
            "angles",
            angles_figure(result.rows("angle")),
            "Strips of principal angles between bias subspaces of different tasks, starts, "
            "parameterizations and heads, beside those of random subspaces.",
            f"Mean principal angle between two bias subspaces, {n} seeds, layer 0. Models of "
            "different seeds share no basis: starts are random starts on one model. Heads are "
            "compared after W_O, where they write.",
            angles,
        ),
        Words(
            "Rank and effective rank",
            "Means over seeds, tasks and heads (or of the layer); one slot, four heads. Controls: "
            "the untuned start and norm-matched random directions.",
            frame_table(spectra[spectra["task"].isna()].drop(columns=["task"])),
        ),
    ]
    numbers = {"removal": records(removal), "angles": records(angles), "spectra": records(spectra)}
    return Section(
        "subspaces", "Bias subspaces", "The subspace in which a prefix biases",
        "With one slot, a head's bias lies on a line. Does the skill need it, and do two tasks, "
        "two starts or two heads share it?",
        parts, numbers, _removal_findings(rows["removal"]),
    )  # fmt: skip


def _removal_findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for kind in dict.fromkeys(r["parameterization"] for r in rows):
        own = {
            (r["space"], r["remove"]): r["exact_match"]["mean"]
            for r in rows
            if (r["parameterization"], r["task"], r["run"]) == (kind, None, "on")
            and r["level"] in ("head", None)
        }  # fmt: skip
        found.append(
            f"Bias subspace, {kind} prefixes, mean over tasks and seeds: "
            f"{percent(own['none', None])} % exact match with the prefix, "
            f"{percent(own['own', 'output'])} % with the bias subspace projected out of every "
            f"head, {percent(own['random', 'output'])} % with a random subspace of equal rank, "
            f"{percent(own['own', 'bias'])} % with the bias alone removed and the gate kept."
        )
    return found
