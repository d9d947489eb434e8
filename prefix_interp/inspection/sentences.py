"""What is looked at: texts, tokens, a batch or a task, with the answers whose chance is measured.

Where nobody says what the answer is, it is the next token at every position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.layout import check_tokens
from prefix_interp.tasks import NO_ANSWER, Batch, Task, as_batch
from prefix_interp.tasks.encoding import encoder_of

Given = Batch | Task | str | Sequence[str] | Tensor
PADDING = 0  # any token: no earlier position sees it


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sequences with their answers, padded on the right.

    Attributes:
        name: what they are, e.g. ``"task sort_descending"`` or ``"3 texts"``.
        batch: tokens, answers, and where each answer is predicted.
        lengths: how many tokens of each row are no padding.
    """

    name: str
    batch: Batch
    lengths: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Return which positions hold content."""
        places = torch.arange(self.batch.tokens.shape[1], device=self.lengths.device)
        return places < self.lengths[:, None]

    def first(self, n: int) -> Sentences:
        """Return the first `n` sequences."""
        return self.part(slice(0, n))

    def part(self, which: slice) -> Sentences:
        """Return some of the sequences, without columns that are padding in all of them."""
        lengths, batch = self.lengths[which], self.batch.part(which)
        if batch.positions is None:
            return Sentences(self.name, batch, lengths)
        longest, most = int(lengths.max()), int(batch.given.sum(dim=1).max())
        if bool(batch.given[:, most:].any()):  # gaps between answers
            most = batch.answers.shape[1]
        cut = Batch(
            batch.tokens[:, :longest], batch.answers[:, :most], batch.skill,
            batch.positions[:, :most].clamp(max=longest - 1),
        )  # fmt: skip
        return Sentences(self.name, cut, lengths)

    def chunks(self, size: int) -> Iterator[Sentences]:
        """Yield `size` sequences at a time, in order."""
        for start in range(0, len(self), size):
            yield self.part(slice(start, start + size))


def as_sentences(model: Model, given: Given, *, n: int = 64, seed: int = 0) -> Sentences:
    """Return what a user gave as sequences with answers.

    Args:
        model: its tokenizer reads texts.
        given: texts, one text for a model with a tokenizer, tokens, a batch, a task or its name.
        n: number of sequences of a task.
        seed: chooses the sequences of a task.

    Raises:
        PrefixInterpError: texts without a tokenizer, an empty text, one that is too short to have
            a next token, or a batch whose parts do not fit.
    """
    if isinstance(given, Tensor):
        check_tokens(model, given, 0)
        return _next_tokens(_counted(len(given), "row of tokens", "rows of tokens"), list(given))
    if isinstance(given, str) and getattr(model, "tokenizer", None) is not None:
        given = [given]  # a model that reads texts has no task of a name
    if isinstance(given, (str, Task, Batch)) or _is_tuple_of_tensors(given):
        if isinstance(given, Batch):
            batch, name = given.check(), "a batch"
        else:
            name, batch = as_batch(given, n, seed)  # type: ignore[arg-type]
            name = f"task {name}"
        lengths = (batch.seen() >= 0).sum(dim=1)
        return Sentences(name, batch, lengths)
    texts = _checked_texts(given)
    rows = encoder_of(model).ids("batch_or_texts", texts)
    return _next_tokens(_counted(len(texts), "text", "texts"), [torch.tensor(r) for r in rows])


def token_text(model: Model, token: int) -> str:
    """Return a token as a reader sees it: by the model's tokenizer, or its number."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))


def _is_tuple_of_tensors(given: object) -> bool:
    return isinstance(given, tuple) and bool(given) and all(isinstance(x, Tensor) for x in given)


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _checked_texts(given: object) -> list[str]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(x, str) for x in given):
        raise PrefixInterpError(
            f"batch_or_texts is a {type(given).__name__}; give a list of texts, a Batch, a task "
            "or its name, or a tensor of tokens"
        )
    texts = list(given)
    if not texts:
        raise PrefixInterpError("batch_or_texts=[] is empty; give at least one text")
    for i, text in enumerate(texts):
        if not text.strip():
            raise PrefixInterpError(f"batch_or_texts[{i}]={text!r} is empty; leave it out")
    return texts


def _next_tokens(name: str, rows: Sequence[Int[Tensor, "_"]]) -> Sentences:
    """Return rows of any length; the answers are the next token at every position."""
    for i, row in enumerate(rows):
        if len(row) < 2:
            raise PrefixInterpError(
                f"batch_or_texts[{i}] has {len(row)} token, so no next token to predict; give at "
                "least 2"
            )
    lengths = torch.tensor([len(row) for row in rows])
    longest = int(lengths.max())
    tokens = torch.full((len(rows), longest), PADDING)
    answers = torch.full((len(rows), longest - 1), NO_ANSWER)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        answers[i, : len(row) - 1] = row[1:]
    positions = torch.arange(longest - 1).expand_as(answers)
    return Sentences(name, Batch(tokens, answers, positions=positions).check(), lengths)


def check_room(model: Model, sentences: Sentences, n_slots: int, *, keep: bool) -> None:
    """Raise if a sequence does not fit into the context behind the slots.

    Raises:
        PrefixInterpError: the message names the longest that fits.
    """
    host_of(model).check_room(n_slots, int(sentences.lengths.max()), keep=keep)
