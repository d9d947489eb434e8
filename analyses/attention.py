"""Attention and a head's output with and without a prefix, on the shipped models of Table 1."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from analyses.channels import WAYS, channel_rows
from analyses.claims.measure import plain_difference_spectrum
from analyses.claims.zoo import load_zoo, zoo_runs
from analyses.report.charts import Bar, bars, log_share
from analyses.report.evidence import Evidence
from analyses.report.sections import Card, Section, Words, picture, records
from analyses.report.tables import Column, decimals, percent, power, rows_table
from analyses.study import Job, Rows, Study, Tables
from analyses.table1.measure import NEW
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.results import Result
from prefix_interp.theory.subspace import BiasSubspace, bias_subspace
from prefix_interp.views.attention import (
    AttentionView,
    attention_view,
    plain_attention_view,
    query_figure,
)
from prefix_interp.views.decomposition import parts_figure, spectrum_figure
from prefix_interp.views.style import variant_label

N_SHOWN = 3  # test sequences in the attention figures


@dataclass(frozen=True)
class Protocol:
    """Size of the measurement.

    Attributes:
        n_singular: number of singular values per spectrum.
        n_content: number of sequences that show by which way the content passes.
    """

    n_singular: int = 24
    n_content: int = 2048


def measure(job: Job) -> dict[str, Rows]:
    """Return what the figures show, for head 0 of layer 0 against the masked baseline.

    - ``query``: attention of the position that predicts output 0, per sequence and model: ``gate``
      and the renormalised content (``key 0``, ``key 1``, ...).
    - ``parts``: gate, norms of scaled base and bias, and residual, by prefix and position.
    - ``content``: per prefix, by which way the content passes (see `channel_rows`).
    - ``spectrum``: per prefix, singular values of the bias and of the plain difference as shares of
      the first, and the bound.

    Args:
        job: its evidence contains the models.
    """
    evidence = job.evidence
    assert evidence is not None
    zoo, runs, query = evidence.once(load_zoo), evidence.once(zoo_runs), _query(evidence)
    rows: Rows = []
    for i, views in enumerate(evidence.once(attention_views)):
        for view in views:
            shares = view.content[0, 0, query, : query + 1].tolist()
            rows.append(
                {"sequence": i + 1, "model": view.name, "gate": float(view.gate[0, 0, query])}
                | {f"key {k}": share for k, share in enumerate(shares)}
            )
    parts, spectra = [], []
    for pair, found in runs.values():
        parts.append(found.to_dataframe().assign(prefix=_label(pair)))
        space, plain = _space(pair), plain_difference_spectrum(found)
        frame = space.to_dataframe().drop(columns="value")
        frame = frame.assign(prefix=_label(pair), bound=space.bound)
        frame["plain_of_first"] = (plain / plain[0]).tolist()
        spectra.append(frame.head(job.protocol.n_singular))
    columns = ["prefix", "layer", "head", "pos", "gate", "scaled_base", "bias", "residual"]
    order = ["prefix", "bound", "index", "of_first", "plain_of_first"]
    return {
        "query": rows,
        "parts": records(pd.concat(parts)[columns]),
        "content": channel_rows(
            zoo.pretrained,
            {_label(pair): pair.prefix for pair, _ in runs.values()},
            NEW,
            job.protocol.n_content,
            job.seed,
        ),
        "spectrum": records(pd.concat(spectra)[order]),
    }


def _query(evidence: Evidence) -> int:
    """Return the last input position, which predicts output 0."""
    zoo = evidence.once(load_zoo)
    return zoo.tokens.shape[1] - zoo.n_out


def _label(pair: RunPair) -> str:
    return variant_label(pair.prefix.parameterization, pair.prefix.n_slots)


def _space(pair: RunPair) -> BiasSubspace:
    return bias_subspace(pair.model, pair.prefix, pair.tokens, layer=0, head=0)


def attention_views(evidence: Evidence) -> list[list[AttentionView]]:
    """Return, for the first few sequences, the attention of every model and prefix.

    Args:
        evidence: contains the models and their runs; this function is for `Evidence.once`.
    """
    zoo, runs = evidence.once(load_zoo), evidence.once(zoo_runs)
    return [
        [
            plain_attention_view(zoo.pretrained, zoo.tokens, i, "pretrained"),
            plain_attention_view(zoo.fine_tuned, zoo.tokens, i, "fine-tuned"),
            *(attention_view(pair, i, _label(pair)) for pair, _ in runs.values()),
        ]
        for i in range(N_SHOWN)
    ]


def sections(evidence: Evidence) -> list[Section]:
    """Return the attention with and without a prefix, the rank of the bias, and a head's output.

    Args:
        evidence: contains the models, and the claims about them.
    """
    rows = evidence.tables("attention")
    return [_attention(evidence, rows), _rank(evidence, rows), _inside(evidence, rows)]


def _attention(evidence: Evidence, rows: Tables) -> Section:
    groups, query = evidence.once(attention_views), _query(evidence)
    claims = evidence.tables("claims")["claims"]
    still = max(r["value"] for r in claims if r["claim"] == "relative-attention")
    moved = min(r["value"] for r in claims if r["claim"] == "fine-tuning-attention")
    holds = all(r["verdict"] == "holds" for r in claims if r["claim"] == "relative-attention")
    how = (
        "Attention of the last input token, which predicts output 0, in head 0 of layer 0. Orange: "
        "the gate, the share that goes to the prefix. Blue: the attention to the input, "
        "renormalised; all rows share one scale. Baseline: masked."
    )
    alt = (
        "One row for each model: the row of the fine-tuned model differs, the rows of all prefixes "
        "are equal to that of the pretrained model but for the gate beside them."
    )
    keys = [Column(f"Key {k}", f"key {k}", decimals(2)) for k in range(query + 1)]
    return Section(
        "attention", "Attention stays",
        f"No prefix moves the attention within the input: at most {power(still, 0)}, "
        f"where fine-tuning moves it by {moved:.2f}",
        "cannot",
        "Sorting descending needs another pattern than sorting ascending, since the first output "
        "is the largest digit instead of the smallest, and fine-tuning moves the attention there. "
        "A prefix draws attention to itself and leaves the proportions within the input as they "
        "were.",
        picture("query", query_figure(groups, query), alt, how),
        [
            Words(
                "Method",
                "Numbers in the title: largest total variation distance to the pretrained pattern, "
                "after renormalisation, over all prefixes and the positions that predict outputs; "
                "for fine-tuning its mean. Models in float64, answers fed in.",
            ),
            Words("The figure in numbers", "", rows_table(
                rows["query"], [Column("Sequence", "sequence"), Column("Model", "model"),
                                Column("Gate", "gate", decimals(2)), *keys],
            )),
        ],
        {"query": rows["query"]},
        card=Card(
            power(still), "is how far a prefix moves relative attention, at most",
            bars(
                [Bar("fine-tuning", log_share(moved), f"{moved:.2f}", "orange"),
                 Bar("any prefix", log_share(still), f"{power(still, 0)}")],
                f"On a logarithmic axis from 1e-17 to 1: fine-tuning {moved:.2f}, any prefix "
                f"{power(still, 0)}.",
            ),
            "holds exactly, for all prefixes" if holds else "does not hold for all prefixes",
            holds,
        ),
        top=picture(
            "query-first",
            query_figure(groups[:1], query),
            alt,
            "Attention of the last input token: all prefixes leave the blue pattern as "
            "it was, fine-tuning does not. Orange: what goes to the prefix.",
        ),
    )  # fmt: skip


def _inside(evidence: Evidence, rows: Tables) -> Section:
    """Return gate, base, bias and residual by position, and what carries the content."""
    runs, zoo = evidence.once(zoo_runs), evidence.once(load_zoo)
    residual = max(r["residual"] for r in rows["parts"])
    first, last = _query(evidence), max(r["pos"] for r in rows["parts"])
    gates = {(r["prefix"], r["pos"]): r["gate"] for r in rows["parts"]}
    best = max(rows["content"], key=lambda r: r["both"])
    name, right = best["prefix"], {way: percent(best[way]) for way in WAYS}
    return Section(
        "heads",
        "Inside a head",
        "With a prefix, a head's output is its old output, scaled down, plus a bias",
        "does",
        Markup(
            "The content passes mainly through the scaled output (1 − g) t, and the gate is the "
            "minor way: for {} the answers are {} % right, with gate and bias held at their means "
            "still {} %, with t held instead {} %, with all held {} %. That prefix takes {} % of "
            "the attention at the first output and {} % at the last."
            if best["scaled_base"] > best["gate_and_bias"] else
            "Of the answers {} gets {} % right, with gate and bias held at their means {} %, with "
            "t held instead {} %, with all held {} %. It takes {} % of the attention at the first "
            "output and {} % at the last."
        ).format(
            name, *right.values(), percent(gates[name, first]), percent(gates[name, last])
        ),
        picture(
            "parts",
            parts_figure({_label(pair): parts for pair, parts in runs.values()}, n_out=zoo.n_out),
            "Four panels by content position: gate, norm of the scaled pretrained output, norm of "
            f"the bias, and residual. The residual is at most {power(residual, 0)}.",
            "Gate g, |(1 − g) t| and |bias| (means over sequences), and the largest residual. Head "
            "0, layer 0, masked baseline. Shaded positions predict outputs. The axis of |bias| is "
            "logarithmic.",
        ),
        [
            Words(
                "Method",
                Markup(
                    "z<sub>pt</sub> = (1 − g) t + Σ<sub>p</sub> A<sub>p</sub> v<sub>p</sub>. The "
                    "two parts come from separate runs, so the residual, at most {}, is a "
                    "measurement and not an identity. Residuals of exactly 0 are drawn at 1e-18."
                ).format(power(residual, 0)),
            ),
            Words(
                "By which way the content passes",
                "Answers right, in percent. What is held is set to its mean over the sequences "
                "that agree on the output's index and the token before it.",
                rows_table(rows["content"], [
                    Column("Prefix", "prefix"), Column("Nothing held", "both", percent),
                    Column("Gate and bias held", "scaled_base", percent),
                    Column("t held", "gate_and_bias", percent),
                    Column("All held", "neither", percent)]),
            ),
            Words(
                "Attention that the prefix takes",
                "Gate, mean over sequences, in percent.",
                rows_table(
                    [{"prefix": label, "first": gates[label, first], "last": gates[label, last]}
                     for label in dict.fromkeys(r["prefix"] for r in rows["parts"])],
                    [Column("Prefix", "prefix"), Column("At the first output", "first", percent),
                     Column("At the last output", "last", percent)]),
            ),
        ],
        {name: rows[name] for name in ("parts", "content")},
    )  # fmt: skip


def _rank(evidence: Evidence, rows: Tables) -> Section:
    """Return the spectra of the biases and of the plain differences."""
    runs = evidence.once(zoo_runs).values()
    frame = pd.DataFrame(rows["spectrum"])
    beyond = frame.loc[frame["index"] > frame["bound"], "of_first"].max()
    plain = [
        {"prefix": prefix, "bound": int(own["bound"].iloc[0]),
         "bias": float(own["of_first"].iloc[int(own["bound"].iloc[0])]),
         "plain": float(own["plain_of_first"].iloc[int(own["bound"].iloc[0])])}
        for prefix, own in frame.groupby("prefix", sort=False)
    ]  # fmt: skip
    return Section(
        "rank", "As many directions as slots",
        "What a prefix adds to a head has no more directions than the prefix has slots",
        "cannot",
        Markup(
            "Beyond the number of slots the singular values of the bias, z<sub>pt</sub> − (1 − g) "
            "t, are at most {} of the first. Those of the plain difference, z<sub>pt</sub> − "
            "t, go on, since −g t is left in them."
        ).format(power(beyond, 0)),
        picture(
            "spectrum",
            spectrum_figure(
                {_label(pair): _space(pair) for pair, _ in runs},
                {_label(pair): plain_difference_spectrum(parts) for pair, parts in runs},
                int(frame["index"].max()),
            ),
            "One panel per prefix: the singular values of the bias fall to rounding error at the "
            "number of slots, those of the plain difference fall slowly.",
            "Singular values as a share of the first, over all test sequences and positions. Head "
            "0, layer 0, masked baseline. Dashed: the bound, the number of slots.",
        ),
        [Words("The first singular value beyond the bound", "As a share of the first of all.",
               rows_table(plain, [Column("Prefix", "prefix"), Column("Bound", "bound"),
                                  Column("Bias", "bias", power),
                                  Column("Plain difference", "plain", power)]))],
        {"spectrum": rows["spectrum"]},
    )  # fmt: skip


def tables(result: Result) -> Tables:
    """Return the tables as measured: there is only one seed, so nothing to summarise."""
    return result.tables


STUDY = Study(
    name="attention",
    claim="Does a prefix leave the attention to the content as it was (equations 6 and 7)?",
    protocols={"fast": Protocol(), "smoke": Protocol(n_singular=2, n_content=64)},
    measure=measure,
    tables=tables,
    section=sections,
    seeds=1,
    live=True,
)
