"""Sentences with each token coloured by what the prefix does to its log-probability."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from prefix_interp.inspection.look import Inspection
from prefix_interp.inspection.words import Spoken
from prefix_interp.views.inspect_words import plain_signed

_SENTENCES = 8
_LEVELS = (0.02, 0.2, 0.7, 2.0)  # nats from which a colour begins


def shown_sentences(found: Inspection) -> Sequence[Spoken]:
    """Return the sentences that the page shows, the first ones."""
    return found.spoken[:_SENTENCES]


def sentences_markup(found: Inspection) -> Markup:
    """Return the first sentences with the effect on each measured token as colour and number."""
    change = found.measured.log_prob_on - found.measured.log_prob_off
    rows = [
        _sentence(said, change[i, list(said.columns)].tolist(), i)
        for i, said in enumerate(shown_sentences(found))
    ]
    return Markup('<figure class="sentences">{}</figure>').format(Markup("").join(rows))


def _sentence(said: Spoken, changes: Sequence[float], number: int) -> Markup:
    at = dict(zip(said.places, changes, strict=True))
    words = []
    for i, word in enumerate(said.words):
        word = word.replace("\n", "⏎").replace("\t", "⇥")
        text = word if i < said.n_tokens else f"→ {word}"
        change = at.get(i)
        number_below = "\u00a0" if change is None else plain_signed(change)
        words.append(
            Markup(
                '<span class="pi-token"><span class="{}">{}</span><small>{}</small></span> '
            ).format(tone(change), text, number_below)
        )
    return Markup(
        '<div class="sentence"><p class="pi-tokens"><span class="hidden">Sequence {}: </span>{}</p>'
        "</div>"
    ).format(number, Markup("").join(words))


def tone(change: float | None) -> str:
    """Return the class that colours a change of a log-probability, empty for next to none."""
    if change is None or abs(change) < _LEVELS[0]:
        return ""
    level = sum(abs(change) >= start for start in _LEVELS)
    return f"{'up' if change > 0 else 'down'}{level}"
