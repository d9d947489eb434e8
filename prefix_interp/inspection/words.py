"""The words of the sentences, and which of them each measured answer is."""

from __future__ import annotations

from dataclasses import dataclass

from prefix_interp.inspection.sentences import Sentences, token_text
from prefix_interp.models.host import Model


@dataclass(frozen=True)
class Spoken:
    """One sequence as text.

    Attributes:
        words: its tokens, then the answers that are no token of it.
        n_tokens: how many of `words` are tokens.
        places: for each answer, the index of its word.
        positions: for each answer, the position that predicts it.
        columns: for each answer, its column in the measured numbers.
    """

    words: tuple[str, ...]
    n_tokens: int
    places: tuple[int, ...]
    positions: tuple[int, ...]
    columns: tuple[int, ...]


def spoken(model: Model, sentences: Sentences) -> tuple[Spoken, ...]:
    """Return every sequence as text with its answers, in order.

    Args:
        model: its tokenizer writes the tokens; without one they are numbers.
        sentences: from `as_sentences`.
    """
    batch = sentences.batch
    n_pos, n_out = batch.tokens.shape[1], batch.answers.shape[1]
    if batch.positions is None:
        positions = [list(range(n_pos - n_out, n_pos))] * len(sentences)
    else:
        positions = batch.positions.tolist()
    given = batch.given.tolist()
    rows = zip(
        batch.tokens.tolist(), batch.answers.tolist(), sentences.lengths.tolist(), strict=True
    )
    found = []
    for i, (tokens, answers, length) in enumerate(rows):
        words = [token_text(model, token) for token in tokens[:length]]
        columns = [j for j in range(n_out) if given[i][j]]
        places, own = [], [positions[i][j] for j in columns]
        for j, at in zip(columns, own, strict=True):
            if at + 1 < length and tokens[at + 1] == answers[j]:
                places.append(at + 1)
            else:
                places.append(len(words))
                words.append(token_text(model, answers[j]))
        found.append(Spoken(tuple(words), length, tuple(places), tuple(own), tuple(columns)))
    return tuple(found)
