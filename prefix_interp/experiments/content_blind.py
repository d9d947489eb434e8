"""A control: how far does one get without looking at the content?

If a prefix took all attention at every output, the model could use nothing but the position and
the token fed back last. The best rule of that kind is a table, estimated here by counting.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefix_interp.errors import check_positive
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.evaluate import as_task


def content_blind_hits(
    task: Task | str, n: int = 3200, seed: int = 0, n_count: int = 400_000
) -> Bool[Tensor, "batch n_out"]:
    """Return which outputs the best content-blind rule gets right on unseen inputs.

    The rule says the most frequent output given the output's index and the token before it.
    ``hits.all(-1)`` is exact match, ``hits.double().mean(0)`` the accuracy of each output.

    Args:
        task: a task or its name.
        n: test sequences; with `seed`, the same as those of `evaluate`.
        seed: any integer.
        n_count: training sequences to count on.
    """
    task = as_task(task)
    check_positive("n", n)
    check_positive("n_count", n_count)
    train, test = task.sample(n_count, "train", seed), task.sample(n, "test", seed)
    size = task.d_vocab
    cells = _cells(train, task) * size + train.answers
    counts = torch.bincount(cells.flatten(), minlength=task.length * size * size)
    rule = counts.view(-1, size).argmax(dim=-1)
    return rule[_cells(test, task)] == test.answers


def _cells(batch: Batch, task: Task) -> Int[Tensor, "batch n_out"]:
    """Return the table row of each output: its index and the token before it."""
    before = batch.tokens[:, -task.length :]
    return torch.arange(task.length) * task.d_vocab + before
