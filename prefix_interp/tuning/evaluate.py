"""How well a model does a task, with intervals."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.errors import check_positive
from prefix_interp.estimates import Estimate, mean_interval, wilson
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.finite import checked_run
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import UNEMBED_IN
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.baselines import Baseline, fast_baseline
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.given import ContextLike, as_context
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import answer_rows_hooks, check_tokens
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.tasks import Batch, DigitTask, Task, as_batch, get_task, mean_over_answers
from prefix_interp.tasks.choice import beats_foils
from prefix_interp.tasks.words import task_words
from prefix_interp.tuning.objective import check_batch

_MAX_LOGITS = 2**27  # held at once: half a gigabyte

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Evaluation(ResultObject):
    """How well a model does one task.

    Attributes:
        task: the task's name.
        n: sequences measured.
        exact_match: share of sequences with every output right, 0 to 1, Wilson interval.
        token_accuracy: share of right outputs, 0 to 1. Outputs of a sequence are correlated, so its
            Wilson interval counts sequences and is rather too wide.
        loss: mean cross-entropy of the outputs in nats, normal interval over sequences.
        choice: share of sequences whose answers have higher logits than all of their foils, Wilson
            interval; None if the task names no foils.

    Example:
        >>> pi.evaluate(model, task, prefix, n=64).n
        64
    """

    task: str
    n: int
    exact_match: Estimate
    token_accuracy: Estimate
    loss: Estimate
    choice: Estimate | None = None

    @property
    def scores(self) -> dict[str, Estimate]:
        """Return the scores by name; ``choice`` only where there is one."""
        names = ("exact_match", "token_accuracy", "loss", "choice")
        return {k: x for k in names if (x := getattr(self, k)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        scores = {name: score.to_dict() for name, score in self.scores.items()}
        return {"task": self.task, "n": self.n, **scores}

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per score: ``task``, ``n``, ``score``, ``value``, ``low``, ``high``."""
        about = {"task": self.task, "n": self.n}
        rows = [{**about, "score": k, **x.to_dict()} for k, x in self.scores.items()]
        return pd.DataFrame(rows)

    def caption(self) -> str:
        """Return the task, the number of sequences and the scores."""
        scores = ", ".join(f"{k.replace('_', ' ')} {x!r}" for k, x in self.scores.items())
        return f"{task_words(self.task)}, {self.n} sequences; {scores}"

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the scores with their intervals."""
        return drawing("fits.scores_figure")(self, figsize=figsize, width=width)


def evaluate(
    model: Model,
    task: Task | Batch | str,
    context: ContextLike | None = None,
    n: int = 3200,
    seed: int = 0,
    baseline: Baseline | str = "masked",
    batch_size: int = 1600,
) -> Evaluation:
    """Evaluate `model`, with or without `context`, on unseen inputs of `task`.

    One teacher-forced pass is enough: greedy decoding gets all outputs right exactly if every
    teacher-forced argmax is right. Both see the same tokens up to the first mistake.

    Args:
        model: a supported model.
        task: a task, the name of one of the paper's, or a batch of your own.
        context: a prefix, soft prompt, tuned fit or folder of one; None for a run without, as
            `baseline` says.
        n: sequences from the test split (the paper uses 3,200); a batch is used whole.
        seed: chooses the sequences.
        baseline: ``"masked"``, ``"placeholder"`` or ``"unshifted"``; not used with a context. The
            three are equal in a model that is not a toy, since it reserves no slots.
        batch_size: sequences per pass.

    Raises:
        PrefixInterpError: unknown task, context of another model, tokens or answers beyond the
            vocabulary, a batch whose parts do not fit, scores or logits that are not finite.

    Example:
        >>> pi.evaluate(model, task, prefix, n=64).exact_match.value > 0.9
        True
    """
    check_positive("n", n)
    name, batch = as_batch(task, n, seed)
    check_batch(model, batch, name=name)
    context = None if context is None else as_context(context)
    return scored(name, batch, *answer_scores(model, batch, context, baseline, batch_size))


class Scores(NamedTuple):
    """What `answer_scores` returns.

    Attributes:
        right: which answers are right under teacher forcing.
        loss: each sequence's mean cross-entropy in nats.
        beats: which sequences give their answers higher logits than the foils; None without foils.
    """

    right: Bool[Tensor, "batch n_out"]
    loss: Float[Tensor, " batch"]
    beats: Bool[Tensor, " batch"] | None = None


def answer_scores(
    model: Model,
    batch: Batch,
    context: Context | None = None,
    baseline: Baseline | str = "masked",
    batch_size: int = 1600,
) -> Scores:
    """Return which answers are right, each sequence's loss, and which foils are beaten.

    Args:
        model: a supported model.
        batch: sequences and answers, perhaps with foils.
        context: a prefix or soft prompt; None for a run without, as `baseline` says.
        baseline: see `evaluate`.
        batch_size: sequences per pass.
    """
    check_positive("batch_size", batch_size)
    host, parts = host_of(model), list[Scores]()
    size = min(batch_size, max(1, _MAX_LOGITS // (batch.n_rows * host.d_vocab)))
    for start in range(0, len(batch.tokens), size):
        own = batch.part(slice(start, start + size)).to(host.device)
        logits = answer_logits(model, own, context, baseline).float()
        beats = None if own.foils is None else beats_foils(logits, own.answers, own.foils)
        parts.append(Scores(*marked(logits, own.answers), beats))
    right, loss, beats = ([x for x in part if x is not None] for part in zip(*parts, strict=True))
    return Scores(torch.cat(right), torch.cat(loss), torch.cat(beats) if beats else None)


def marked(
    logits: Float[Tensor, "batch n_out d_vocab"], answers: Int[Tensor, "batch n_out"]
) -> tuple[Bool[Tensor, "batch n_out"], Float[Tensor, " batch"]]:
    """Return which argmaxes are right, and each sequence's mean cross-entropy in nats."""
    losses = F.cross_entropy(logits.transpose(1, 2), answers, reduction="none")
    return logits.argmax(dim=-1) == answers, mean_over_answers(losses, answers)


def scored(
    name: str,
    batch: Batch,
    right: Bool[Tensor, "batch n_out"],
    loss: Float[Tensor, " batch"],
    beats: Bool[Tensor, " batch"] | None = None,
) -> Evaluation:
    """Return the scores that `evaluate` returns, from `answer_scores`.

    Args:
        name: of the evaluated task.
        batch: what was answered; places without an answer do not count.
        right: which outputs are right.
        loss: loss of each sequence, in nats per output.
        beats: which sequences give their answers higher logits than the foils, if there are any.
    """
    n, given = len(right), batch.given.to(right.device)
    return Evaluation(
        task=name,
        n=n,
        exact_match=wilson(int((right | ~given).all(dim=-1).sum()), n),
        token_accuracy=wilson(float(right[given].double().mean() * n), n),
        loss=mean_interval(loss),
        choice=None if beats is None else wilson(int(beats.sum()), n),
    )


def answer_logits(
    model: Model,
    batch: Batch,
    context: Context | None = None,
    baseline: Baseline | str = "masked",
) -> Float[Tensor, "batch n_out d_vocab"]:
    """Return the logits that predict each answer of a batch."""
    return batch.read(_logits(model, batch.tokens, context, baseline, batch.n_rows))


def _logits(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    context: Context | None,
    baseline: Baseline | str,
    n_rows: int | None = None,
) -> Float[Tensor, "batch all_pos d_vocab"]:
    """Return the logits, of a language model only at the last `n_rows` positions if given."""
    host = host_of(model)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if context is None:
            check_free(model)
            n_slots = host.n_reserved or 0
            check_tokens(model, tokens, n_slots)
            tokens, hooks = fast_baseline(model, n_slots, tokens, baseline)
            stack.enter_context(checked_run(model))
            stack.enter_context(host.hooked(hooks))
        else:
            stack.enter_context(attach(model, context))
        if n_rows is not None and host.rows_site == UNEMBED_IN:  # behind whatever drops slots
            stack.enter_context(host.hooked(answer_rows_hooks(model, n_rows)))
        return model(tokens)


def greedy_answers(
    model: Model,
    task: DigitTask | str,
    inputs: Int[Tensor, "batch n_in"],
    context: Context | None = None,
    baseline: Baseline | str = "masked",
) -> Int[Tensor, "batch n_out"]:
    """Return the outputs that `model` generates greedily, token by token.

    Args:
        model: a supported model.
        task: one of the paper's tasks, or its name; defines the number of outputs.
        inputs: the task's inputs, without answers.
        context: a prefix or soft prompt; None for a run without, as `baseline` says.
        baseline: see `evaluate`.
    """
    task = get_task(task) if isinstance(task, str) else task
    tokens = inputs
    for _ in range(task.length):
        logits = _logits(model, tokens, context, baseline)
        tokens = torch.cat([tokens, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=-1)
    return tokens[:, inputs.shape[1] :]
