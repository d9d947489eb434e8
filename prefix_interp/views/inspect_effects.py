"""The sections of the page of `inspect` about effects: elicited heads, circuit, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefix_interp.inspection.look import Inspection
from prefix_interp.views.circuit_graph import circuit_svg
from prefix_interp.views.inspect_figures import elicited_picture
from prefix_interp.views.inspect_finding import LAYER_HEAD, ROWS, Finding
from prefix_interp.views.inspect_tokens import sentences_markup, shown_sentences
from prefix_interp.views.inspect_words import (
    answers_title,
    circuit_title,
    elicited_title,
    share,
    signed,
)
from prefix_interp.views.page import Picture, Words, picture
from prefix_interp.views.page_tables import Column, decimals, percent, rows_table, whole
from prefix_interp.views.pictures import svg_uri


def elicited_section(found: Inspection) -> Finding:
    """Return which heads the prefix elicits."""
    leading = found.leading
    draws, n = len(leading.controls), leading.denoise.shape[-1]
    rows = [
        row | {
            "own": _with_ends(row, "enough"), "other": _with_ends(row, "needed"),
            "random": f"{signed(float(row['control_low'] or 0), 3)} to "
            f"{signed(float(row['control_high'] or 0), 3)}",
            "yes": "yes" if row["elicited"] else "no",
        }
        for row in leading.rows()
    ]  # fmt: skip
    columns = (
        *LAYER_HEAD, Column("Enough alone", "own"), Column("Needed", "other"),
        Column("Random prefixes", "random"), Column("Elicited", "yes"),
    )  # fmt: skip
    return Finding(
        id="elicits", nav="Elicited heads", title=elicited_title(found),
        text="Gradients estimate what each head alone would do (left); the heads with the largest "
        "estimates are patched exactly (right), and a star marks those that do more than every "
        f"one of {draws} random prefixes with the same norms. Enough: the head's prefixed output "
        "put into the plain run; needed: its plain output put into the prefixed run.",
        picture=picture(
            "fig-elicits", elicited_picture(found),
            "Left: estimated effects of all heads as a heat map. Right: exact effects of the "
            "leading heads with intervals, over the range of random prefixes.",
            "Intervals: 95 % bootstrap over sequences. Grey: smallest to largest of the random "
            "prefixes, cut off where it would hide the rest.",
        ),
        folded=[Words("The leading heads", f"On {n} sequences, in nats per answer. A head is "
                      "elicited if its effect lies outside the range of the random prefixes (an "
                      f"interval of level {share(leading.level)}) and its own interval excludes 0 "
                      "on the same side.", rows_table(rows, columns))],
        tables=["leading", "heads", "fades"],
    )  # fmt: skip


def _with_ends(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return f"{signed(value, 3)} ({signed(low, 3)} to {signed(high, 3)})"


def circuit_section(found: Inspection) -> Finding:
    """Return the circuit, or why it was left out."""
    circuit = found.circuit
    if circuit is None:
        return Finding(
            id="circuit", nav="Circuit", title=circuit_title(found),
            text=found.why_no_circuit,
            folded=[Words("Method", "find_circuit searches for the fewest heads and MLPs that keep "
                          "95 % of the prefix's effect on the mean log-probability.")],
        )  # fmt: skip
    rows = [row | {"kept": row["minimality"]} for row in found.tables["circuit"]]
    names = ", ".join(node.name for node in circuit.nodes)
    return Finding(
        id="circuit", nav="Circuit", title=circuit_title(found),
        text="These act as with the prefix while all other heads and MLPs act as without it. "
        f"Without them the rest keeps {share(1 - float(circuit.scores['completeness']))} of the "
        "effect.",
        picture=Picture(
            "fig-circuit", svg_uri(circuit_svg(circuit, title="the parts of the circuit")),
            f"Circuit: {names}; {len(circuit.edges)} edges.",
            "Layers from bottom to top; an edge's width is its effect, dashed where cutting it "
            "helps. Pale: left out.",
        ),
        folded=[Words("The parts", f"Found by the search “{circuit.search}” among "
                      f"{len(circuit.all_nodes)} heads and MLPs for "
                      f"{share(circuit.threshold)} of the effect; the slots always stay. "
                      "Needed: what the circuit loses without the part.",
                      rows_table(rows, (Column("Part", "node"),
                                        Column("Needed (%)", "kept", percent))))],
        tables=["circuit"],
    )  # fmt: skip


def answers_section(found: Inspection) -> Finding:
    """Return the effect on each token."""
    rows = sorted(found.tables["answers"], key=lambda row: -abs(row["change"]))
    count = len(shown_sentences(found))
    return Finding(
        id="tokens", nav="Effect on each token", title=answers_title(found),
        text="Blue: the prefix makes the token more likely at its place; orange: less likely. The "
        "number below a token is the change of its log-probability in nats; tokens without a "
        "number are not measured.",
        markup=sentences_markup(found),
        folded=[Words("The answers that change most", f"The first {count} of "
                      f"{found.about.n_sequences} sequences are shown above. A position predicts "
                      "the answer behind it.", rows_table(rows[:ROWS], (
                          Column("Sequence", "sequence", whole), Column("Position", "pos", whole),
                          Column("Answer", "answer"),
                          Column("Without (nats)", "log_prob_off", decimals(3)),
                          Column("With (nats)", "log_prob_on", decimals(3)),
                          Column("Change", "change", lambda x: signed(x, 3)))))],
        tables=["answers"],
    )  # fmt: skip
