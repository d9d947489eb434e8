"""Where slots and content are: rows, positions, and the room in the context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site

# TransformerLens's own type: a name or a predicate on names, and the function to call there.
Hook = tuple[str | Callable[..., Any], Callable[..., Any]]
NOT_EMBEDDED = (
    "prefix cannot be put into this call: it embeds tokens without hook_embed (model.generate "
    "does), or its hooks were removed (model.reset_hooks); decode with greedy_answers, or call "
    "the model once per token"
)


def check_tokens(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    n_slots: int,
    *,
    keep: bool = False,
    may_be_empty: bool = False,
) -> None:
    """Raise unless `tokens` are in the vocabulary and fit the context after `n_slots` slots."""
    if not isinstance(tokens, Tensor):
        raise PrefixInterpError(
            f"tokens are a {type(tokens).__name__}; give a tensor with axes batch, pos, e.g. "
            "batch.tokens"
        )
    whole = not tokens.is_floating_point() and tokens.dtype != torch.bool
    empty = 0 in tokens.shape[: 1 if may_be_empty else 2]
    if not whole or tokens.ndim != 2 or empty:
        raise PrefixInterpError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give integers "
            "with axes batch, pos"
        )
    if tokens.numel():
        check_vocabulary(model, tokens)
    host_of(model).check_room(n_slots, tokens.shape[1], keep=keep)


def check_vocabulary(model: Model, tokens: Int[Tensor, "*any"]) -> None:
    """Raise unless all `tokens`, at least one, are integers in the vocabulary of `model`."""
    # Other integer types index embeddings like masks, or not at all.
    if tokens.dtype not in (torch.int64, torch.int32) or not tokens.numel():
        raise PrefixInterpError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give at least one, "
            "as torch.int64"
        )
    d_vocab = host_of(model).d_vocab
    low, high = (int(x) for x in tokens.aminmax())
    if low < 0 or high >= d_vocab:
        raise PrefixInterpError(
            f"tokens hold {low if low < 0 else high}, outside the vocabulary of {d_vocab}; "
            f"allowed are 0 to {d_vocab - 1}"
        )


def offset_hooks(model: Model, n_slots: int, *, keep: bool = False) -> list[Hook]:
    """Return hooks that give content its positions after `n_slots` slots, without adding slots.

    For the content this is the masked baseline, without the slots' rows. Rotary positions need no
    hook, since only differences of positions matter. With `keep` positions stay (see `Prefix`).
    """
    host = host_of(model)

    def move(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        return host.content_positions(n_slots, pos.shape[1], keep=keep).expand(len(pos), -1, -1)

    moved: list[Hook] = [(Site.POS_EMBED.at(), move)] if host.learned_positions else []
    return [*moved, *host.offset_hooks(n_slots, keep=keep)]


def layout_hooks(model: Model, n_slots: int, *, keep: bool = False) -> list[Hook]:
    """Return hooks that reserve `n_slots` leading rows before the content.

    Rows of zeros are put in front at the embedding, positions are consecutive over slots and
    content (the content's stay with `keep`), and the slot rows are dropped at the last
    `hook_resid_post`: the logits are the content's.
    """
    host = host_of(model)
    grown: list[bool] = []

    def grow(embed: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        grown.append(True)
        return torch.cat([embed.new_zeros(len(embed), n_slots, embed.shape[2]), embed], dim=1)

    def place(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        if not grown:
            raise PrefixInterpError(NOT_EMBEDDED)
        grown.clear()
        n_content = pos.shape[1] - n_slots if host.places_rows else pos.shape[1]
        return host.position_rows(n_slots, n_content, keep=keep).expand(len(pos), -1, -1)

    def drop(resid: Float[Tensor, "batch all_pos d_model"], hook: object) -> Tensor:
        return resid[:, n_slots:]

    hooks: list[Hook] = [(Site.EMBED.at(), grow)]
    if host.learned_positions:
        hooks.append((Site.POS_EMBED.at(), place))
    return [*hooks, (Site.RESID_POST.at(host.n_layers - 1), drop)]


def answer_rows_hooks(model: Model, n_out: int) -> list[Hook]:
    """Return hooks that run the last MLP only on the last `n_out` positions.

    Then `hook_mlp_out`, `hook_resid_post` and the logits have `n_out` rows. Models without a hook
    between attention and MLP get no hooks; in a language model only the unembedding is cut.
    """
    site = host_of(model).rows_site
    if site is None:
        return []

    def cut(resid: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        # TransformerLens views the rows as a matrix; without a norm they would not be contiguous.
        return resid[:, -n_out:].contiguous()

    return [(site, cut)]
