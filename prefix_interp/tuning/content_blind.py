"""A control: how good is the best rule that does not look at the content?

If a prefix took all attention at every output, the model could use only the position and the last
token that was fed back. The best such rule is a table, estimated here by counting.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.errors import check_positive
from prefix_interp.tasks import Batch, DigitTask, Task, as_task


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
    check_positive("n_count", n_count)
    task = as_task(task)
    train = task.sample(n_count, "train", seed)
    size = 1 + int(max(x.max() for x in (*train[:2], *batch[:2])))
    if isinstance(task, DigitTask):
        size = max(size, task.d_vocab)
    cells, given = _cells(train, size), train.given
    counted = (cells * size + train.answers)[given]
    counts = torch.bincount(counted, minlength=train.answers.shape[1] * size * size)
    table = (counts.view(-1, size) + 1).double()
    return (table / table.sum(dim=-1, keepdim=True)).log()[_cells(batch, size)]


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
    check_positive("n", n)
    test = as_task(task).sample(n, "test", seed)
    return content_blind_log_probs(task, test, seed, n_count).argmax(dim=-1) == test.answers


def _cells(batch: Batch, size: int) -> Int[Tensor, "batch n_out"]:
    """Return the table row of each output: its index and the token it is predicted at."""
    before = batch.read(batch.tokens[..., None])[..., 0]
    return torch.arange(before.shape[1]) * size + before
