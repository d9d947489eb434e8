"""The paper's toy tasks as vectorised samplers with a fixed split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.tasks.batch import Batch, as_given
from prefix_interp.tasks.split import mixed
from prefix_interp.tasks.task import Split, Task

Rule = Callable[[Tensor], Tensor]


def double_histogram(x: Int[Tensor, "batch n_in"]) -> Int[Tensor, "batch n_in"]:
    """Return, at each position, how often that position's digit occurs in the sequence."""
    counts = torch.zeros(len(x), int(x.max()) + 1, dtype=x.dtype)
    return counts.scatter_add_(1, x, torch.ones_like(x)).gather(1, x)


def sort_rows(x: Int[Tensor, "batch n_in"]) -> Int[Tensor, "batch n_in"]:
    """Return each row of digits sorted ascending.

    Odd-even transposition on whole columns of bytes: faster than `torch.sort` on rows this short
    (benchmarks/tuning.py).
    """
    columns = list(x.to(torch.uint8).T.contiguous())
    for start in range(len(columns)):
        for i in range(start % 2, len(columns) - 1, 2):
            a, b = columns[i], columns[i + 1]
            columns[i], columns[i + 1] = torch.minimum(a, b), torch.maximum(a, b)
    return torch.stack(columns, dim=-1).to(x.dtype)


RULES: dict[str, Rule] = {
    "sort_ascending": sort_rows,
    "sort_descending": lambda x: sort_rows(x).flip(-1),
    "add_one": lambda x: x + 1,
    "add_two": lambda x: x + 2,
    "sort_ascending_add_one": lambda x: sort_rows(x) + 1,
    "double_histogram": double_histogram,
}
_BIT_COUNT = torch.tensor([bin(i).count("1") for i in range(256)], dtype=torch.uint8)
FOUR_SKILLS = ("sort_ascending", "sort_descending", "add_one", "add_two")


@dataclass(frozen=True)
class DigitTask(Task):
    """Sequences of digits and the rule that answers them.

    The paper's data: 10 digits 0..7 drawn uniformly. Half of the draws with more than 5 different
    digits are rejected, so repetitions are common. A quarter of all inputs, chosen by a hash of
    their digits, is the test split, the same in every process.

    Attributes:
        name: the task's name.
        rules: names in `RULES`; several form an unlabelled mixture.
        length: digits per input, and also the number of outputs; even.
        n_digits: number of different digits.
        max_distinct: a draw with more different digits is redrawn with probability 1/2.

    Example:
        >>> small = DigitTask("small", ("add_one",), length=4, n_digits=4)
        >>> tuple(small.sample(2).tokens.shape)
        (2, 7)
    """

    name: str
    rules: tuple[str, ...]
    length: int = 10
    n_digits: int = 8
    max_distinct: int = 5

    def __post_init__(self) -> None:
        for field in ("length", "n_digits", "max_distinct"):
            check_positive(field, getattr(self, field))
        # A single digit allows one input, so one split would be empty.
        if not 2 <= self.n_digits <= 8 or self.length > 12 or self.length % 2:
            raise PrefixInterpError(
                f"length={self.length}, n_digits={self.n_digits} is out of range; "
                "length may be an even number up to 12, n_digits 2 to 8"
            )
        if not self.rules:
            raise PrefixInterpError("rules=() is empty; name at least one rule")
        for rule in self.rules:
            check_choice("rules", rule, RULES)

    @property
    def d_vocab(self) -> int:
        """Return the number of tokens that inputs and answers need (11 for the paper's sizes)."""
        return max(self.n_digits + 2, self.length + 1)

    @property
    def n_content(self) -> int:
        """Return the length of `Batch.tokens`: inputs and all outputs except the last."""
        return 2 * self.length - 1

    @cached_property
    def _halves(self) -> tuple[Tensor, Tensor]:
        """Return the digits of every code of half an input, and the set of these digits as bits."""
        half = self.length // 2
        codes = torch.arange(self.n_digits**half)
        digits = torch.stack(
            [(codes // self.n_digits**i) % self.n_digits for i in range(half)], dim=-1
        )
        present = (1 << digits[:, 0]).clone()
        for i in range(1, half):
            present |= 1 << digits[:, i]
        return digits.to(torch.uint8), present.to(torch.uint8)

    def _split_code(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        base = self.n_digits ** (self.length // 2)
        return codes % base, codes // base

    def _digits(self, codes: Int[Tensor, "batch"]) -> Int[Tensor, "batch n_in"]:
        digits, _ = self._halves
        halves = [digits.index_select(0, half) for half in self._split_code(codes)]
        return torch.cat(halves, dim=-1).long()

    def _crowded(self, codes: Int[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
        _, present = self._halves
        low, high = self._split_code(codes)
        both = present.index_select(0, low) | present.index_select(0, high)
        return _BIT_COUNT.index_select(0, both.long()) > self.max_distinct

    def sample_inputs(
        self, n: int, split: Split | str, rng: torch.Generator
    ) -> Int[Tensor, "batch n_in"]:
        """Return `n` inputs of one split, drawn by `rng`."""
        total = self.n_digits**self.length
        kept: list[Tensor] = []
        found, rate = 0, {"train": 0.45, "test": 0.15, "all": 0.6}[split]
        while found < n:
            # Slightly more than is expected to pass, so that one round is nearly always enough.
            draw = int((n - found) / rate) + 64
            codes = torch.randint(total, (draw,), generator=rng)
            coin = torch.rand(draw, generator=rng) < 0.5
            keep = ~(coin & self._crowded(codes))
            if split != "all":
                keep &= in_test_split(codes) == (split == "test")
            kept.append(codes[keep])
            found += len(kept[-1])
        return self._digits(torch.cat(kept)[:n])

    def identity(self) -> dict[str, Any]:
        """Return its fields."""
        return asdict(self)

    def draw(self, n: int, split: Split | str, rng: torch.Generator) -> Batch:
        """Return `n` sequences drawn by `rng`, each answered by one of the rules."""
        inputs = self.sample_inputs(n, split, rng)
        skill = torch.randint(len(self.rules), (n,), generator=rng)
        return self.batch(inputs, skill)

    def batch(self, inputs: Int[Tensor, "batch n_in"], skill: Int[Tensor, " batch"]) -> Batch:
        """Return the batch of given inputs, answered by the rule with index `skill`."""
        answers = RULES[self.rules[0]](inputs)
        for index, rule in enumerate(self.rules[1:], start=1):
            answers = torch.where((skill == index)[:, None], RULES[rule](inputs), answers)
        return Batch(torch.cat([inputs, answers[:, :-1]], dim=-1), answers, skill)


def in_test_split(codes: Int[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
    """Return which inputs belong to the test split: a fixed quarter, by a hash of their code."""
    return (mixed(codes) & 3) == 0


_TASKS = {
    **{name: DigitTask(name, (name,)) for name in RULES},
    "four_skills": DigitTask("four_skills", FOUR_SKILLS),
}


def list_tasks() -> list[str]:
    """Return the names that `get_task` knows."""
    return list(_TASKS)


def get_task(name: str) -> DigitTask:
    """Return one of the paper's tasks, or their four-skill mixture, by name.

    Raises:
        PrefixInterpError: unknown name; the message gives the nearest one.

    Example:
        >>> pi.get_task("sort_descending").length
        10
    """
    check_choice("task", name, _TASKS)
    return _TASKS[name]


def as_task(task: Task | str) -> Task:
    """Return the task itself, or the paper's task of that name.

    Raises:
        PrefixInterpError: an unknown name, or nothing that samples batches.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        return get_task(task)
    raise PrefixInterpError(
        f"task is a {type(task).__name__}, which cannot be sampled; give a task, the name of one, "
        "or make one with task_from_tensors(tokens, answers)"
    )


def as_batch(task: Task | Batch | str, n: int, seed: int) -> tuple[str, Batch]:
    """Return the name and a batch of a task's test split, or a batch of one's own as it is.

    Args:
        task: a task, the name of one of the paper's, a batch, or its tokens, answers and perhaps
            answer positions.
        n: sequences of a task; a batch is used whole.
        seed: chooses the sequences of a task.

    Raises:
        PrefixInterpError: an unknown name, `n` below 1, or a batch whose parts do not fit.
    """
    if isinstance(task, tuple):
        return "a batch", as_given("task", task)
    task = as_task(task)
    return task.name, task.sample(n, split="test", seed=seed)
