"""The report's sections on what is possible: theorems as models, and one head as approximator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from prefix_interp.experiments.grouping import over_seeds
from prefix_interp.results import Result
from prefix_interp.theory.constructions import any_map_to_sequences, any_sequence
from prefix_interp.views.constructions import trace, trace_figure
from prefix_interp.views.display import attention_div
from prefix_interp.views.sections import Interactive, Section, Words, picture, records
from prefix_interp.views.tables import frame_table
from prefix_interp.views.universality import universality_figure

WRITTEN = torch.tensor([3, 1, 4, 1, 5, 9])  # a sequence to show Theorem 1 on
_NAMES = {
    "any_sequence": "Theorem 1: any sequence",
    "any_map": "Theorem 2: any map of a token",
    "any_map_to_sequences": "longer responses",
    "any_map_of_pairs": "any map of two tokens",
}
_COUNTS = {
    "n_tokens": "V", "n_out": "outputs", "n_slots": "virtual tokens", "n_layers": "layers",
    "behaviours": "behaviours", "inputs": "inputs", "right": "right", "checked": "checked",
}  # fmt: skip


def constructions_section(result: Result) -> Section:
    """Return the constructions at work, what came out right and how sharp their bounds are.

    Args:
        result: from `constructions`.
    """
    frame = result.to_dataframe()
    frame["construction"] = frame["construction"].map(_NAMES)
    parts = {name: own.dropna(axis="columns", how="all") for name, own in frame.groupby("part")}
    counts = parts["right"][["construction", *_COUNTS]].rename(columns=_COUNTS)
    counts["outputs"] = counts["outputs"].fillna(1).astype(int)
    sharp = parts["sharp"][
        ["construction", "n_tokens", "n_out", "smallest_temperature", "offset", "exact", "hardest"]
    ]
    precision = parts["precision"][["dtype", "decoder", "largest", "n_tokens", "right", "checked"]]
    writer = any_sequence(n_tokens=10, length=len(WRITTEN))
    steps = trace(writer, WRITTEN)
    answers = any_map_to_sequences(n_tokens=4, n_out=3)
    table = torch.tensor([[3, 1, 0], [0, 0, 2], [2, 1, 1], [1, 3, 2]])
    longer = trace(answers, table, [2])
    shown = [
        picture(
            "theorem-1",
            trace_figure(writer, steps),
            "Five panels: the virtual token's coordinates, two heads that look at the own position "
            "and at the virtual token, the number read at each output, and the logits.",
            "Theorem 1 as a model with hooks, V = 10, N = 6, block 0: head self marks a "
            "coordinate, head first brings the virtual token, their sum less 1 leaves one number, "
            "and the unembedding names the code nearest to it (ringed). Rows in bold are read; "
            "output 0 is read at the virtual token itself.",
            steps.to_dataframe(),
        ),
        Interactive(
            attention_div(steps.view, "theorem-1-attention"),
            "Theorem 1: attention, to explore",
            "Both heads of block 0; rows are queries, columns keys, s1 is the virtual token.",
            frame_table(steps.view.to_dataframe(), 2),
        ),
        picture(
            "longer-responses",
            trace_figure(answers, longer),
            "Virtual tokens with a table of answers, the head that fetches one of them a position, "
            "the head that fetches the input, the numbers and the logits.",
            "Three answers to one input from three virtual tokens, V = 4: slot k holds the k-th "
            "answers to all inputs; at each output one head brings the slot, the other the input "
            "token, which picks a coordinate.",
            longer.to_dataframe(),
        ),
        Words("What came out right", "Rows of wanted outputs, all of them right or not counted; "
              "float64, temperature 5 above the smallest.", frame_table(counts, 6)),
        Words("How sharp", "Exact: the share of random behaviours that come out right on every "
              "input at the smallest temperature plus an offset. Hardest: whether the hardest "
              "behaviour does.",
              frame_table(sharp, 6), folded=True),
        Words("Precision", "Codes of a vocabulary that come out right, by dtype and decoder. "
              "Largest: what is proved and allowed.", frame_table(precision, 6), folded=True),
    ]  # fmt: skip
    numbers = {"right": records(counts), "sharp": records(sharp), "precision": records(precision)}
    return Section(
        "constructions", "Theorems", "One virtual token can say anything",
        "In a transformer made for it. Section 3 of the paper, as models that can be hooked and "
        "looked at.",
        shown, numbers, _construction_findings(counts),
    )  # fmt: skip


def _construction_findings(counts: pd.DataFrame) -> list[str]:
    words = [
        f"{name} {int(own['right'].sum()):,} of {int(own['checked'].sum()):,}"
        for name, own in counts.groupby("construction", sort=False)
    ]
    return [f"Constructions, rows right: {'; '.join(words)}."]


def universality_section(result: Result) -> Section:
    """Return how well one fixed head fits functions on spheres with more and more slots.

    Args:
        result: from `universality`.
    """
    fits = pd.DataFrame(_fit_rows(result))
    dims = sorted(set(fits["sphere"].tolist()))
    shown = [
        picture(
            f"universality-{dim}",
            universality_figure(result, dim),
            f"Error against the number of slots on the sphere S{dim}, falling lines for fitted "
            "values and flat ones for random values; beside them violations of eq. 6 and 7 and "
            "the bias's rank.",
            f"One head with fixed weights, functions on S^{dim} with variance 1, held-out points, "
            f"{len(result.seeds)} seeds (bands: all seeds). Layer 0, head 0, masked baseline. All "
            "that differs from line to line is the prefix: its values, or the length of its keys "
            "(κ). The mass of the gate grows finer with the slots, the rank of the bias does not "
            "grow past the number of outputs and eq. 6 holds throughout.",
            fits[fits["sphere"] == dim],
        )
        for dim in dims
    ]
    return Section(
        "universality", "Universality", "One head, many slots: any function on a sphere",
        "Relative attention stays, the bias has a bounded rank, and yet enough slots fit any "
        "continuous function of the query (Petrov et al. 2024): each slot's share of the mass is "
        "a kernel around its key.",
        shown, {"fits": records(fits)}, _fit_findings(fits),
    )  # fmt: skip


def _fit_rows(result: Result) -> list[dict[str, Any]]:
    """Return a row a sphere, function, method and number of slots, over seeds."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in result.records:
        if record["part"] != "fit":
            continue
        for name, error in record["rmse"].items():
            own = {**record, "error": error, "largest": record["max_error"][name]}
            key = record["dim"], name, record["method"], record["n_slots"]
            groups.setdefault(key, []).append(own)
    rows = []
    for (dim, name, method, n_slots), own in groups.items():
        error = over_seeds(own, "error")
        row = {"sphere": dim, "function": name, "method": method, "slots": n_slots,
               "rmse": error["mean"], "low": error["low"], "high": error["high"],
               "largest error": _mean(own, "largest")}  # fmt: skip
        if n_slots:
            row |= {"eq. 6": max(r["eq6"] for r in own), "rank": max(r["rank"] for r in own),
                    "bound": own[0]["bound"], "gate": _mean(own, "gate")}  # fmt: skip
        rows.append(row)
    return rows


def _mean(own: Sequence[Mapping[str, Any]], key: str) -> float:
    return sum(r[key] for r in own) / len(own)


def _fit_findings(fits: pd.DataFrame) -> list[str]:
    own = fits[(fits["sphere"] == 2) & (fits["function"] == "harmonic")]
    words = []
    for method in ("quadrature", "least squares, flat", "random values"):
        here = own[own["method"] == method].sort_values("slots")
        first, last = here.iloc[0], here.iloc[-1]
        words.append(
            f"{method} {first['rmse']:.2g} with {int(first['slots'])} slots and {last['rmse']:.2g} "
            f"with {int(last['slots'])}"
        )
    return [
        f"Universality, a harmonic on S^2, root mean square error: {'; '.join(words)}; eq. 6 "
        f"within {fits['eq. 6'].max():.0e}."
    ]
