"""Putting a prefix into a model: three independent ways that agree to rounding.

- *slots*: the sequence grows by n_s leading rows whose keys and values are overwritten. The
  pattern shows the prefix columns. This is what `attach` does unless told otherwise.
- *mixture*: eq. 7 itself at `hook_z`, z_pt = (1 - g) z + sum_p A_p v_p, with the masses
  computed from the queries. No extra rows, so it is the faster one to train with.
- *cache*: TransformerLens's own key-value cache, filled with the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.utilities.activation_functions import apply_softcap

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.sites import Site
from prefix_interp.models.toy import reserved_slots
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.support import KeysValues, without_hooks

Method = Literal["slots", "mixture"]
Hook = tuple[str, Callable[..., Any]]
_ATTACHED = "_prefix_interp_attached"
_NOT_EMBEDDED = (
    "prefix cannot be put into this call: it embeds tokens without hook_embed (model.generate "
    "does), or its hooks were removed (model.reset_hooks); decode with greedy_answers, or call "
    "the model once a token"
)


def content_start(model: HookedTransformer, n_prefix: int) -> int:
    """Return the position of the first content token behind a prefix of `n_prefix` slots.

    It is `n_prefix`, except in a toy, whose content stays where it was trained. Slots carry no
    position, so a toy takes a prefix of any length.
    """
    reserved = reserved_slots(model)
    return n_prefix if reserved is None else reserved


def check_tokens(model: HookedTransformer, tokens: Int[Tensor, "batch pos"], n_prefix: int) -> None:
    """Raise unless `tokens` are in the vocabulary and fit the context behind `n_prefix` slots."""
    whole = not tokens.is_floating_point() and tokens.dtype != torch.bool
    if not whole or tokens.ndim != 2 or 0 in tokens.shape:
        raise PrefixInterpError(
            f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give integers "
            "with axes batch, pos"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.cfg.d_vocab:
        raise PrefixInterpError(
            f"tokens hold {low if low < 0 else high}, outside the vocabulary of "
            f"{model.cfg.d_vocab}; allowed are 0 to {model.cfg.d_vocab - 1}"
        )
    room = model.cfg.n_ctx - content_start(model, n_prefix)
    if tokens.shape[1] > room:
        raise PrefixInterpError(
            f"tokens have {tokens.shape[1]} positions, more than the context of "
            f"{model.cfg.n_ctx} holds behind the slots; give at most {room}"
        )


def offset_hooks(model: HookedTransformer, n_prefix: int) -> list[Hook]:
    """Return hooks that put the content where it stands behind `n_prefix` slots, without slots.

    On the content this is the masked baseline, without the slots' rows. Rotary positions need
    no hook, since only differences of positions count.
    """
    if model.cfg.positional_embedding_type != "standard":
        return []
    start = content_start(model, n_prefix)

    def move(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        return _content_positions(model, start, pos.shape[1]).expand(len(pos), -1, -1)

    return [(Site.POS_EMBED.at(), move)]


def layout_hooks(model: HookedTransformer, n_prefix: int) -> list[Hook]:
    """Return hooks that reserve `n_prefix` leading rows, content behind them.

    Rows of zeros are put in front at the embedding, positions run on over slots and content,
    and the slot rows are dropped at the last `hook_resid_post`, so that logits are those of
    the content.
    """
    start = content_start(model, n_prefix)
    grown: list[bool] = []

    def grow(embed: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        grown.append(True)
        return torch.cat([embed.new_zeros(len(embed), n_prefix, embed.shape[2]), embed], dim=1)

    def place(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        if not grown:
            raise PrefixInterpError(_NOT_EMBEDDED)
        grown.clear()
        slots = model.W_pos[torch.arange(n_prefix).clamp(max=start - 1)]
        content = _content_positions(model, start, pos.shape[1])
        return torch.cat([slots, content]).expand(len(pos), -1, -1)

    def drop(resid: Float[Tensor, "batch all_pos d_model"], hook: object) -> Tensor:
        return resid[:, n_prefix:]

    hooks: list[Hook] = [(Site.EMBED.at(), grow)]
    if model.cfg.positional_embedding_type == "standard":
        hooks.append((Site.POS_EMBED.at(), place))
    return [*hooks, (Site.RESID_POST.at(model.cfg.n_layers - 1), drop)]


def _content_positions(model: HookedTransformer, start: int, length: int) -> Tensor:
    rows = model.W_pos[start : start + length]
    if len(rows) < length:
        raise PrefixInterpError(
            f"tokens have {length} positions, more than the context of {model.cfg.n_ctx} holds "
            f"behind the slots; give at most {model.cfg.n_ctx - start}"
        )
    return rows


def slot_hooks(
    model: HookedTransformer, slots: KeysValues, written: Callable[[int], None] = lambda _: None
) -> list[Hook]:
    """Return hooks for the *slots* injection of given keys and values.

    Args:
        model: a supported model.
        slots: keys and values of each layer, ``[batch] slot kv_head d_head``.
        written: called with the layer each time its keys and values were overwritten.
    """
    n_prefix = slots[0][0].shape[-3]

    def overwrite(layer: int, which: int) -> Callable[..., Tensor]:
        def write(x: Float[Tensor, "batch pos kv_head d_head"], hook: object) -> Tensor:
            rows = _expand_heads(slots[layer][which], x.shape[2])
            written(layer)
            rows = rows.expand(len(x), *rows.shape[-3:])
            return torch.cat([rows, x[:, n_prefix:]], dim=1)

        return write

    hooks = layout_hooks(model, n_prefix)
    for layer in range(model.cfg.n_layers):
        hooks.append((Site.K.at(layer), overwrite(layer, 0)))
        hooks.append((Site.V.at(layer), overwrite(layer, 1)))
    return hooks


def _expand_heads(x: Tensor, n_heads: int) -> Tensor:
    """Repeat key-value heads for grouped queries, as TransformerLens does."""
    return x if x.shape[-2] == n_heads else x.repeat_interleave(n_heads // x.shape[-2], dim=-2)


def mixture_hooks(
    model: HookedTransformer, slots: KeysValues, written: Callable[[int], None] = lambda _: None
) -> list[Hook]:
    """Return hooks for the *mixture* injection of given keys and values (eq. 7 at `hook_z`).

    Queries and scores are read where these hooks stand: hooks that write them must be added
    before. A stack of prefixes (``stack slot kv_head d_head``) is applied to as many equal
    blocks of the batch axis, in order.

    Args:
        model: a supported model.
        slots: keys and values of each layer, ``[stack] slot kv_head d_head``.
        written: called with the layer each time its output was mixed.
    """
    n_prefix = slots[0][0].shape[-3]
    hooks = offset_hooks(model, n_prefix)
    for layer in range(model.cfg.n_layers):
        hooks += _mixture_at(model, layer, *slots[layer], written)
    return hooks


def _mixture_at(
    model: HookedTransformer,
    layer: int,
    keys: Tensor,
    values: Tensor,
    written: Callable[[int], None],
) -> list[Hook]:
    cfg, attn = model.cfg, model.blocks[layer].attn
    n_prefix, seen = keys.shape[-3], {}

    def head_form(x: Tensor) -> Float[Tensor, "stack slot head d_head"]:
        return _expand_heads(x if x.ndim == 4 else x[None], cfg.n_heads)

    def read_q(q: Tensor, hook: object) -> None:
        seen["q"] = q

    def read_scores(scores: Tensor, hook: object) -> None:
        seen["content"] = scores.logsumexp(dim=-1)  # batch head query

    def mix(z: Float[Tensor, "batch pos head d_head"], hook: object) -> Tensor:
        q, k = seen.pop("q"), head_form(keys)
        if attn.q_norm is not None and attn.k_norm is not None:
            q = attn._apply_qk_norm(q, attn.q_norm)
            with without_hooks(attn.k_norm):
                k = attn._apply_qk_norm(k, attn.k_norm)
        v = head_form(values)
        if cfg.clip_qkv is not None:
            q, k, v = (x.clamp(-cfg.clip_qkv, cfg.clip_qkv) for x in (q, k, v))
        if cfg.positional_embedding_type == "rotary":
            q, k = attn.apply_rotary(q, n_prefix), attn.apply_rotary(k, 0)
        stacked = q.unflatten(0, (len(k), -1))
        scores = torch.einsum("tbqhd,tshd->tbhqs", stacked, k).flatten(0, 1) / attn.attn_scale
        # Masses need more digits than half precision has: a gate near 1 leaves little beside it.
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = apply_softcap(scores, cfg.attn_scores_soft_cap)
        content = seen.pop("content").to(scores.dtype)
        total = torch.logaddexp(content, scores.logsumexp(dim=-1))
        mass = (scores - total[..., None]).exp().to(v.dtype)  # batch head query slot
        keep = (content - total).exp().to(z.dtype).transpose(1, 2)[..., None]
        bias = torch.einsum("tbhqs,tshd->tbqhd", mass.unflatten(0, (len(v), -1)), v)
        written(layer)
        return keep * z + bias.flatten(0, 1)

    return [
        (Site.Q.at(layer), read_q),
        (Site.ATTN_SCORES.at(layer), read_scores),
        (Site.Z.at(layer), mix),
    ]


def prefix_hooks(
    model: HookedTransformer, prefix: Prefix, method: Method | str = "slots"
) -> list[Hook]:
    """Return TransformerLens forward hooks that put `prefix` into `model`.

    For ``model.run_with_hooks(tokens, fwd_hooks=[*prefix_hooks(model, prefix), *mine])``; pass
    content tokens only. `attach` does the same with more checks.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        method: ``"slots"`` (pattern shows the prefix columns) or ``"mixture"``.

    Raises:
        PrefixInterpError: the prefix does not fit, or one is attached already.
    """
    check_choice("method", method, get_args(Method))
    _check_free(model)
    return _method_hooks(method)(model, prefix.keys_values(model))


def _method_hooks(method: Method | str) -> Callable[..., list[Hook]]:
    return slot_hooks if method == "slots" else mixture_hooks


def _check_free(model: HookedTransformer) -> None:
    if getattr(model, _ATTACHED, False):
        raise PrefixInterpError(
            "prefix cannot be attached: the model has one already; leave that attach block first"
        )


@contextmanager
def attach(
    model: HookedTransformer, prefix: Prefix, method: Method | str = "slots"
) -> Iterator[HookedTransformer]:
    """Put `prefix` into `model` for the length of a with block, and leave nothing behind.

    Inside, pass content tokens only: ``model(tokens)`` returns logits ``batch pos d_vocab`` of
    the content, and `run_with_cache` and `run_with_hooks` see the prefix too. With
    ``method="slots"`` caches hold the n_s slots first on every position axis (except the last
    `hook_resid_post`, which is content alone). `start_at_layer` needs a residual stream with the
    slot rows, as the caches hold it.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        method: ``"slots"`` or ``"mixture"``.

    Raises:
        PrefixInterpError: the prefix does not fit, tokens outside the vocabulary or the
            context, an attention mask or cache (their lengths would not cover the slots), or
            the hooks were taken off inside the block.
    """
    check_choice("method", method, get_args(Method))
    _check_free(model)
    slots = prefix.keys_values(model)
    guard = _Guard(model, prefix.n_prefix, extra_rows=prefix.n_prefix if method == "slots" else 0)
    hooks = _method_hooks(method)(model, slots, guard.written)
    try:
        setattr(model, _ATTACHED, True)
        guard.arm()
        with model.hooks(fwd_hooks=hooks):
            yield model
    finally:
        guard.disarm()
        delattr(model, _ATTACHED)


class _Guard:
    """Torch-level hooks that watch over an `attach` block; `reset_hooks` does not remove them."""

    def __init__(self, model: HookedTransformer, n_prefix: int, extra_rows: int) -> None:
        self.model, self.n_prefix, self.extra_rows = model, n_prefix, extra_rows
        self.n_content: int | None = None  # known from the embedding to the first block
        self.layers_written: set[int] = set()
        self.handles: list[Any] = []

    def written(self, layer: int) -> None:
        self.layers_written.add(layer)

    def arm(self) -> None:
        self.handles.append(self.model.embed.register_forward_pre_hook(self._check_input))
        for layer, block in enumerate(self.model.blocks):
            self.handles += [
                block.register_forward_pre_hook(self._check_arguments, with_kwargs=True),
                block.register_forward_hook(self._check_effect(layer)),
            ]

    def disarm(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _check_input(self, module: object, args: tuple[Tensor, ...]) -> None:
        check_tokens(self.model, args[0], self.n_prefix)
        self.n_content = args[0].shape[1]
        self.layers_written.clear()  # left over if the last call ended in an error

    def _check_arguments(
        self, module: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> None:
        for name in ("attention_mask", "past_kv_cache_entry"):
            if kwargs.get(name) is not None:
                raise PrefixInterpError(
                    f"{name} is given but does not cover the {self.n_prefix} prefix slots; call "
                    "the model under attach without it (for a cache, use prefix_cache)"
                )
        n_content, self.n_content = self.n_content, None
        if n_content is not None and args[0].shape[1] != n_content + self.extra_rows:
            raise PrefixInterpError(_NOT_EMBEDDED)

    def _check_effect(self, layer: int) -> Callable[..., None]:
        def check(module: object, args: object, output: object) -> None:
            if layer not in self.layers_written:
                raise PrefixInterpError(
                    f"prefix had no effect in layer {layer}: its hooks were removed inside the "
                    "attach block (model.reset_hooks?); leave the block before removing hooks"
                )
            self.layers_written.discard(layer)

        return check


def prefix_cache(
    model: HookedTransformer, prefix: Prefix, batch_size: int
) -> TransformerLensKeyValueCache:
    """Return a frozen TransformerLens key-value cache that holds `prefix`.

    Call ``model(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens))``; without
    the mask TransformerLens takes token ids equal to its padding token for padding.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        batch_size: sequences in the batch to come.

    Raises:
        PrefixInterpError: the prefix does not fit, or `batch_size` is below 1.
    """
    check_positive("batch_size", batch_size)
    slots = prefix.keys_values(model)
    if content_start(model, prefix.n_prefix) != prefix.n_prefix:
        raise PrefixInterpError(
            f"prefix.n_prefix={prefix.n_prefix} cannot go into a cache: TransformerLens puts the "
            f"content at that position, this toy has it at {reserved_slots(model)}; use attach"
        )
    if model.cfg.ungroup_grouped_query_attention and model.cfg.n_key_value_heads is not None:
        raise PrefixInterpError(
            "model.cfg.ungroup_grouped_query_attention=True is not supported by the cache of "
            "TransformerLens, which holds grouped heads; use attach, or set it to False"
        )
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.W_E.device, batch_size)
    for layer, (keys, values) in enumerate(slots):
        attn = model.blocks[layer].attn
        k = keys.expand(batch_size, *keys.shape)
        v = values.expand(batch_size, *values.shape)
        if attn.k_norm is not None:  # the cache holds keys after this norm, before rotation
            with without_hooks(attn.k_norm):
                k = attn._apply_qk_norm(k, attn.k_norm)
        if model.cfg.clip_qkv is not None:
            k, v = (x.clamp(-model.cfg.clip_qkv, model.cfg.clip_qkv) for x in (k, v))
        cache.entries[layer].past_keys = k
        cache.entries[layer].past_values = v
    cache.previous_attention_mask = torch.ones(
        batch_size, prefix.n_prefix, dtype=torch.int, device=model.W_E.device
    )
    cache.freeze()
    return cache
