"""The explorer: a grid of all heads, each of which opens; for a page and for a notebook."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from prefix_interp.inspection.leading import FADES
from prefix_interp.inspection.look import Inspection
from prefix_interp.views.inspect_figures import grid_picture
from prefix_interp.views.inspect_words import readable
from prefix_interp.views.pictures import compact_uri

_FOLDER = Path(__file__).parent
_STEPS = 1000  # shares and log-probabilities are stored in thousandths
_SAID = 3  # tokens of each end


@dataclass(frozen=True, repr=False)
class Explorer:
    """All heads of an inspection as one figure, which a notebook shows.

    Scripts make it live: the grid is coloured by gate, bias or effect, a click or Enter opens a
    head. Without scripts, and on paper, its still picture is shown.

    Attributes:
        data: what the script reads, as JSON text that may stand inside a page.
        still: the picture, as a data URI.
        alt: what it shows.
    """

    data: str
    still: str
    alt: str

    def __repr__(self) -> str:
        return f"Explorer({self.alt})"

    def _repr_html_(self) -> str:
        style = Markup("<style>{}</style>").format(explorer_style())
        return str(style + self.markup("pi-alone") + explorer_script())

    def markup(self, more: str = "") -> Markup:
        """Return what the script fills, with the still picture and the data.

        Args:
            more: a class for a figure that stands outside a page.
        """
        return Markup(
            '<div class="pi-explorer {}"><div class="still"><img src="{}" alt="{}"></div>'
            '<div class="pi-live live"></div>'
            '<script type="application/json">{}</script></div>'
        ).format(more, Markup(html.escape(self.still)), self.alt, Markup(self.data))


def explorer_style() -> Markup:
    """Return the style of every explorer."""
    return Markup((_FOLDER / "explorer.css").read_text(encoding="utf-8"))


def explorer_script() -> Markup:
    """Return the script that fills every explorer of a page."""
    text = (_FOLDER / "explorer.js").read_text(encoding="utf-8")
    return Markup("<script>{}</script>").format(Markup(text))


def notebook_html(found: Inspection) -> str:
    """Return the summary and the explorer, for a notebook.

    Args:
        found: from `inspect`.
    """
    sentences = Markup("").join(Markup("<li>{}</li>").format(x) for x in found.summary())
    return str(Markup("<ul>{}</ul>").format(sentences)) + explorer(found)._repr_html_()


def explorer(found: Inspection) -> Explorer:
    """Return the explorer of an inspection.

    Args:
        found: from `inspect`.
    """
    about, leading = found.about, found.leading
    text = json.dumps(explorer_data(found), separators=(",", ":"), ensure_ascii=False)
    n_heads = about.n_layers * about.n_heads
    return Explorer(
        data=text.replace("<", "\\u003c"),
        still=compact_uri(grid_picture(found), dense=n_heads > 64),
        alt=f"Gate, bias and effect of {n_heads} heads, layers as rows and heads as columns; "
        f"{len(leading.heads)} leading heads with attention and fades.",
    )


def explorer_data(found: Inspection) -> dict[str, Any]:
    """Return what the explorer's script reads: whole numbers, in steps that it is told.

    Args:
        found: from `inspect`.
    """
    about, measured, leading = found.about, found.measured, found.leading
    bias = measured.parts["bias"].flatten(0, 1)
    top = float(bias.max()) or 1.0
    first = leading.heads[0] if leading.heads else (0, 0)
    return {
        "layers": about.n_layers, "heads": about.n_heads, "slots": about.n_slots,
        "fades": list(FADES), "first": list(first), "space": _space(found),
        "colours": [
            _colour("gate", measured.mean("gate"), "orange", top=1.0),
            _colour("bias", measured.mean("bias"), "purple"),
            _colour("effect", measured.estimates["denoise"].mean(dim=-1), "blue", signed=True),
        ],
        "facts": _facts(found),
        "gate": [_whole(row) for row in measured.gate.flatten(0, 1)],
        "bias": [_whole(row / top) for row in bias],
        "biasTop": round(top, 6),
        "off": round(float(_off(found).nanmean(dim=-1).mean()), 4),
        "leading": _leading(found),
        "sentences": _sentences(found),
    }  # fmt: skip


def _colour(
    name: str, values: Float[Tensor, "layer head"], tone: str, *, top: float = 0.0,
    signed: bool = False,
) -> dict[str, Any]:  # fmt: skip
    most = float(values.abs().max()) or 1.0
    step = 1 / _STEPS if top else most / (10 * _STEPS)
    digits = 2 if most < 100 else 0
    own = [round(x / step) for x in values.flatten().tolist()]
    return {
        "name": name, "values": own, "step": step, "tone": tone, "top": top, "signed": signed,
        "digits": digits,
    }  # fmt: skip


def _space(found: Inspection) -> str:
    """Return what stands between tokens: nothing if they bring their own spaces."""
    words = [word for said in found.spoken[:3] for word in said.words]
    return "" if any(word[:1].isspace() for word in words) else " "


def _off(found: Inspection) -> Float[Tensor, "batch n_out"]:
    """Return the log-probabilities without the prefix, of the sequences that were patched."""
    return found.measured.log_prob_off[: found.leading.denoise.shape[-1]]


def _facts(found: Inspection) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = []
    for row in found.tables["heads"]:
        i, j = row["layer"], row["head"]
        fact = {
            "rank": row["rank"], "effective": round(row["effective_rank"], 2),
            "sink": [round(row["sink_off"], 4), round(row["sink_on"], 4)],
        }  # fmt: skip
        if found.said is not None:
            said = found.said[i][j]
            fact |= {
                end: [readable(token) for token, _ in getattr(said, end)[:_SAID]]
                for end in ("raised", "lowered")
            }
        facts.append(fact)
    return facts


def _leading(found: Inspection) -> list[dict[str, Any]]:
    fades = found.leading.fades.mean(dim=-1)
    return [
        {
            "head": [row["layer"], row["head"]],
            "enough": _rounded(row["enough"], row["enough_low"], row["enough_high"]),
            "control": _rounded(row["control_low"], row["control_high"]),
            "elicited": row["elicited"],
            "fades": _rounded(*fades[i].tolist()),
        }
        for i, row in enumerate(found.leading.rows())
    ]


def _rounded(*values: Any) -> list[float]:
    return [0.0 if x is None or x != x else round(float(x), 4) for x in values]


def _sentences(found: Inspection) -> list[dict[str, Any]]:
    sentences = []
    for i, shown in enumerate(found.leading.shown):
        said = found.spoken[i]
        columns = list(said.columns)
        sentences.append(
            {
                "words": [_on_one_line(word) for word in said.words],
                "tokens": said.n_tokens, "places": list(said.places),
                "off": _whole(found.measured.log_prob_off[i, columns]),
                "at": [
                    {
                        "slots": [_whole(row) for row in shown.slots[j]],
                        "on": _triangle(shown.on[j]), "off": _triangle(shown.off[j]),
                        "fades": [_whole(row) for row in shown.fades[j][:, columns]],
                    }
                    for j in range(len(found.leading.heads))
                ],
            }
        )  # fmt: skip
    return sentences


def _on_one_line(word: str) -> str:
    return word.replace("\n", "⏎").replace("\t", "⇥")


def _whole(values: Float[Tensor, " n"]) -> list[int]:
    return [round(_STEPS * x) for x in values.tolist()]


def _triangle(rows: Float[Tensor, "query key"]) -> Sequence[int]:
    """Return the keys that each query may attend to, one query after the other."""
    return [x for i, row in enumerate(rows) for x in _whole(row[: i + 1])]
