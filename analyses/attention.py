"""The figures of the report, each with caption, text alternative and numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup
from prefix_interp.experiments.claims import Zoo, plain_difference_spectrum
from prefix_interp.views.sections import Interactive, Picture

from prefix_interp.prefixes.baselines import RunPair, run_pair
from prefix_interp.results import Result
from prefix_interp.theory.decompose import Decomposition, decompose_attention
from prefix_interp.theory.subspace import BiasSubspace, bias_subspace
from prefix_interp.views import tables
from prefix_interp.views.attention import (
    AttentionView,
    attention_view,
    plain_attention_view,
    query_figure,
)
from prefix_interp.views.display import attention_div
from prefix_interp.views.plots import parts_figure, spectrum_figure, sweep_figure
from prefix_interp.views.style import data_uri, variant_label

N_SHOWN = 3  # test sequences in the attention figures
N_SINGULAR = 24
FULL_COLOUR = 0.5  # most attention here is far below 1


def measure(zoo: Zoo) -> tuple[dict[str, RunPair], dict[str, Decomposition]]:
    """Return runs and decompositions of every prefix of the zoo, by its name in words."""
    pairs = {
        variant_label(p.parameterization, p.n_slots): run_pair(zoo.pretrained, p, zoo.tokens)
        for p in zoo.prefixes.values()
    }
    return pairs, {name: decompose_attention(pair) for name, pair in pairs.items()}


def attention_views(zoo: Zoo, pairs: Mapping[str, RunPair]) -> list[list[AttentionView]]:
    """Return, for the first few sequences, the attention of every model and prefix."""
    return [
        [
            plain_attention_view(zoo.pretrained, zoo.tokens, i, "pretrained"),
            plain_attention_view(zoo.fine_tuned, zoo.tokens, i, "fine-tuned"),
            *(attention_view(pair, i, name) for name, pair in pairs.items()),
        ]
        for i in range(min(N_SHOWN, len(zoo.tokens)))
    ]


def query_picture(groups: list[list[AttentionView]], first: int) -> Picture:
    """Return the attention of the position that predicts output 0, `first`."""
    query = first
    rows = []
    for i, views in enumerate(groups):
        for view in views:
            shares = view.content[0, 0, query, : query + 1].tolist()
            rows.append(
                {"sequence": i + 1, "model": view.name, "gate": float(view.gate[0, 0, query])}
                | {f"key {k}": s for k, s in enumerate(shares)}
            )
    return Picture(
        "query",
        data_uri(query_figure(groups, query)),
        f"Attention of the position that predicts the first output, for {len(groups)} test "
        "sequences: one row each for the pretrained model, the fine-tuned model and every "
        "prefix, one column a key, and a column apart for the gate.",
        "Attention at the first response position (the last input token, which predicts output "
        "0), head 0 of layer 0, masked baseline. The orange column set apart is the gate: the "
        "attention mass on all prefix slots together. The blue columns are the attention to the "
        "content, renormalised to sum to 1; they all share one colour scale.",
        tables.frame_table(pd.DataFrame(rows)),
    )


def interactive(view: AttentionView, index: int) -> Interactive:
    """Return one whole attention pattern to explore."""
    n = view.slots.shape[-1]
    caption = "Head 0, layer 0, first test sequence; rows are queries, columns keys. "
    if n:
        caption += (
            f"{f'P1 to P{n} hold' if n > 1 else 'P1 holds'} the attention mass on the prefix as it "
            "is; behind an empty column the content follows, renormalised to sum to 1. The figure "
            f"is padded to a square: the first {n + 1} rows are no queries and stay empty."
        )
    else:
        caption += "No prefix (masked baseline): rows sum to 1 as they are."
    caption += (
        f" Colours are full at {FULL_COLOUR:g}. In the interactive figure the number in brackets "
        "counts rows and columns."
    )
    div = attention_div(view, f"attention-{index}", max_value=FULL_COLOUR)
    return Interactive(div, view.name, caption, tables.frame_table(view.to_dataframe(), 2))


def parts_picture(parts: Mapping[str, Decomposition], n_out: int) -> Picture:
    """Return gate, base, bias and residual by position."""
    frames = [d.to_dataframe().assign(prefix=name) for name, d in parts.items()]
    frame = pd.concat(frames)
    columns = ["prefix", "layer", "head", "pos", "gate", "scaled_base", "bias", "residual"]
    return Picture(
        "parts",
        data_uri(parts_figure(parts, n_out=n_out)),
        "Four panels by content position: gate, size of the scaled pretrained output, size of the "
        f"bias, and residual. The residual is at most {frame['residual'].max():.0e}.",
        Markup(
            "What a head's output is made of: gate g, |(1 − g) t| and |bias| (means over "
            "sequences) and the largest |z<sub>pt</sub> − (1 − g) t − bias|. Head 0, layer 0, "
            "masked baseline; t is the pretrained head's output in a run of its own. Positions "
            "on shaded ground predict outputs. The axis of |bias| is logarithmic. Residuals of "
            "exactly 0 are drawn at 1e-18."
        ),
        tables.frame_table(frame[columns]),
    )


def spectrum_picture(zoo: Zoo, parts: Mapping[str, Decomposition]) -> Picture:
    """Return the spectra of the biases beside those of the plain differences."""
    spaces: dict[str, BiasSubspace] = {
        name: bias_subspace(zoo.pretrained, prefix, zoo.tokens, layer=0, head=0)
        for name, prefix in zip(parts, zoo.prefixes.values(), strict=True)
    }
    plain = {name: plain_difference_spectrum(d) for name, d in parts.items()}
    frames = []
    for name, space in spaces.items():
        frame = space.to_dataframe().drop(columns="value").assign(prefix=name, bound=space.bound)
        frame["plain_of_first"] = (plain[name] / plain[name][0]).tolist()
        frames.append(frame.head(N_SINGULAR))
    table = pd.concat(frames)
    beyond = table.loc[table["index"] > table["bound"], "of_first"].max()
    columns = ["prefix", "bound", "index", "of_first", "plain_of_first"]
    return Picture(
        "spectrum",
        data_uri(spectrum_figure(spaces, plain, N_SINGULAR)),
        "One panel a prefix: behind the number of slots the singular values of the bias are at "
        f"most {beyond:.0e} of the first, those of the plain difference fall slowly.",
        Markup(
            "Singular values, as a share of the first, of z<sub>pt</sub> − (1 − g) t (the bias) "
            "and of z<sub>pt</sub> − t, over all test sequences and positions. Head 0, layer 0, "
            "masked baseline. The dashed line is the bound n<sub>s</sub>: no bias has more "
            "directions than slots."
        ),
        tables.frame_table(table[columns]),
    )


def sweep_picture(result: Result) -> Picture:
    """Return the learning-rate sweep of a Table 1."""
    return Picture(
        "sweep",
        data_uri(sweep_figure(result)),
        "Exact match, token accuracy and loss on sort descending against the learning rate, one "
        "line for each parameterization and number of slots.",
        "Prefix tuning for sort descending at every learning rate of the sweep, whole model, "
        f"{len(result.seeds)} seeds, test split: lines are means, bands reach from the smallest "
        "to the largest seed.",
        tables.sweep_table(result),
    )
