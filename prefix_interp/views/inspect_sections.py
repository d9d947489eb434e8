"""The sections of the page of `inspect`: a finding, a figure, two sentences, the rest folded."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from prefix_interp.inspection.look import Inspection
from prefix_interp.views.explorer import explorer
from prefix_interp.views.inspect_effects import (
    answers_section,
    circuit_section,
    elicited_section,
)
from prefix_interp.views.inspect_figures import (
    answers_picture,
    bias_picture,
    gate_picture,
    many_heads,
    moved_picture,
    sink_picture,
)
from prefix_interp.views.inspect_finding import LAYER_HEAD, ROWS, Finding
from prefix_interp.views.inspect_words import (
    acts_title,
    bias_title,
    gate_title,
    head_name,
    moved_title,
    readable,
    share,
    signed,
    sink_title,
    small,
)
from prefix_interp.views.page import Words, picture
from prefix_interp.views.page_tables import Column, Table, decimals, percent, rows_table, whole
from prefix_interp.words import counted


def all_sections(found: Inspection) -> list[Finding]:
    """Return the sections in the order of the page.

    Args:
        found: from `inspect`.
    """
    makers = (
        _acts,
        _gate,
        _sink,
        _bias,
        _says,
        _moved,
        elicited_section,
        circuit_section,
        answers_section,
        _explorer,
    )
    return [make(found) for make in makers]


def _acts(found: Inspection) -> Finding:
    measured, about = found.measured, found.about
    agree = "agree" if found.methods_agree else "do not agree"
    row = found.tables["acts"][0]
    rows = (
        ("Largest change of a logit, of the largest logit", small(row["logit_change"])),
        ("KL(with || without), mean over the places (nats)", small(row["kl"])),
        ("Places whose most likely token changes", share(row["changed"])),
        ("Mean log-probability with the prefix (nats)", small(row["log_prob_on"])),
        ("Mean log-probability without it (nats)", small(row["log_prob_off"])),
        ("Mean log-probability of the model as it is (nats)", small(row["log_prob_plain"])),
        ("Difference of the two ways to inject it", small(row["methods"])),
        ("Largest violation of equation 6 (shares of attention)", small(row["eq6"])),
        ("Largest violation of equation 7 (of the largest output)", small(row["eq7"])),
    )
    return Finding(
        id="acts", nav="Does it act?", title=acts_title(found),
        text=f"With and without the prefix the distributions of the next token differ by "
        f"{small(measured.kl)} nats (KL, mean over {about.n_answers:,} places). The two ways to "
        f"inject it, slots in the sequence and the exact mixture in every head, {agree} "
        f"(largest difference {small(measured.methods)} of the largest logit).",
        picture=picture(
            "fig-acts", answers_picture(found),
            "Every answer's log-probability without the prefix against that with it.",
            "Each point is one answer; 0 is certainty. Without: masked baseline.",
        ),
        folded=[
            Words("Whether it acts", f"It counts as acting if a logit changes by more than "
                  f"{small(about.rounding)} of the largest logit (1000 times the rounding of the "
                  "model's numbers).", Table(("Measure", "Value"), rows)),
        ],
        tables=["acts"],
    )  # fmt: skip


def _gate(found: Inspection) -> Finding:
    mean = found.measured.mean("gate")
    low = float(mean.min())
    return Finding(
        id="gate", nav="Gate", title=gate_title(found),
        text=f"The gate is the share of a head's attention that goes to the prefix: it scales what "
        f"the head wrote before by 1 − g. Over the heads it runs from {share(low)} to "
        f"{share(float(mean.max()))}.",
        picture=picture(
            "fig-gate", gate_picture(found),
            "Heat map of the gate: heads as rows, positions of the content as columns.",
            "Mean over the sequences. At 1 the head attends to the prefix alone.",
            dense=found.measured.gate.numel() > 1500,
        ),
        folded=[_largest(found, "gate", "The heads with the largest gates", (
            Column("Gate (%)", "gate", percent),))],
        tables=["heads", "parts"],
    )  # fmt: skip


def _sink(found: Inspection) -> Finding:
    off, on = found.measured.sink_off, found.measured.sink_on
    down = f"{int((on < off).sum())} of {counted(off.numel(), 'head')}"
    return Finding(
        id="sink", nav="Attention sink", title=sink_title(found),
        text=f"Many models park unused attention on the first token, and a prefix competes with "
        f"that place. Here {down} give the first content token less than without it.",
        picture=picture(
            "fig-sink", sink_picture(found),
            "Attention to the first content token without and with the prefix, by head or layer.",
            "Mean over sequences and over all positions but the first, of all attention of the "
            "head (slots included).",
        ),
        folded=[_largest(found, "sink_off", "The heads with the largest sink", (
            Column("Without the prefix (%)", "sink_off", percent),
            Column("With it (%)", "sink_on", percent)))],
        tables=["heads", "layers"],
    )  # fmt: skip


def _bias(found: Inspection) -> Finding:
    spaces = [space for own in found.measured.spaces for space in own]
    ranks = sorted(space.effective_rank for space in spaces)
    low, high = (decimals(2)(x) for x in (ranks[0], ranks[-1]))
    span = low if low == high else f"{low} to {high}"
    of_base = found.measured.mean("bias") / found.measured.mean("scaled_base").clamp_min(1e-12)
    return Finding(
        id="bias", nav="Bias", title=bias_title(found),
        text=f"The bias is what the slots' values add to a head's output; its effective rank, the "
        f"number of directions weighted by use, is {span}. Beside what the head still "
        "writes itself it is "
        f"{small(float(of_base.median()))} times as large in the median head.",
        picture=picture(
            "fig-bias", bias_picture(found),
            "Mean size of the bias of every head, with its rank and effective rank.",
            "Measured from z_pt − (1 − g) t over all sequences and positions, not from the "
            "prefix's values.",
            dense=many_heads(found),
        ),
        folded=[_largest(found, "bias", "The heads with the largest bias", (
            Column("Size of the bias", "bias", decimals(3)),
            Column("Size of (1 − g) t", "scaled_base", decimals(3)),
            Column("Rank", "rank", whole), Column("At most", "bound", whole),
            Column("Effective rank", "effective_rank", decimals(2))))],
        tables=["heads", "parts"],
    )  # fmt: skip


def _says(found: Inspection) -> Finding:
    title = "What the bias says in the vocabulary"
    if found.said is None:
        return Finding(
            id="says", nav="What the bias says", title=f"{title} is not defined here",
            text="This model has a norm between its attention and the residual stream, so what one "
            "head writes there is not defined. Nothing was measured.",
        )  # fmt: skip
    rows = sorted(
        (
            {
                "layer": i, "head": j, "size": max(v for _, v in said.raised),
                "raised": _tokens(said.raised), "lowered": _tokens(said.lowered),
            }
            for i, own in enumerate(found.said)
            for j, said in enumerate(own)
        ),
        key=lambda row: -row["size"],
    )  # fmt: skip
    columns = (*LAYER_HEAD, Column("Raises", "raised"), Column("Lowers", "lowered"))
    best = rows[0]
    first = found.said[best["layer"]][best["head"]].raised[0]
    table = rows_table(rows[:8], columns)
    return Finding(
        id="says", nav="What the bias says",
        title=f"Read in the vocabulary, the bias of head {head_name(best['layer'], best['head'])} "
        f"raises “{readable(first[0])}” most ({signed(first[1])} logits)",
        text="The mean bias of a head, through its output matrix, the final norm and the "
        "unembedding, raises some tokens and lowers others. This is the direct path alone: what "
        "later layers make of the bias is not in it.",
        markup=_table_markup(table, "Tokens that the bias raises and lowers, the heads that say "
                             "most"),
        folded=[Words(title, "The logits that go missing if the head's mean bias is taken out of "
                      "the residual stream behind the last layer, less their mean over all tokens. "
                      f"The {min(len(rows), ROWS)} heads that say most:",
                      rows_table(rows[:ROWS], columns))],
        tables=["vocabulary"],
    )  # fmt: skip


def _tokens(said: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"“{readable(token)}” {signed(value)}" for token, value in said[:3])


def _table_markup(table: Table, caption: str) -> Markup:
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(x) for x in table.header)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(
                Markup('<th scope="row">{}</th>' if i == 0 else "<td>{}</td>").format(cell)
                for i, cell in enumerate(row)
            )
        )
        for row in table.rows
    )
    return Markup(
        '<figure><div class="scroll" tabindex="0" role="region" aria-label="{}"><table><thead><tr>'
        "{}</tr></thead><tbody>{}</tbody></table></div><figcaption>{}.</figcaption></figure>"
    ).format(caption, head, body, caption)


def _moved(found: Inspection) -> Finding:
    measured = found.measured
    return Finding(
        id="moved", nav="Relative attention", title=moved_title(found),
        text="Within the content, attention is compared after it is renormalised to 1: a prefix "
        "cannot move it in the first layer, and in deeper ones only through what it wrote before. "
        f"Given its own input, no layer moves any: the largest violation of equation 6 is "
        f"{small(float(measured.eq6.max()))}.",
        picture=picture(
            "fig-moved", moved_picture(found),
            "Share of relative attention that moves between the runs, by layer.",
            "Total variation distance between the content's attention with and without the "
            "prefix, mean over sequences and all positions but the first; 1 is everything.",
        ),
        folded=[Words("By layer", "", rows_table(found.tables["layers"], (
            Column("Layer", "layer", whole), Column("Moved, mean (%)", "moved", percent),
            Column("Most of a head (%)", "moved_most", percent),
            Column("Violation of eq. 6", "eq6", small))))],
        tables=["layers", "heads"],
    )  # fmt: skip


def _explorer(found: Inspection) -> Finding:
    live = explorer(found)
    return Finding(
        id="explorer", nav="Explore every head", title="Open any head",
        text="Choose what colours the grid, then open a head by a click or Enter. For the leading "
        "heads the slider fades the prefix at that head alone, from all of it to nothing; the "
        "fades are exact runs.",
        markup=Markup('<figure>{}<figcaption>{}</figcaption></figure>').format(
            live.markup(), f"{live.alt} The first {len(found.leading.shown)} sequences are kept."
        ),
        folded=[Words("Method", "Gate and bias are means over all sequences; the effect is the "
                      "gradient estimate. Attention is stored in thousandths. Fading a head's "
                      "prefix scales the mass of its slots; its content attention, renormalised, "
                      "stays as it is.")],
        tables=["heads", "parts", "fades"],
    )  # fmt: skip


def _largest(found: Inspection, key: str, title: str, columns: Sequence[Column]) -> Words:
    rows = sorted(found.tables["heads"], key=lambda row: -row[key])[:ROWS]
    return Words(title, "", rows_table(rows, (*LAYER_HEAD, *columns)))
