"""The report's sections on bias subspaces: what they share, what they carry, long prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from prefix_interp.experiments.subspace_summary import long_prefix_rows, subspace_rows
from prefix_interp.results import Result
from prefix_interp.views.sections import Section, Words, picture, records, spread_frame
from prefix_interp.views.subspaces import angles_figure, removal_figure, slots_figure
from prefix_interp.views.tables import frame_table, percent

_RANKS = ("rank", "effective_rank")
_ANGLES = ("mean_angle", "chance_angle", "overlap", "chance_overlap")
_SCORES = ("exact_match", "token_accuracy", "late_token_accuracy", "loss")


def subspaces_section(result: Result) -> Section:
    """Return rank, angles and removal of the bias subspaces of Table 2's prefixes.

    Args:
        result: from `subspaces`.
    """
    rows = subspace_rows(result)
    removal = _frame(rows, "removal", _SCORES)
    angles = _frame(rows, "angle", _ANGLES)
    spectra = _frame(rows, "spectrum", _RANKS)
    n = len(result.seeds)
    parts = [
        picture(
            "removal",
            removal_figure(result),
            "Bars of exact match for each prefix with a subspace taken out of all heads: its own "
            "bias subspace, random ones of equal rank, other tasks' and the strongest content "
            "directions.",
            f"Exact match with a subspace taken out of every head's output in layer 0, {n} seeds. "
            "Blue: that of the prefix's own bias (rank 1 a head with one slot). Output projected "
            "out: nothing is left in the subspace, of the content neither. Plain run's inside it: "
            "the part in the subspace is that of the run without prefix, the rest stays. Plain "
            "run's outside it: the other way round, only the part in the subspace is the "
            "prefix's. Bias projected out: the bias goes, the gate stays. Baseline: masked.",
            removal,
        ),
        picture(
            "angles",
            angles_figure(result),
            "Strips of principal angles between bias subspaces of different tasks, starts, "
            "parameterizations and heads, beside those of random subspaces.",
            f"Mean principal angle between two bias subspaces, {n} seeds, layer 0. Models of "
            "different seeds share no basis: starts are random starts on one model. Heads are "
            "compared where they write, behind W_O.",
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
        "With one slot, a head's bias lies on a line. Does the skill live there, and do two tasks, "
        "two starts or two heads share it?",
        parts, numbers, _removal_findings(rows),
    )  # fmt: skip


def _removal_findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for kind in dict.fromkeys(r["parameterization"] for r in rows if r["part"] == "removal"):
        own = {
            (r["space"], r["remove"]): r["exact_match"]["mean"]
            for r in rows
            if r["part"] == "removal" and r["parameterization"] == kind and r["task"] is None
            and r["run"] == "on" and r["level"] in ("head", None)
        }  # fmt: skip
        found.append(
            f"Bias subspace, {kind} prefixes, mean over tasks and seeds: "
            f"{percent(own['none', None])} % exact match with the prefix, "
            f"{percent(own['own', 'output'])} % with the bias subspace projected out of every "
            f"head, {percent(own['random', 'output'])} % with a random subspace of equal rank, "
            f"{percent(own['own', 'bias'])} % with the bias alone removed and the gate kept."
        )
    return found


def long_prefixes_section(result: Result) -> Section:
    """Return how many directions prefixes of 1 to 32 slots use.

    Args:
        result: from `long_prefixes`.
    """
    rows = long_prefix_rows(result)
    tuning = _frame(rows, "tuning", ("exact_match", "loss"))
    counts = ("bound", "rank", "effective_rank", "n_95", "n_99", "slot_range", "top_slot")
    bias = _frame(rows, "bias", counts)
    bias = bias[bias["task"].isna()].drop(columns=["task"])
    parts = [
        picture(
            "slots",
            slots_figure(result),
            "Effective rank of the bias, by head and by layer, and the range of attention over "
            "the slots, against the number of slots, tuned and random prefixes.",
            "Prefixes of 1 to 32 slots for each of the four tasks, layer 0, "
            f"{len(result.seeds)} seed{'s' if len(result.seeds) > 1 else ''}. "
            "Effective rank of the bias (exp of the entropy of its singular values) beside the "
            "bound n_s. Right: the paper's statistic of appendix B at every head: 99th less 1st "
            "percentile over inputs of the attention over the slots, renormalised, mean over "
            "slots. Random prefix: the start that was tuned.",
            bias,
        ),
        Words(
            "How well they do",
            "Exact match and test loss by number of slots, mean over seeds.",
            frame_table(tuning[tuning["task"].isna()].drop(columns=["task"])),
            folded=True,
        ),
    ]
    return Section(
        "long-prefixes", "Long prefixes", "How many directions does a longer prefix use?",
        "The bias of a head may have as many directions as the prefix has slots. How many it has, "
        "and how many matter, are different questions.",
        parts, {"bias": records(bias), "tuning": records(tuning)}, _long_findings(bias),
    )  # fmt: skip


def _long_findings(bias: pd.DataFrame) -> list[str]:
    own = bias[(bias["method"] == "prefix") & (bias["level"] == "head")]
    found = []
    for kind, rows in own.groupby("parameterization", sort=False):
        last = rows.loc[rows["n_slots"].idxmax()]
        found.append(
            f"Long prefixes, {kind}: with {int(last['n_slots'])} slots a head's bias has an "
            f"effective rank of {last['effective_rank']:.1f} and {last['n_95']:.1f} directions "
            "carry 95 % of it (means over heads, tasks and seeds)."
        )
    return found


def _frame(rows: Iterable[Mapping[str, Any]], part: str, metrics: Sequence[str]) -> pd.DataFrame:
    own = [row for row in rows if row["part"] == part]
    return spread_frame(own, metrics).drop(columns="part")
