"""`attach`: put a context into a model for the duration of a with block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.exact import SOFT, check_exact
from prefix_interp.prefixes.gates import check_gates
from prefix_interp.prefixes.given import ContextLike, as_context
from prefix_interp.prefixes.guard import Guard, check_free
from prefix_interp.prefixes.inject import Gates, Method, mixture_hooks, slot_hooks
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.prefixes.soft_prompt import SoftPrompt


@contextmanager
def attach(
    model: Model,
    context: ContextLike,
    method: Method | str = "slots",
    gates: Gates = None,
    *,
    predict_first: bool = False,
) -> Iterator[Model]:
    """Put `context` into `model` for the duration of a with block, and leave nothing behind.

    Inside, pass content tokens only: ``model(tokens)`` returns logits ``batch pos d_vocab`` of
    the content, and `run_with_cache` and `run_with_hooks` see the context too. `start_at_layer`
    needs a residual stream with the slot rows, as in the caches. Your own hooks act in the order
    they are added: hooks added inside the block see what was written and may change it. Each
    forward computes keys and values from its own weights; compiled models run eagerly.

    **A prefix.** With ``method="slots"`` caches hold the n_s slots first on every position axis
    (except the last `hook_resid_post`, which holds only content). For interventions use
    ``"slots"``: ``"mixture"`` reads queries and scores at its own place among the hooks and adds
    the bias at `hook_z`, so it misses later writes to `hook_q`, `hook_k`, `hook_v`,
    `hook_attn_scores` or `hook_pattern`. With `gates` a head sees only part of the prefix, or none:
    gate c makes the slot's term in the softmax ``c exp(score)``. With gate 0 the head acts as in
    the masked baseline on the same input, with gate 1 as under the full prefix.

    **A soft prompt.** Give at least ``context.position`` content tokens. Row i of the logits
    predicts content token i + 1; if the slots lie between these two tokens, the row is read at the
    last slot. Caches hold the extended sequence, with the slots after the first
    ``context.position`` tokens (except the last `hook_resid_post` and later sites, which have the
    rows of the logits).

    Args:
        model: a supported model.
        context: a prefix or soft prompt that fits it, a tuned fit, or the folder it was saved to.
        method: only for a prefix: ``"slots"`` or ``"mixture"``.
        gates: only for a prefix: 0 to 1 per head, or per head and slot; None is 1 everywhere.
        predict_first: only for a soft prompt at position 0: add the last slot's row in front, which
            predicts content token 0. The content may then be empty (``batch 0``).

    Raises:
        PrefixInterpError: the context does not fit, another one is attached, or an argument does
            not go with it. Inside the block: tokens outside the vocabulary, too many or too few
            tokens, an attention mask or cache (which would not cover the slots), removed hooks, a
            call from another thread, a copy or a trace of the model, a reentrant checkpoint, or
            scores or logits that are not finite.

    Example:
        >>> with pi.attach(model, prefix):
        ...     logits = model(tokens)
        >>> tuple(logits.shape)  # content only
        (4, 19, 11)
    """
    check_choice("method", method, get_args(Method))
    check_free(model)
    context = as_context(context)
    if isinstance(context, SoftPrompt):
        if method != "slots" or gates is not None:
            given = f"method={method!r}" if method != "slots" else "gates"
            raise PrefixInterpError(
                f"{given} does not go with a SoftPrompt, whose rows are read as well as attended "
                "to; leave it out, or attach a Prefix"
            )
        context.check_fits(model)
        if context.layers == "embedding":
            check_exact(model, SOFT)
        guard = Guard(
            model, context, context.n_slots,
            may_be_empty=predict_first, needs_tokens=context.layers == "embedding",
        )  # fmt: skip
        hooks = soft_hooks(
            model, context.vectors, context.position, context.layers, predict_first=predict_first
        )
    elif isinstance(context, Prefix):
        if predict_first:
            raise PrefixInterpError(
                "predict_first=True does not go with a Prefix, which has no rows that predict; "
                "leave it out, or attach a SoftPrompt"
            )
        context.check_fits(model)
        check_exact(model, context.parameterization)
        n_slots, tensors, host = context.n_slots, context.tensors, host_of(model)
        gates, keep = check_gates(model, n_slots, gates), context.keeps_positions
        added = n_slots if method == "slots" else 0  # nobody reads what these rows compute
        guard = Guard(model, context, added, unread=added, content_scores=method == "slots")

        def slots(layer: int) -> tuple[Tensor, Tensor]:  # with the weights of this very run
            return host.layer_keys_values(tensors, layer)

        if method == "slots":
            hooks = slot_hooks(model, n_slots, slots, gates, keep=keep)
        else:
            note = guard.finite.note_maxima
            hooks = mixture_hooks(model, n_slots, slots, gates, note, keep=keep)
    else:
        raise PrefixInterpError(
            f"context={type(context).__name__} cannot be attached; give a Prefix or a SoftPrompt"
        )
    with guard.watching(hooks):
        yield model


def stack_hooks(model: Model, like: Context, stack: Mapping[str, Tensor]) -> list[Hook]:
    """Return hooks that put a stack of contexts into `model`, one per part of the batch.

    Tuning uses these hooks: nothing is checked, and gradients flow to the stack. The logits of the
    last positions are those of the content; a soft prompt leaves its own rows before them.

    Args:
        model: a supported model.
        like: defines the kind and settings of all of them.
        stack: their tensors, with a leading axis over contexts.
    """
    if isinstance(like, SoftPrompt):
        return soft_hooks(model, stack["vectors"], like.position, like.layers, read=False)
    slots = host_of(model).keys_values(stack)
    return mixture_hooks(model, like.n_slots, slots.__getitem__, keep=like.keeps_positions)
