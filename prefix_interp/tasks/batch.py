"""`Batch`: sequences, the answers they should get, and where each answer is predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prefix_interp.errors import PrefixInterpError

NO_ANSWER = -100  # the value that torch's losses leave out


class Batch(NamedTuple):
    """Sequences to feed and the answers they should get.

    Sequences of different lengths are padded on the right with any token. A causal model does not
    see the padding from an earlier position, and a padded answer is never scored.

    Attributes:
        tokens: the input, and for teacher forcing the answers that come before the last.
        answers: the right outputs, at least one a row. Rows with fewer than others are filled up
            with -100 (`NO_ANSWER`).
        skill: index of each sequence's rule among the task's rules; None if there is only one.
        positions: for each answer the position (0-based) whose logits predict it. None: the last
            ``n_out`` positions, in order.
        foils: the wrong tokens that each answer is compared with in a multiple choice, at least
            one. Answers with fewer than others are filled up with -100. None: all other tokens.

    Example:
        >>> batch = task.sample(4, seed=0)
        >>> tuple(batch.tokens.shape), tuple(batch.answers.shape)
        ((4, 19), (4, 10))
        >>> words = torch.tensor([[5, 1, 6], [5, 6, 0]])  # the second has two tokens and a padding
        >>> own = pi.Batch(words, torch.tensor([[7], [7]]), positions=torch.tensor([[2], [1]]))
        >>> own.n_rows
        2
    """

    tokens: Int[Tensor, "batch pos"]
    answers: Int[Tensor, "batch n_out"]
    skill: Int[Tensor, " batch"] | None = None
    positions: Int[Tensor, "batch n_out"] | None = None
    foils: Int[Tensor, "batch n_out n_foil"] | None = None

    @property
    def given(self) -> Bool[Tensor, "batch n_out"]:
        """Return which places of `answers` hold an answer."""
        return self.answers != NO_ANSWER

    @property
    def n_rows(self) -> int:
        """Return how many of the last positions are read: from the first that predicts on."""
        if self.positions is None:
            return self.answers.shape[1]
        return self.tokens.shape[1] - int(self.positions[self.given].min())

    def read(
        self, rows: Shaped[Tensor, "*stack batch rows width"]
    ) -> Shaped[Tensor, "*stack batch n_out width"]:
        """Return what stands where each answer is predicted, of logits or any activation.

        At the place of a missing answer it means nothing.

        Args:
            rows: of the last positions, at least `n_rows` of them.
        """
        if self.positions is None:
            return rows[..., -self.answers.shape[1] :, :]
        at = self.positions - (self.tokens.shape[1] - rows.shape[-2])
        at = at.where(self.given, 0).long().to(rows.device)[..., None]
        return rows.gather(-2, at.expand(*rows.shape[:-2], -1, rows.shape[-1]))

    def behind(self, tokens: Int[Tensor, "batch all_pos"]) -> Batch:
        """Return the batch with `tokens` fed in place of its own, which they end with."""
        added = tokens.shape[1] - self.tokens.shape[1]
        positions = None if self.positions is None else self.positions + added
        return self._replace(tokens=tokens, positions=positions)

    def part(self, which: slice | Tensor) -> Batch:
        """Return some of the sequences: a slice, their numbers, or which."""
        return self.mapped(lambda x: x[which])

    def repeat(self, times: int) -> Batch:
        """Return the whole batch several times, one after the other."""
        return self.mapped(lambda x: x.repeat(times, *[1] * (x.ndim - 1)))

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return self.mapped(lambda x: x.to(device))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with each of its tensors changed."""
        tokens, answers, *others = self
        others = (None if x is None else change(x) for x in others)
        return Batch(change(tokens), change(answers), *others)

    def check(self) -> Batch:
        """Return the batch, its numbers as int64, if its parts belong together.

        Raises:
            PrefixInterpError: shapes that do not fit, numbers that are not whole, a row without an
                answer, a position outside the sequence, an answer without a foil or among them.
        """
        tokens, answers, positions = self.tokens, self.answers, self.positions
        for name, x in zip(self._fields, self, strict=True):
            needed = name in ("tokens", "answers")
            if (needed or x is not None) and not (isinstance(x, Tensor) and _is_whole(x)):
                kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
                raise PrefixInterpError(f"{name} is {kind}; give a tensor of whole numbers")
        shape = tuple(tokens.shape)
        fits = answers.ndim == 2 and tokens.ndim == 2 and len(answers) == shape[0] > 0
        if not fits or answers.shape[1] < 1 or (positions is None and answers.shape[1] > shape[1]):
            raise PrefixInterpError(
                f"answers have shape {tuple(answers.shape)} but tokens {shape}; give answers "
                "for each row of tokens, one for each of the last positions, or say positions"
            )
        given = self.given
        if not bool(given.any(dim=-1).all()):
            row = int((~given.any(dim=-1)).nonzero()[0])
            raise PrefixInterpError(
                f"answers[{row}] are all {NO_ANSWER}, which stands for no answer; leave out rows "
                "without an answer"
            )
        if positions is not None:
            if positions.shape != answers.shape:
                raise PrefixInterpError(
                    f"positions have shape {tuple(positions.shape)} but answers "
                    f"{tuple(answers.shape)}; give one position for each answer"
                )
            low, high = (int(x) for x in positions[given].aminmax())
            if low < 0 or high >= shape[1]:
                raise PrefixInterpError(
                    f"positions hold {low if low < 0 else high}, outside the sequence; allowed are "
                    f"0 to {shape[1] - 1}, the position whose logits predict the answer"
                )
        if self.skill is not None and self.skill.shape != answers.shape[:1]:
            raise PrefixInterpError(
                f"skill has shape {tuple(self.skill.shape)}; give one number per sequence, or None"
            )
        if self.foils is not None:
            _check_foils(self.foils, answers)
        return self.mapped(lambda x: x.long())

    def seen(self) -> Int[Tensor, "batch pos"]:
        """Return the tokens with -1 for padding: what follows the last place that is read."""
        if self.positions is None:
            return self.tokens
        last = self.positions.where(self.given, -1).amax(dim=-1, keepdim=True)
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return self.tokens.where(places <= last, -1)

    def asked(self) -> Int[Tensor, "batch pos"]:
        """Return the tokens up to the first place that is read: the question without its answers.

        They stand on the right, behind -1, so that a hash of a question (`row_codes`) does not
        depend on the length of others.
        """
        width, n_out = self.tokens.shape[1], self.answers.shape[1]
        first = torch.full_like(self.answers[:, :1], width - n_out)
        if self.positions is not None:
            first = self.positions.where(self.given, width).amin(dim=-1, keepdim=True)
        places = torch.arange(width, device=self.tokens.device) - (width - 1 - first)
        return self.tokens.gather(1, places.clamp(min=0)).where(places >= 0, -1)


def as_given(what: str, given: object) -> Batch:
    """Return what a user gave as a batch, checked: tokens, answers and perhaps answer positions.

    Args:
        what: names it in messages.
        given: a `Batch`, or two or three tensors or nested lists; answers may lack the axis over
            answers, and positions may be one for all, one an answer, or one a sequence.

    Raises:
        PrefixInterpError: anything else, or parts that do not belong together.
    """
    if isinstance(given, Batch):
        return given.check()
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise PrefixInterpError(
            f"{what} gives a {type(given).__name__}; give a Batch, or tokens and answers and, if "
            "they are not the last, answer positions"
        )
    tokens, answers = (_as_tensor(x) for x in given[:2])
    answers = answers[:, None] if answers.ndim == 1 else answers
    if len(given) == 2 or given[2] is None:
        return Batch(tokens, answers).check()
    positions = _as_tensor(given[2])
    if positions.ndim == 1 and positions.shape == answers.shape[:1] and answers.shape[1] == 1:
        positions = positions[:, None]
    elif positions.ndim == 0 or (positions.ndim == 1 and positions.shape == answers.shape[1:]):
        positions = positions.expand(answers.shape)
    return Batch(tokens, answers, positions=positions).check()


def _as_tensor(x: object) -> Tensor:
    try:
        return torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise PrefixInterpError(
            f"{type(x).__name__} is no table of whole numbers; give a tensor, or rows of one length"
        ) from None


def joined(batches: Sequence[Batch]) -> Batch:
    """Return batches of one kind as one, in order."""
    columns = [[x for x in column if x is not None] for column in zip(*batches, strict=True)]
    tokens, answers, *others = (torch.cat(c) if c else None for c in columns)
    assert tokens is not None and answers is not None
    return Batch(tokens, answers, *others)


def mean_over_answers(
    values: Float[Tensor, "*stack batch n_out"], answers: Int[Tensor, "batch n_out"]
) -> Float[Tensor, "*stack batch"]:
    """Return each sequence's mean over its answers; places without an answer do not count.

    Args:
        values: one per place.
        answers: say which places count.
    """
    given = answers != NO_ANSWER
    if bool(given.all()):
        return values.mean(dim=-1)
    return values.where(given, 0).sum(dim=-1) / given.sum(dim=-1)


def _is_whole(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def _check_foils(foils: Tensor, answers: Tensor) -> None:
    if foils.ndim != 3 or foils.shape[:2] != answers.shape or not foils.shape[2]:
        raise PrefixInterpError(
            f"foils have shape {tuple(foils.shape)} but answers {tuple(answers.shape)}; give axes "
            "batch, n_out, n_foil, at least one foil for each answer"
        )
    given = answers != NO_ANSWER
    lacking = given & (foils == NO_ANSWER).all(dim=-1)
    among = given & (foils == answers[..., None]).any(dim=-1)
    for wrong, words in ((lacking, f"are all {NO_ANSWER}"), (among, "hold the answer itself")):
        if bool(wrong.any()):
            row, place = wrong.nonzero()[0].tolist()
            raise PrefixInterpError(
                f"foils[{row}, {place}] {words}; give each answer at least one other token"
            )
