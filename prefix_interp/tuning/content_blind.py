"""A control: how good is the best rule that does not look at the content?

If a prefix took all attention at every output, the model could use only the position and the last
token that was fed back. The best such rule is a table, estimated here by counting.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.errors import check_positive
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.evaluate import as_task


def content_blind_log_probs(
    task: Task | str, batch: Batch, seed: int = 0, n_count: int = 400_000
) -> Float[Tensor, "batch n_out d_vocab"]:
    """Return the log-probabilities of each output under the best content-blind rule, in nats.

    The rule counts how often each output follows the output's index and the token before it. One is
    added to each count, so that no output is impossible.

    Args:
        task: a task or its name.
        batch: the sequences to answer.
        seed: chooses the training sequences.
        n_count: training sequences to count on.

    Raises:
        PrefixInterpError: unknown task, or `n_count` is not positive.
    """
    task = as_task(task)
    check_positive("n_count", n_count)
    train, size = task.sample(n_count, "train", seed), task.d_vocab
    cells = _cells(train, task) * size + train.answers
    counts = torch.bincount(cells.flatten(), minlength=task.length * size * size)
    table = (counts.view(-1, size) + 1).double()
    return (table / table.sum(dim=-1, keepdim=True)).log()[_cells(batch, task)]


def content_blind_hits(
    task: Task | str, n: int = 3200, seed: int = 0, n_count: int = 400_000
) -> Bool[Tensor, "batch n_out"]:
    """Return which outputs the best content-blind rule gets right on unseen inputs.

    The rule predicts the most frequent output given the output's index and the token before.
    ``hits.all(-1)`` is exact match, ``hits.double().mean(0)`` the accuracy of each output.

    Args:
        task: a task or its name.
        n: number of test sequences; with equal `seed` those of `evaluate`.
        seed: any integer.
        n_count: training sequences to count on.
    """
    task = as_task(task)
    check_positive("n", n)
    test = task.sample(n, "test", seed)
    return content_blind_log_probs(task, test, seed, n_count).argmax(dim=-1) == test.answers


def _cells(batch: Batch, task: Task) -> Int[Tensor, "batch n_out"]:
    """Return the table row of each output: its index and the token before it."""
    before = batch.tokens[:, -task.length :]
    return torch.arange(task.length) * task.d_vocab + before
