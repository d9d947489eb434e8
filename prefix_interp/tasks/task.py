"""`Task`: anything that samples batches, from a training split and a test split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from prefix_interp.errors import check_choice, check_positive
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks.batch import Batch

Split = Literal["train", "test", "all"]


class Task(ABC):
    """A source of batches: all that tuning, evaluation and attribution need.

    The paper's tasks come from `get_task`, yours from `task_from_tensors` or `task_from_function`.

    Attributes:
        name: what results and messages call it; batches of tasks with different names differ.

    Example:
        >>> isinstance(pi.get_task("add_one"), pi.Task)
        True
    """

    name: str

    @abstractmethod
    def draw(self, n: int, split: Split | str, rng: torch.Generator) -> Batch:
        """Return `n` sequences of one split, drawn by `rng`; sizes and split are checked."""

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Return JSON values that tell this task from others, for checkpoints."""

    def sample(self, n: int, split: Split | str = "test", seed: int = 0) -> Batch:
        """Return `n` sequences with their answers; the same for the same arguments anywhere.

        Args:
            n: how many, at least 1.
            split: ``"train"``, ``"test"`` (unseen in training) or ``"all"``.
            seed: any integer.

        Raises:
            PrefixInterpError: `n` below 1 or an unknown split.
        """
        return self.sample_from(derive_generator(seed, "sample", split), n, split)

    def sample_from(self, rng: torch.Generator, n: int, split: Split | str = "train") -> Batch:
        """Return `n` sequences drawn by `rng`, which moves on (for training loops)."""
        check_sample(n, split)
        return self.draw(n, split, rng)


def check_sample(n: int, split: Split | str) -> None:
    """Raise unless `n` sequences of `split` can be asked for."""
    check_positive("n", n)
    check_choice("split", split, get_args(Split))
