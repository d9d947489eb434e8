"""`attach`: a context in a model for the length of a with block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.gates import check_gates
from prefix_interp.prefixes.guard import Guard, check_free
from prefix_interp.prefixes.inject import Gates, Method, mixture_hooks, slot_hooks
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.prefixes.soft_prompt import SoftPrompt


@contextmanager
def attach(
    model: Model,
    context: Context,
    method: Method | str = "slots",
    gates: Gates = None,
    *,
    predict_first: bool = False,
) -> Iterator[Model]:
    """Put `context` into `model` for the length of a with block, and leave nothing behind.

    Inside, pass content tokens only: ``model(tokens)`` returns logits ``batch pos d_vocab`` of
    the content, and `run_with_cache` and `run_with_hooks` see the context too. `start_at_layer`
    needs a residual stream with the slot rows, as the caches hold it. Hooks of your own act in
    the order they are added: those inside the block see and may change what was written.

    **A prefix.** With ``method="slots"`` caches hold the n_s slots first on every position axis
    (except the last `hook_resid_post`, which is content alone). For interventions use
    ``"slots"``: ``"mixture"`` reads queries and scores where it stands and adds the bias at
    `hook_z`, so that it does not follow later writes to `hook_q`, `hook_k`, `hook_v`,
    `hook_attn_scores` or `hook_pattern`. With `gates` a head has the prefix in part, or not at
    all: gate c makes the slot's share of the softmax ``c exp(score)``. At 0 the head is that of
    the masked baseline on the same input, at 1 that of the full prefix; the other heads keep
    theirs.

    **A soft prompt.** Give at least ``context.position`` content tokens. Row i of the logits
    predicts content token i + 1; where the slots stand between the two tokens, it is read at the
    last slot. Caches hold the grown sequence, slots behind the first ``context.position`` tokens
    (except the last `hook_resid_post` and what follows, which have the rows of the logits).

    Args:
        model: a supported HookedTransformer.
        context: a prefix or soft prompt that fits it.
        method: of a prefix: ``"slots"`` or ``"mixture"``.
        gates: of a prefix: 0 to 1, for each head or for each head and slot; None is 1 everywhere.
        predict_first: of a soft prompt at position 0: one row more in front, the last slot's,
            which predicts content token 0; the content may then be empty (``batch 0``).

    Raises:
        PrefixInterpError: the context does not fit, another one is attached, or an argument does
            not go with it; inside the block, tokens outside the vocabulary or the context length
            or too few, an attention mask or cache (their lengths would not cover the slots), or
            hooks that were taken off.

    Example:
        >>> with pi.attach(model, prefix):
        ...     logits = model(tokens)
        >>> tuple(logits.shape)  # content alone
        (4, 19, 11)
    """
    check_choice("method", method, get_args(Method))
    check_free(model)
    if isinstance(context, SoftPrompt):
        if method != "slots" or gates is not None:
            given = f"method={method!r}" if method != "slots" else "gates"
            raise PrefixInterpError(
                f"{given} does not go with a SoftPrompt, whose rows are read as well as attended "
                "to; leave it out, or attach a Prefix"
            )
        context.check_fits(model)
        n_slots = context.n_slots
        guard = Guard(model, n_slots, extra_rows=n_slots, may_be_empty=predict_first)
        hooks = soft_hooks(
            model, context.vectors, context.position, context.layers,
            predict_first=predict_first, written=guard.written,
        )  # fmt: skip
    elif isinstance(context, Prefix):
        if predict_first:
            raise PrefixInterpError(
                "predict_first=True does not go with a Prefix, which has no rows that predict; "
                "leave it out, or attach a SoftPrompt"
            )
        slots = context.keys_values(model)
        gates = check_gates(model, context.n_slots, gates)
        extra_rows = context.n_slots if method == "slots" else 0
        guard = Guard(model, context.n_slots, extra_rows=extra_rows)
        make = slot_hooks if method == "slots" else mixture_hooks
        hooks = make(model, slots, guard.written, gates)
    else:
        raise PrefixInterpError(
            f"context={type(context).__name__} cannot be attached; give a Prefix or a SoftPrompt"
        )
    with guard.watching(hooks):
        yield model


def stack_hooks(model: Model, like: Context, stack: Mapping[str, Tensor]) -> list[Hook]:
    """Return hooks that put a stack of contexts into `model`, each into its part of the batch.

    Nothing is checked and gradients flow to the stack: this is what contexts are tuned through.
    The logits of the last positions are those of the content; in front of them a soft prompt
    leaves rows of its own.

    Args:
        model: a supported HookedTransformer.
        like: gives kind and settings of all of them.
        stack: their tensors, with an axis in front.
    """
    if isinstance(like, SoftPrompt):
        return soft_hooks(model, stack["vectors"], like.position, like.layers, read=False)
    return mixture_hooks(model, host_of(model).keys_values(stack))
