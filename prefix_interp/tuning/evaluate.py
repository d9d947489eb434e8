"""How well a model does a task, with intervals."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.models.toy import reserved_slots
from prefix_interp.prefixes.baselines import Baseline, fast_baseline
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.inject import attach
from prefix_interp.prefixes.layout import check_tokens
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import Task, get_task

_Z95 = 1.959963984540054


class Estimate(float):
    """A measured number with its 95% interval; it computes and compares like a float."""

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> Estimate:
        """Return the number `value` that remembers its interval."""
        self = super().__new__(cls, value)
        self.low, self.high = float(low), float(high)
        return self

    @property
    def value(self) -> float:
        """Return the number alone."""
        return float(self)

    def __repr__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return Estimate, (self.value, self.low, self.high)

    def to_dict(self) -> dict[str, float]:
        """Return value, low and high as plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Evaluation:
    """How well a model does one task.

    Attributes:
        task: the task's name.
        n: sequences measured.
        exact_match: share of sequences with every output right, 0 to 1, Wilson interval.
        token_accuracy: share of right outputs, 0 to 1. Outputs of a sequence go together, so its
            Wilson interval counts sequences, which errs on the wide side.
        loss: mean cross-entropy of the outputs in nats, normal interval over sequences.
    """

    task: str
    n: int
    exact_match: Estimate
    token_accuracy: Estimate
    loss: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "task": self.task,
            "n": self.n,
            "exact_match": self.exact_match.to_dict(),
            "token_accuracy": self.token_accuracy.to_dict(),
            "loss": self.loss.to_dict(),
        }


def wilson(successes: float | int, n: int) -> Estimate:
    """Return a proportion with its 95% Wilson score interval (Wilson 1927).

    Args:
        successes: between 0 and `n`; may be fractional.
        n: trials, at least 1.

    Raises:
        PrefixInterpError: `n` below 1 or `successes` outside 0..n.
    """
    check_positive("n", n)
    if not 0 <= successes <= n:
        raise PrefixInterpError(f"successes={successes!r} must lie between 0 and n={n}")
    p, z2 = successes / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Rounding would put the interval of 0 or n successes a hair off the end it touches.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Estimate(p, low, high)


def mean_interval(values: Float[Tensor, "n"]) -> Estimate:
    """Return the mean of independent `values` with its 95% normal interval."""
    x = values.double()
    mean = float(x.mean())
    half = _Z95 * float(x.std(unbiased=True)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return Estimate(mean, mean - half, mean + half)


def as_task(task: Task | str) -> Task:
    """Return the task itself, or the one of that name."""
    return task if isinstance(task, Task) else get_task(task)


def evaluate(
    model: HookedTransformer,
    task: Task | str,
    prefix: Prefix | None = None,
    n: int = 3200,
    seed: int = 0,
    baseline: Baseline | str = "masked",
    batch_size: int = 1600,
) -> Evaluation:
    """Return how well `model`, with or without `prefix`, does `task` on unseen inputs.

    One teacher-forced pass is enough: greedy decoding is right on all outputs exactly if every
    teacher-forced argmax is, since up to the first mistake both see the same tokens.

    Args:
        model: a HookedTransformer.
        task: a task or its name.
        prefix: None for no prefix, in the sense of `baseline`.
        n: sequences from the test split (the paper uses 3,200).
        seed: chooses the sequences.
        baseline: ``"masked"``, ``"placeholder"`` or ``"unshifted"``; not used with a prefix. A
            model that is no toy reserves no slots, so there the three are the same.
        batch_size: sequences a pass.

    Raises:
        PrefixInterpError: unknown task, prefix of another model, tokens beyond the vocabulary.
    """
    task = as_task(task)
    check_positive("n", n)
    check_positive("batch_size", batch_size)
    batch = task.sample(n, split="test", seed=seed)
    right, loss = [], []
    for start in range(0, n, batch_size):
        part = slice(start, start + batch_size)
        logits = answer_logits(model, task, batch.tokens[part], prefix, baseline)
        answers = batch.answers[part].to(logits.device)
        right.append(logits.argmax(dim=-1) == answers)
        losses = F.cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
        loss.append(losses.mean(dim=-1))
    hits = torch.cat(right)
    return Evaluation(
        task=task.name,
        n=n,
        exact_match=wilson(int(hits.all(dim=-1).sum()), n),
        token_accuracy=wilson(float(hits.double().mean() * n), n),
        loss=mean_interval(torch.cat(loss)),
    )


def answer_logits(
    model: HookedTransformer,
    task: Task,
    tokens: Int[Tensor, "batch pos"],
    prefix: Prefix | None = None,
    baseline: Baseline | str = "masked",
) -> Float[Tensor, "batch n_out d_vocab"]:
    """Return the logits of a task's outputs (those at the last `task.length` positions)."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if prefix is None:
            check_free(model)
            n_prefix = reserved_slots(model) or 0
            check_tokens(model, tokens, n_prefix)
            tokens, hooks = fast_baseline(model, n_prefix, tokens, baseline)
            stack.enter_context(model.hooks(fwd_hooks=hooks))
        else:
            stack.enter_context(attach(model, prefix))
        return model(tokens)[:, -task.length :]


def greedy_answers(
    model: HookedTransformer,
    task: Task | str,
    inputs: Int[Tensor, "batch n_in"],
    prefix: Prefix | None = None,
    baseline: Baseline | str = "masked",
) -> Int[Tensor, "batch n_out"]:
    """Return the outputs that `model` generates greedily, one token after the other.

    Args:
        model: a HookedTransformer.
        task: gives the number of outputs.
        inputs: the task's inputs, without answers.
        prefix: None for no prefix, in the sense of `baseline`.
        baseline: see `evaluate`.
    """
    task = as_task(task)
    tokens = inputs
    for _ in range(task.length):
        logits = answer_logits(model, task, tokens, prefix, baseline)
        tokens = torch.cat([tokens, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=-1)
    return tokens[:, inputs.shape[1] :]
