"""Attention and a head's output with and without a prefix, on the shipped models of Table 1."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from analyses.claims.headlines import headlines
from analyses.claims.measure import plain_difference_spectrum
from analyses.claims.zoo import load_zoo, zoo_runs
from analyses.report.evidence import Evidence
from analyses.report.sections import (
    Interactive,
    Picture,
    Section,
    SideBySide,
    Words,
    picture,
    records,
)
from analyses.report.tables import frame_table
from analyses.study import Job, Rows, Study, Tables
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
from prefix_interp.views.display import attention_div
from prefix_interp.views.style import variant_label

N_SHOWN = 3  # test sequences in the attention figures
FULL_COLOUR = 0.5  # most attention here is far below 1


@dataclass(frozen=True)
class Protocol:
    """Size of the measurement.

    Attributes:
        n_singular: number of singular values per spectrum.
    """

    n_singular: int = 24


def measure(job: Job) -> dict[str, Rows]:
    """Return what the figures show, for head 0 of layer 0 against the masked baseline.

    - ``query``: attention of the position that predicts output 0, per sequence and model: ``gate``
      and the renormalised content (``key 0``, ``key 1``, ...).
    - ``parts``: gate, norms of scaled base and bias, and residual, by prefix and position.
    - ``spectrum``: per prefix, singular values of the bias and of the plain difference as shares of
      the first, and the bound.

    Args:
        job: its evidence contains the models.
    """
    evidence = job.evidence
    assert evidence is not None
    query = _query(evidence)
    rows: Rows = []
    for i, views in enumerate(evidence.once(attention_views)):
        for view in views:
            shares = view.content[0, 0, query, : query + 1].tolist()
            rows.append(
                {"sequence": i + 1, "model": view.name, "gate": float(view.gate[0, 0, query])}
                | {f"key {k}": share for k, share in enumerate(shares)}
            )
    parts, spectra = [], []
    for pair, found in evidence.once(zoo_runs).values():
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
    """Return the attention with and without a prefix, and the parts of a head's output.

    Args:
        evidence: contains the models; this section has the findings of the claims.
    """
    rows = evidence.tables("attention")
    groups = evidence.once(attention_views)
    query = picture(
        "query",
        query_figure(groups, _query(evidence)),
        f"Attention of the position that predicts the first output, for {len(groups)} test "
        "sequences: one row per model (pretrained, fine-tuned, and pretrained with each "
        "prefix), one column per key, and a separate column for the gate.",
        "Attention at the first response position (the last input token, which predicts output "
        "0), head 0 of layer 0, masked baseline. The separate orange column is the gate: the "
        "attention mass on all prefix slots together. The blue columns are the attention to the "
        "content, renormalised to sum to 1; all share one colour scale.",
        pd.DataFrame(rows["query"]),
    )
    attention = Section(
        "attention", "Attention", "Attention",
        "Sorting descending needs a different attention pattern from sorting ascending: the first "
        "output is the largest digit instead of the smallest. Fine-tuning moves the attention "
        "there. A prefix draws attention to itself and leaves the proportions within the content "
        "unchanged.",
        [
            query,
            Words(
                "The whole pattern",
                "The same models on the first of these sequences, with the right answers fed in. "
                "Hover over a cell to see its value; without scripts a static picture is shown.",
            ),
            SideBySide([_interactive(view, i) for i, view in enumerate(groups[0])]),
        ],
        {"query": rows["query"]}, headlines(evidence),
    )  # fmt: skip
    inside = Section(
        "heads", "Inside a head", "Inside a head",
        Markup(
            "With a prefix, a head's output is <span class=\"formula\">z<sub>pt</sub> = (1 − g) t "
            "+ Σ<sub>p</sub> A<sub>p</sub> v<sub>p</sub></span>: the pretrained output, scaled, "
            "plus a bias. The two parts come from separate runs, so the residual is a measurement, "
            "not an identity."
        ),
        [_parts(evidence, rows), _spectra(evidence, rows)],
        {name: rows[name] for name in ("parts", "spectrum")},
    )  # fmt: skip
    return [attention, inside]


def _interactive(view: AttentionView, index: int) -> Interactive:
    """Return one whole attention pattern to explore."""
    n = view.slots.shape[-1]
    caption = "Head 0, layer 0, first test sequence; rows are queries, columns keys. "
    if n:
        caption += (
            f"{f'P1 to P{n} hold' if n > 1 else 'P1 holds'} the attention mass on the prefix, not "
            "renormalised. After an empty column the content follows, renormalised to sum to 1. It "
            f"is padded to a square: the first {n + 1} rows are not queries and stay empty."
        )
    else:
        caption += "No prefix (masked baseline): rows sum to 1 without renormalisation."
    caption += (
        f" Full colour means {FULL_COLOUR:g}. In the interactive figure the number in brackets "
        "counts rows and columns."
    )
    div = attention_div(view, f"attention-{index}", max_value=FULL_COLOUR)
    return Interactive(div, view.name, caption, frame_table(view.to_dataframe(), 2))


def _parts(evidence: Evidence, rows: Tables) -> Picture:
    """Return gate, base, bias and residual by position."""
    runs, zoo = evidence.once(zoo_runs), evidence.once(load_zoo)
    frame = pd.DataFrame(rows["parts"])
    return picture(
        "parts",
        parts_figure({_label(pair): parts for pair, parts in runs.values()}, n_out=zoo.n_out),
        "Four panels by content position: gate, norm of the scaled pretrained output, norm of the "
        f"bias, and residual. The residual is at most {frame['residual'].max():.0e}.",
        Markup(
            "The parts of a head's output: gate g, |(1 − g) t| and |bias| (means over "
            "sequences) and the largest |z<sub>pt</sub> − (1 − g) t − bias|. Head 0, layer 0, "
            "masked baseline; t is the pretrained head's output, from a separate run. Positions "
            "with grey shading predict outputs. The axis of |bias| is logarithmic. Residuals of "
            "exactly 0 are drawn at 1e-18."
        ),
        frame,
    )


def _spectra(evidence: Evidence, rows: Tables) -> Picture:
    """Return the spectra of the biases and of the plain differences."""
    runs = evidence.once(zoo_runs).values()
    frame = pd.DataFrame(rows["spectrum"])
    beyond = frame.loc[frame["index"] > frame["bound"], "of_first"].max()
    return picture(
        "spectrum",
        spectrum_figure(
            {_label(pair): _space(pair) for pair, _ in runs},
            {_label(pair): plain_difference_spectrum(parts) for pair, parts in runs},
            int(frame["index"].max()),
        ),
        "One panel per prefix: beyond the number of slots the singular values of the bias are "
        f"at most {beyond:.0e} of the first, those of the plain difference fall slowly.",
        Markup(
            "Singular values, as a share of the first, of z<sub>pt</sub> − (1 − g) t (the bias) "
            "and of z<sub>pt</sub> − t, over all test sequences and positions. Head 0, layer 0, "
            "masked baseline. The dashed line is the bound n<sub>s</sub>: a bias cannot have more "
            "directions than slots."
        ),
        frame,
    )


def tables(result: Result) -> Tables:
    """Return the tables as measured: there is only one seed, so nothing to summarise."""
    return result.tables


STUDY = Study(
    name="attention",
    claim="Does a prefix leave the attention to the content as it was (equations 6 and 7)?",
    protocols={"fast": Protocol(), "smoke": Protocol(n_singular=2)},
    measure=measure,
    tables=tables,
    section=sections,
    seeds=1,
    live=True,
)
