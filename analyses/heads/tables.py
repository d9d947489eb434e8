"""Elicited heads over seeds: how many, by which part, and the controls."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

import pandas as pd

from prefix_interp.estimates import Estimate, combined_interval, seed_interval
from prefix_interp.results import Result

Rows = list[dict[str, Any]]


def tables(result: Result) -> dict[str, Rows]:
    """Return the summaries below by name; the keys of their rows are described there.

    Args:
        result: of this study.
    """
    return {
        "elicited": elicited_rows(result),
        "gating": gating_rows(result),
        "calibration": calibration_rows(result),
        "copying": copying_rows(result),
        "circuit": circuit_rows(result),
        "agreement": agreement_rows(result),
    }


class Counts(NamedTuple):
    """Elicited heads by the side on which they lie.

    Attributes:
        heads: all that were tested.
        more: those with a larger effect than under every random prefix.
        less: those with a smaller one.
    """

    heads: int
    more: int
    less: int


def counts(heads: pd.DataFrame) -> Counts:
    """Return how many heads are elicited above, and below, all random prefixes.

    Args:
        heads: rows of the table ``head``.
    """
    found = heads[heads["elicited"]]
    return Counts(
        len(heads), int((found["excess_low"] > 0).sum()), int((found["excess_high"] < 0).sum())
    )


def elicited_rows(result: Result) -> Rows:
    """Return, per kind of prefix and task, how many heads are elicited and by which part.

    Keys: ``parameterization``, ``direction``, ``tuned_on``, ``heads`` (over all seeds),
    ``elicited``, ``seeds_with_one`` (seeds with at least one), ``gate_share`` and
    ``bias_share`` (of the summed absolute parts, mean over seeds), ``largest`` (share of the
    prefix's effect that the strongest head alone recovers, mean over seeds).

    Args:
        result: of this study.
    """
    rows = []
    keys = ["parameterization", "direction", "tuned_on"]
    for (kind, direction, task), own in result.to_dataframe("head").groupby(keys, sort=False):  # type: ignore[misc]
        parts = own[["gate_effect", "bias", "propagated"]].abs().groupby(own["seed"]).sum()
        shares = parts.div(parts.sum(axis=1), axis=0).mean()
        rows.append(
            {
                "parameterization": kind, "direction": direction, "tuned_on": task,
                "heads": len(own), "elicited": int(own["elicited"].sum()),
                "seeds_with_one": int(own.groupby("seed")["elicited"].any().sum()),
                "gate_share": float(shares["gate_effect"]), "bias_share": float(shares["bias"]),
                "largest": float(own.groupby("seed")["recovered"].max().mean()),
            }
        )  # fmt: skip
    return rows


def calibration_rows(result: Result) -> Rows:
    """Return the mean total effect of one head under the prefix and under every control.

    Keys: ``parameterization``, ``direction``, ``prefix`` (``"tuned"`` or the control), ``mean``
    over heads, tasks and seeds, ``low`` and ``high``, ``largest``. The interval is 95% for new
    seeds and new test inputs, which all seeds share (`combined_interval`). Controls of several
    draws are recorded with the range of these draws and not with what the inputs leave open: theirs
    is a t interval over seeds alone.

    Args:
        result: of this study.
    """
    controls = result.to_dataframe("control")
    tuned = result.to_dataframe("head").assign(control="tuned", draws=1)
    columns = ["parameterization", "direction", "control", "seed", "draws", "effect", "low", "high"]
    both = pd.concat([tuned[columns], controls[columns]])
    rows = []
    for (kind, direction, name), own in both.groupby(columns[:3], sort=False):  # type: ignore[misc]
        mean = _mean_effect(own)
        rows.append(
            {
                "parameterization": kind, "direction": direction, "prefix": name,
                "mean": mean.value, "low": mean.low, "high": mean.high,
                "largest": float(own["effect"].max()),
            }
        )  # fmt: skip
    return rows


def _mean_effect(own: pd.DataFrame) -> Estimate:
    """Return the mean over seeds with its interval, over inputs too if the records have it."""
    seeds = [part for _, part in own.groupby("seed")]
    scores = [
        Estimate(*(float(part[name].mean()) for name in ("effect", "low", "high")))
        for part in seeds
    ]
    if int(own["draws"].max()) > 1:
        return seed_interval([score.value for score in scores])
    return combined_interval(scores)


def agreement_rows(result: Result) -> Rows:
    """Return how well gradient estimates rank the effects that exact patches measure.

    Keys: ``estimate``, ``direction``, ``n``, ``median``, ``min`` and ``max`` of Spearman's rank
    correlation over seeds and tasks. A correlation is undefined, and not counted, if all values of
    one side are equal; if none is defined, ``n`` is 0 and the others are None.

    Args:
        result: of this study.
    """
    rows = []
    grouped = result.to_dataframe("agreement").groupby(["estimate", "direction"], sort=False)
    for (name, direction), own in grouped:  # type: ignore[misc]
        values = own["spearman"].dropna().tolist()
        rows.append(
            {
                "estimate": name, "direction": direction, "n": len(values),
                "median": statistics.median(values) if values else None,
                "min": min(values, default=None), "max": max(values, default=None),
            }
        )  # fmt: skip
    return rows


def copying_rows(result: Result) -> Rows:
    """Return, per task, the gate at output 0 of the head that copies most, and of the others.

    Keys: ``tuned_on``, ``seeds``, ``copying_gate`` with its 95% t interval over seeds ``low`` and
    ``high`` (gates are recorded without what the test inputs leave open), its ``median`` and
    ``seeds_above_half``, ``other_gate`` (mean over the other heads), ``copy`` (mean attention of
    that head from output i to input i without a prefix). Only residual prefixes.

    Args:
        result: of this study.
    """
    frame = result.to_dataframe("head")
    frame = frame[(frame["parameterization"] == "residual") & (frame["direction"] == "noise")]
    rows = []
    for task, own in frame.groupby("tuned_on", sort=False):
        is_top = own["copy"] == own.groupby("seed")["copy"].transform("max")
        mean = seed_interval(own[is_top]["gate_first"].tolist(), 0.0, 1.0)
        rows.append(
            {
                "tuned_on": task, "seeds": int(is_top.sum()), "copying_gate": mean.value,
                "low": mean.low, "high": mean.high,
                "median": float(own[is_top]["gate_first"].median()),
                "seeds_above_half": int((own[is_top]["gate_first"] > 0.5).sum()),
                "other_gate": float(own[~is_top]["gate_first"].mean()),
                "copy": float(own[is_top]["copy"].mean()),
            }
        )  # fmt: skip
    return rows


def circuit_rows(result: Result) -> Rows:
    """Return, per task, the sizes of the smallest circuits and how faithful they are.

    Keys: ``tuned_on``, ``seeds``, ``size`` (mean), ``smallest``, ``largest``, ``of``,
    ``faithfulness`` (mean), ``held_out`` (mean, on other sequences), ``completeness`` (mean).

    Args:
        result: of this study.
    """
    rows = []
    for task, own in result.to_dataframe("circuit").groupby("tuned_on", sort=False):
        rows.append(
            {
                "tuned_on": task, "seeds": len(own), "size": float(own["size"].mean()),
                "smallest": int(own["size"].min()), "largest": int(own["size"].max()),
                "of": int(own["of"].max()),
                **{k: float(own[f"{k}.value"].mean())
                   for k in ("faithfulness", "held_out", "completeness")},
            }
        )  # fmt: skip
    return rows


def gating_rows(result: Result) -> Rows:
    """Return the scores with the prefix kept, or dropped, at the one head where it matters most.

    Keys: ``parameterization``, ``tuned_on``, ``seeds`` and, as mean exact match over seeds,
    ``kept_at_one`` (the prefix only at its best head) and ``dropped_at_one`` (everywhere except at
    the head where this costs most).

    Args:
        result: of this study.
    """
    frame = result.to_dataframe("gating")
    frame = frame[frame["metric"] == "exact_match"]
    rows = []
    for (kind, task), own in frame.groupby(["parameterization", "tuned_on"], sort=False):  # type: ignore[misc]
        by_seed = {d: part.groupby("seed")["value"] for d, part in own.groupby("direction")}
        rows.append(
            {
                "parameterization": kind, "tuned_on": task, "seeds": own["seed"].nunique(),
                "kept_at_one": float(by_seed["denoise"].max().mean()),
                "dropped_at_one": float(by_seed["noise"].min().mean()),
            }
        )  # fmt: skip
    return rows
