"""Tasks of your own: from tensors that you have, or from a function that draws sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_number
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks.batch import Batch, as_given, joined
from prefix_interp.tasks.split import row_codes
from prefix_interp.tasks.task import Split, Task, check_sample
from prefix_interp.words import counted

Draw = Callable[[int, torch.Generator], "Batch | Sequence[Tensor]"]
_ROUNDS = 200  # of draws without a single sequence of the wanted split


@dataclass(frozen=True, eq=False, repr=False)
class TensorTask(Task):
    """Sequences that are there already, split once; see `task_from_tensors`.

    Attributes:
        name: the task's name.
        data: every sequence.
        test_share: share of the different sequences that are kept for the test, 0 to 1.
        split_by: what must be equal for sequences to stay on one side: ``"seen"``, all that the
            model sees of them, or ``"asked"``, what comes before the first answer.
    """

    name: str
    data: Batch
    test_share: float
    split_by: Literal["seen", "asked"] = "seen"

    @cached_property
    def rows(self) -> dict[str, Int[Tensor, " row"]]:
        """Return the numbers of the sequences of each split."""
        compared = self.data.seen() if self.split_by == "seen" else self.data.asked()
        codes, kinds = row_codes(compared).unique(return_inverse=True)
        # Codes are hashes, so the smallest ones are a random choice, and equal rows stay together.
        in_test = kinds < round(self.test_share * len(codes))
        sides = {"test": in_test, "train": ~in_test, "all": torch.ones_like(in_test)}
        return {split: side.nonzero()[:, 0] for split, side in sides.items()}

    def __repr__(self) -> str:
        n_train, n_test = (len(self.rows[name]) for name in ("train", "test"))
        train = counted(n_train, "sequence")
        return f"TensorTask({self.name!r}; {train} to train on, {n_test} to test)"

    def identity(self) -> dict[str, Any]:
        """Return the name, a checksum of the tensors, and the share of the test."""
        about = {"name": self.name, "data": _checksum(self.data), "test_share": self.test_share}
        return about if self.split_by == "seen" else {**about, "split_by": self.split_by}

    def draw(self, n: int, split: Split | str, rng: torch.Generator) -> Batch:
        """Return `n` sequences, drawn with replacement."""
        rows = self._of(split)
        return self._at(rows[torch.randint(len(rows), (n,), generator=rng)])

    def sample(self, n: int, split: Split | str = "test", seed: int = 0) -> Batch:
        """Return `n` different sequences of a split, or all of them if it has fewer."""
        check_sample(n, split)
        rows = self._of(split)
        order = torch.randperm(len(rows), generator=derive_generator(seed, "sample", split))
        return self._at(rows[order[:n]])

    def _of(self, split: Split | str) -> Int[Tensor, " row"]:
        rows = self.rows[split]
        if not len(rows):
            raise PrefixInterpError(
                f"task={self.name!r} has no sequences in split={split!r}; choose another "
                f"test_share than {self.test_share}, or give more sequences"
            )
        return rows

    def _at(self, rows: Int[Tensor, " row"]) -> Batch:
        return self.data.part(rows)


@dataclass(frozen=True, eq=False, repr=False)
class FunctionTask(Task):
    """Sequences that a function draws, split by a hash of each; see `task_from_function`.

    Attributes:
        name: the task's name.
        function: draws sequences.
        test_share: share of all sequences that are kept for the test, 0 to 1.
    """

    name: str
    function: Draw
    test_share: float

    def __repr__(self) -> str:
        return f"FunctionTask({self.name!r}; {self.test_share:.0%} of all sequences to test)"

    def identity(self) -> dict[str, Any]:
        """Return the name, a checksum of what the function draws first, and the test's share."""
        first = self._drawn(64, derive_generator(0, "identity"))
        return {"name": self.name, "data": _checksum(first), "test_share": self.test_share}

    def draw(self, n: int, split: Split | str, rng: torch.Generator) -> Batch:
        """Return `n` sequences of a split; those of the other split are thrown away."""
        found: list[Batch] = []
        n_found, n_empty = 0, 0
        share = {"test": self.test_share, "train": 1 - self.test_share, "all": 1.0}[split]
        while n_found < n:
            drawn = self._drawn(int((n - n_found) / max(share, 0.01) * 1.1) + 16, rng)
            if split != "all":
                codes = row_codes(drawn.seen())
                in_test = codes.double() / (1 << 63) < self.test_share
                drawn = drawn.part(in_test == (split == "test"))
            n_empty = 0 if len(drawn.tokens) else n_empty + 1
            if n_empty > _ROUNDS:
                raise PrefixInterpError(
                    f"task={self.name!r} drew no sequence of split={split!r}; choose another "
                    f"test_share than {self.test_share}, or let sample draw more different ones"
                )
            if found and _kind(drawn) != _kind(found[0]):
                raise PrefixInterpError(
                    f"sample drew batches of different kinds, {_kind(found[0])} and "
                    f"{_kind(drawn)}; pad all sequences to one length, and give the same parts"
                )
            found.append(drawn)
            n_found += len(drawn.tokens)
        return joined(found).part(slice(n))

    def _drawn(self, n: int, rng: torch.Generator) -> Batch:
        return as_given("sample", self.function(n, rng))


def task_from_tensors(
    tokens: Int[Tensor, "batch pos"],
    answers: Int[Tensor, "batch n_out"] | Int[Tensor, " batch"],
    answer_positions: Int[Tensor, "batch n_out"] | Int[Tensor, " n_out"] | None = None,
    test_share: float = 0.25,
    name: str = "own",
) -> TensorTask:
    """Return a task made of sequences that you have.

    A share of the different sequences is kept for the test, chosen by a hash of what the model sees
    of them (not of the padding): equal sequences never stand on both sides. Training draws rows
    with replacement, a test without; rows that you give twice are there twice.

    Args:
        tokens: one sequence a row, padded on the right with any token of the vocabulary if they
            differ in length. For teacher forcing they hold the answers before the last, too.
        answers: the right outputs of each sequence. Rows with fewer than others are filled up with
            -100; one axis will do if each has a single answer.
        answer_positions: the position (0-based) whose logits predict each answer, a row per
            sequence or one for all; None: the last ``n_out`` positions, in order.
        test_share: 0 to 1.
        name: what results and messages call it.

    Raises:
        PrefixInterpError: shapes that do not fit, numbers that are not whole, a row without an
            answer, or a position outside the sequence.

    Example:
        >>> tokens = torch.cartesian_prod(torch.arange(5), torch.arange(5))  # a b -> a + b mod 5
        >>> sums = pi.task_from_tensors(tokens, tokens.sum(-1) % 5, name="sum of two")
        >>> sums, sums.sample(3).answers.shape
        (TensorTask('sum of two'; 19 sequences to train on, 6 to test), torch.Size([3, 1]))
    """
    check_number("test_share", test_share, 0.0, 1.0)
    batch = as_given("task", (tokens, answers, answer_positions))
    return TensorTask(checked_name(name), batch.to(torch.device("cpu")), test_share)


def task_from_function(
    sample: Draw, test_share: float = 0.25, name: str | None = None
) -> FunctionTask:
    """Return a task whose sequences a function draws.

    ``sample(n, rng)`` returns `n` sequences drawn with the generator `rng` and nothing else, as a
    `Batch`, or as tokens, answers and, if they are not the last, answer positions (see
    `task_from_tensors`), always of one length. A hash of what the model sees of it (not of the
    padding) puts each sequence on one side of the split, so that no test sequence is ever trained
    on. If few sequences are possible, a test draws some several times: its interval is too narrow.

    Args:
        sample: the function.
        test_share: share of all sequences that are kept for the test, 0 to 1.
        name: what results and messages call it; None for the function's own name.

    Raises:
        PrefixInterpError: what `sample` returns is no batch, or differs when it is drawn again.

    Example:
        >>> def copy(n, rng):
        ...     x = torch.randint(8, (n, 3), generator=rng)
        ...     return torch.cat([x, x[:, :2]], dim=1), x  # the last three positions predict x
        >>> pi.task_from_function(copy).sample(5, "train").tokens.shape
        torch.Size([5, 5])
    """
    check_number("test_share", test_share, 0.0, 1.0)
    if not callable(sample):
        raise PrefixInterpError(
            f"sample is a {type(sample).__name__}; give a function of n and a generator, or use "
            "task_from_tensors"
        )
    name = getattr(sample, "__name__", "own") if name is None else name
    task = FunctionTask(checked_name(name), sample, test_share)
    if task.identity() != task.identity():
        raise PrefixInterpError(
            "sample drew other sequences from a generator with the same seed; draw all random "
            "numbers with the generator that it is given"
        )
    return task


def checked_name(name: object) -> str:
    """Return the name of a task.

    Raises:
        PrefixInterpError: it is no text.
    """
    if not isinstance(name, str) or not name:
        raise PrefixInterpError(f"name={name!r} must be a text of at least one letter")
    return name


def _kind(batch: Batch) -> dict[str, tuple[int, ...]]:
    named = zip(batch._fields, batch, strict=True)
    return {name: tuple(x.shape[1:]) for name, x in named if x is not None}


def _checksum(batch: Batch) -> str:
    digest = hashlib.sha256()
    for name, x in zip(batch._fields, batch, strict=True):
        if x is not None:
            digest.update(f"{name} {tuple(x.shape)}".encode())
            digest.update(x.cpu().long().contiguous().numpy().tobytes())
    return digest.hexdigest()
