"""Where slots and content stand: rows, positions, and what fits the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.sites import Site
from prefix_interp.models.toy import reserved_slots

# TransformerLens's own type: a name, or a test of names, and what is called there.
Hook = tuple[str | Callable[..., Any], Callable[..., Any]]
NOT_EMBEDDED = (
    "prefix cannot be put into this call: it embeds tokens without hook_embed (model.generate "
    "does), or its hooks were removed (model.reset_hooks); decode with greedy_answers, or call "
    "the model once a token"
)


def content_start(model: HookedTransformer, n_slots: int) -> int:
    """Return the position of the first content token behind a prefix of `n_slots` slots.

    It is `n_slots`, except in a toy, whose content stays where it was trained. Slots carry no
    position, so a toy takes a prefix of any length.
    """
    reserved = reserved_slots(model)
    return n_slots if reserved is None else reserved


def check_tokens(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    n_slots: int,
    *,
    may_be_empty: bool = False,
) -> None:
    """Raise unless `tokens` are in the vocabulary and fit the context behind `n_slots` slots."""
    whole = not tokens.is_floating_point() and tokens.dtype != torch.bool
    empty = 0 in tokens.shape[: 1 if may_be_empty else 2]
    if not whole or tokens.ndim != 2 or empty:
        raise PrefixInterpError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give integers "
            "with axes batch, pos"
        )
    if tokens.numel():
        check_vocabulary(model, tokens)
    room = model.cfg.n_ctx - content_start(model, n_slots)
    if tokens.shape[1] > room:
        raise PrefixInterpError(
            f"tokens have {tokens.shape[1]} positions, more than the context of "
            f"{model.cfg.n_ctx} holds behind the slots; give at most {room}"
        )


def check_vocabulary(model: HookedTransformer, tokens: Int[Tensor, "*any"]) -> None:
    """Raise unless all `tokens`, at least one, are integers in the vocabulary of `model`."""
    # Other integer types index embeddings as masks do, or not at all.
    if tokens.dtype not in (torch.int64, torch.int32) or not tokens.numel():
        raise PrefixInterpError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give at least one, "
            "as torch.int64"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.cfg.d_vocab:
        raise PrefixInterpError(
            f"tokens hold {low if low < 0 else high}, outside the vocabulary of "
            f"{model.cfg.d_vocab}; allowed are 0 to {model.cfg.d_vocab - 1}"
        )


def offset_hooks(model: HookedTransformer, n_slots: int) -> list[Hook]:
    """Return hooks that put the content where it stands behind `n_slots` slots, without slots.

    On the content this is the masked baseline, without the slots' rows. Rotary positions need
    no hook, since only differences of positions count.
    """
    if model.cfg.positional_embedding_type != "standard":
        return []
    start = content_start(model, n_slots)

    def move(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        return _content_positions(model, start, pos.shape[1]).expand(len(pos), -1, -1)

    return [(Site.POS_EMBED.at(), move)]


def layout_hooks(model: HookedTransformer, n_slots: int) -> list[Hook]:
    """Return hooks that reserve `n_slots` leading rows, content behind them.

    Rows of zeros are put in front at the embedding, positions run on over slots and content,
    and the slot rows are dropped at the last `hook_resid_post`, so that logits are those of
    the content.
    """
    start = content_start(model, n_slots)
    grown: list[bool] = []

    def grow(embed: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        grown.append(True)
        return torch.cat([embed.new_zeros(len(embed), n_slots, embed.shape[2]), embed], dim=1)

    def place(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        if not grown:
            raise PrefixInterpError(NOT_EMBEDDED)
        grown.clear()
        slots = model.W_pos[torch.arange(n_slots).clamp(max=start - 1)]
        content = _content_positions(model, start, pos.shape[1])
        return torch.cat([slots, content]).expand(len(pos), -1, -1)

    def drop(resid: Float[Tensor, "batch all_pos d_model"], hook: object) -> Tensor:
        return resid[:, n_slots:]

    hooks: list[Hook] = [(Site.EMBED.at(), grow)]
    if model.cfg.positional_embedding_type == "standard":
        hooks.append((Site.POS_EMBED.at(), place))
    return [*hooks, (Site.RESID_POST.at(model.cfg.n_layers - 1), drop)]


def answer_rows_hooks(model: HookedTransformer, n_out: int) -> list[Hook]:
    """Return hooks that spare the last MLP all positions but the last `n_out`.

    Behind them `hook_mlp_out`, `hook_resid_post` and the logits have `n_out` rows. Models without
    a place between attention and MLP get no hooks.
    """
    if model.cfg.attn_only or model.cfg.parallel_attn_mlp:
        return []

    def cut(resid: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        # TransformerLens views the rows as a matrix; a model without norms passes them on as cut.
        return resid[:, -n_out:].contiguous()

    return [(Site.RESID_MID.at(model.cfg.n_layers - 1), cut)]


def _content_positions(model: HookedTransformer, start: int, length: int) -> Tensor:
    rows = model.W_pos[start : start + length]
    if len(rows) < length:
        raise PrefixInterpError(
            f"tokens have {length} positions, more than the context of {model.cfg.n_ctx} holds "
            f"behind the slots; give at most {model.cfg.n_ctx - start}"
        )
    return rows
