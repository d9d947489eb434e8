"""What a training step minimises, on which batches, and with which weights frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.fast_forward import FastForward, is_written_down
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.plain_run import eager
from prefix_interp.models.toy import Toy
from prefix_interp.prefixes.attach import stack_hooks
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.layout import Hook, answer_rows_hooks
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import NO_ANSWER, Batch, mean_over_answers
from prefix_interp.tuning.recipes import Recipe


def sequence_losses(
    model: Model, batch: Batch, recipe: Recipe, hooks: Sequence[Hook]
) -> Float[Tensor, " batch"]:
    """Return each sequence's mean cross-entropy over its outputs.

    Args:
        model: the trained model, or the model of the trained context.
        batch: tokens and answers, on the device of the model.
        recipe: its precision is used.
        hooks: put the prefix or the baseline into the model.
    """
    # A compiled model would leave out the hooks.
    with eager(), host_of(model).hooked([*hooks, *answer_rows_hooks(model, batch.n_rows)]):
        with in_precision(model, recipe):
            logits = batch.read(model(batch.tokens))
    return answer_losses(logits, batch)


def stack_losses(
    model: Model, like: Context, recipe: Recipe
) -> Callable[[Batch, Mapping[str, Tensor]], Float[Tensor, " rows"]]:
    """Return a function that gives the losses of a batch under each of a stack of contexts.

    Args:
        model: with frozen weights, which must not change as long as the function is used.
        like: defines the kind and settings of the contexts.
        recipe: its precision is used.
    """
    fast = None
    if isinstance(like, Prefix) and not like.keeps_positions and is_written_down(model):
        half = recipe.precision == "bfloat16" and host_of(model).dtype == torch.float32
        fast = FastForward(model, torch.bfloat16 if half else None)

    def losses(batch: Batch, stack: Mapping[str, Tensor]) -> Float[Tensor, " rows"]:
        repeated = batch.repeat(len(next(iter(stack.values()))))
        if fast is None:
            return sequence_losses(model, repeated, recipe, stack_hooks(model, like, stack))
        slots = host_of(model).keys_values(stack)
        with in_precision(model, recipe):
            logits = fast(batch.tokens, batch.n_rows, slots)
        return answer_losses(repeated.read(logits), repeated)

    return losses


def bare_losses(toy: Toy, batch: Batch, recipe: Recipe) -> Float[Tensor, " batch"]:
    """Return each sequence's mean cross-entropy in the masked baseline, without hooks.

    Args:
        toy: one that `is_written_down`; gradients flow to its weights, as they are now.
        batch: tokens and answers.
        recipe: its precision is used.
    """
    batch = batch.to(host_of(toy).device)
    with in_precision(toy, recipe):
        logits = FastForward(toy)(batch.tokens, batch.n_rows)
    return answer_losses(batch.read(logits), batch)


def answer_losses(
    logits: Float[Tensor, "batch n_out d_vocab"], batch: Batch
) -> Float[Tensor, " batch"]:
    """Return each sequence's mean cross-entropy over its outputs.

    Args:
        logits: that predict the answers.
        batch: the answers, on the device of the logits.
    """
    losses = F.cross_entropy(logits.float().transpose(1, 2), batch.answers, reduction="none")
    return mean_over_answers(losses, batch.answers)


def in_precision(model: Model, recipe: Recipe) -> torch.autocast:
    """Return the context in which a forward pass has the precision of a recipe."""
    device = host_of(model).device.type
    return torch.autocast(device, torch.bfloat16, enabled=recipe.precision == "bfloat16")


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Disable weight gradients and dropout inside the block; restore them after it."""
    before, training = {n: p.requires_grad for n, p in model.named_parameters()}, model.training
    try:
        model.eval()
        model.requires_grad_(False)
        yield
    finally:
        model.train(training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


def check_batch(
    model: Model, batch: Batch, n_slots: int = 0, *, keep: bool = False, name: str = "a batch"
) -> None:
    """Raise unless `model` can be given `batch` behind `n_slots` slots, and be scored on it.

    Args:
        model: a supported model.
        batch: tokens and answers whose shapes fit (`Batch.check`).
        n_slots: slots of the context to come.
        keep: whether the content keeps its positions (see `Prefix`).
        name: of the task, for the message.

    Raises:
        PrefixInterpError: tokens, answers or foils outside the vocabulary, more positions than the
            context holds, or padding that a model without a causal mask would see.
    """
    host, given = host_of(model), batch.given
    parts = {"tokens": batch.tokens, "answers": batch.answers[given]}
    if batch.foils is not None:
        parts["foils"] = batch.foils[batch.foils != NO_ANSWER]
    for what, x in parts.items():
        low, high = (int(value) for value in x.aminmax())
        if low < 0 or high >= host.d_vocab:
            raise PrefixInterpError(
                f"task={name!r} has {what} from {low} to {high}, outside the vocabulary of "
                f"{host.d_vocab}; give 0 to {host.d_vocab - 1}, the model's own tokenizer, or a "
                "model with a larger d_vocab"
            )
    n_content, room = batch.tokens.shape[1], host.room(n_slots, keep=keep)
    if n_content > room:
        kept = "" if n_content > host.room(0) else ", or a prefix with positions='keep'"
        raise PrefixInterpError(
            f"task={name!r} needs {n_content} content positions but the model has {room}; give "
            f"shorter sequences, or a model with {n_content - room} more{kept}"
        )
    if not host.causal and not bool(given.all()):
        raise PrefixInterpError(
            f"task={name!r} has rows with fewer answers, so with padding, which this model sees: "
            "it has no causal mask; give rows of one length"
        )
