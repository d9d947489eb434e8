"""Putting a soft prompt among the tokens: rows grown into the sequence and read behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.guard import Guard, check_free
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.soft_prompt import Level, SoftPrompt

_WRITTEN = (("Q", Site.Q), ("K", Site.K), ("V", Site.V))


@contextmanager
def attach_soft(
    model: HookedTransformer, prompt: SoftPrompt, *, first: bool = False
) -> Iterator[HookedTransformer]:
    """Put `prompt` among the tokens for the length of a with block, and leave nothing behind.

    Inside, pass content tokens only, at least ``prompt.after`` of them: ``model(tokens)`` returns
    logits ``batch pos d_vocab``, row i predicting content token i + 1. Where the slots stand
    between the two tokens, row i is read at the last slot. Caches hold the grown sequence, slots
    behind the first ``prompt.after`` tokens (except the last `hook_resid_post` and what follows,
    which have the rows of the logits). `start_at_layer` needs a residual stream with the slot
    rows, as the caches hold it.

    Args:
        model: a supported HookedTransformer.
        prompt: a soft prompt that fits it.
        first: with ``after=0``, one row more in front, the last slot's, which predicts content
            token 0; the content may then be empty (``batch 0``).

    Raises:
        PrefixInterpError: the prompt does not fit, a prefix is attached already, tokens outside
            the vocabulary or the context or fewer than `after`, an attention mask or cache, or
            the hooks were taken off inside the block.
    """
    check_free(model)
    prompt.check_fits(model)
    n = prompt.n_slots
    guard = Guard(model, n, extra_rows=n, may_be_empty=first)
    hooks = soft_hooks(
        model, prompt.vectors, prompt.after, prompt.level, first=first, written=guard.written
    )
    with guard.watching(hooks):
        yield model


def soft_hooks(
    model: HookedTransformer,
    vectors: Float[Tensor, "*stack layer slot d_model"],
    after: int = 0,
    level: Level | str = "embedding",
    *,
    first: bool = False,
    read: bool = True,
    written: Callable[[int], None] = lambda _: None,
) -> list[Hook]:
    """Return forward hooks that put rows among the tokens (see `attach_soft`, which checks more).

    A stack is applied to as many equal blocks of the batch axis, in order; gradients flow to it.

    Positions: in a toy the content keeps its trained positions, slots in front hold the reserved
    ones and slots further on none; in other models positions are counted through.

    Args:
        model: a supported HookedTransformer.
        vectors: see `SoftPrompt`, with or without a stack axis.
        after: content tokens before the slots.
        level: ``"embedding"`` or ``"layers"``.
        first: see `attach_soft`.
        read: cut the last residual stream to the rows that predict content; False leaves all.
        written: called with each layer that the rows were written for.

    Raises:
        PrefixInterpError: vectors that do not fit the model or the level, an unknown level, a
            negative `after`, `first` with a suffix, or a tokenizer that pads on the left; while
            running, too few tokens, or a batch that is no multiple of the stack.
    """
    _check_vectors(model, vectors, after, level)
    _check_padding(model)
    if first and after:
        raise PrefixInterpError(
            f"first=True does not go with after={after}: content stands before the slots; leave "
            "first out"
        )
    host, n_slots = host_of(model), vectors.shape[-2]
    stack = vectors if vectors.ndim == 4 else vectors[None]

    def insert(x: Tensor, rows: Tensor) -> Tensor:
        if x.shape[1] < after:
            raise PrefixInterpError(
                f"tokens have {x.shape[1]} positions, fewer than stand before the slots; give at "
                f"least after={after}"
            )
        return torch.cat([x[:, :after], rows, x[:, after:]], dim=1)

    def rows_for(x: Tensor, rows: Float[Tensor, "stack ..."]) -> Float[Tensor, "batch ..."]:
        if len(x) % len(rows):
            raise PrefixInterpError(
                f"tokens have {len(x)} sequences, no multiple of the {len(rows)} stacked prompts; "
                "give as many for each"
            )
        return rows.repeat_interleave(len(x) // len(rows), dim=0)

    def grow(embed: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        _check_padding(model)  # a call may set another side
        if level == "layers":
            return insert(embed, embed.new_zeros(len(embed), n_slots, embed.shape[2]))
        for layer in range(host.n_layers):  # every layer has what becomes of them
            written(layer)
        return insert(embed, rows_for(embed, stack[:, 0]))

    def place(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        return host.position_rows(n_slots, pos.shape[1], after).expand(len(pos), -1, -1)

    def overwrite(layer: int, what: str) -> Callable[..., Tensor]:
        def write(x: Float[Tensor, "batch pos any_head d_head"], hook: object) -> Tensor:
            rows = host.attention(layer).project(stack[:, layer], what)
            rows = expand_heads(rows, x.shape[2])
            written(layer)
            return torch.cat([x[:, :after], rows_for(x, rows), x[:, after + n_slots :]], dim=1)

        return write

    def keep(resid: Float[Tensor, "batch all_pos d_model"], hook: object) -> Tensor:
        # The last slot predicts what the content row before the slots did, if there is one.
        last_slot = after + n_slots - 1
        behind = resid[:, last_slot if after or first else last_slot + 1 :]
        return torch.cat([resid[:, : max(after - 1, 0)], behind], dim=1)

    hooks: list[Hook] = [(Site.EMBED.at(), grow)]
    if host.learned_positions:
        hooks.append((Site.POS_EMBED.at(), place))
    if level == "layers":
        for layer in range(host.n_layers):
            hooks += [(site.at(layer), overwrite(layer, what)) for what, site in _WRITTEN]
    if read:
        hooks.append((Site.RESID_POST.at(host.n_layers - 1), keep))
    return hooks


def _check_vectors(
    model: HookedTransformer, vectors: Tensor, after: int, level: Level | str
) -> None:
    check_choice("level", level, get_args(Level))
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise PrefixInterpError(f"after={after!r} must be a whole number of at least 0")
    host = host_of(model)
    layers = 1 if level == "embedding" else host.n_layers
    shape = tuple(vectors.shape)
    fits = vectors.ndim in (3, 4) and 0 not in shape
    if not fits or (shape[-3], shape[-1]) != (layers, host.d_model):
        raise PrefixInterpError(
            f"vectors have shape {shape}; level={level!r} needs [stack,] layer, slot, d_model with "
            f"{layers} layer{'' if layers == 1 else 's'} and d_model of {host.d_model}"
        )
    if vectors.dtype != host.dtype:
        raise PrefixInterpError(
            f"vectors are {vectors.dtype} but the model is {host.dtype}; convert them"
        )


def _check_padding(model: HookedTransformer) -> None:
    if host_of(model).pads_left:
        raise PrefixInterpError(
            "model.tokenizer.padding_side='left' makes TransformerLens mask tokens equal to its "
            "padding token, by a mask without the slots; set it to 'right'"
        )
