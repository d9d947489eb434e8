"""Putting a prefix into a model: three independent ways that agree to rounding.

- *slots*: n_s leading rows are added to the sequence and their keys and values overwritten. The
  pattern shows the prefix columns. This is the default of `attach`.
- *mixture*: eq. 7 itself at `hook_z`, z_pt = (1 - g) z + sum_p A_p v_p, with the masses
  computed from the queries. It adds no rows, so training with it is faster.
- *cache*: TransformerLens's own key-value cache, filled with the prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.finite import FiniteCheck, finite_hooks
from prefix_interp.models.host import Host, KeysValues, Model, Slots, host_of
from prefix_interp.models.plain_run import check_uncompiled
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.gates import check_gates, gate_scores, shared_softmax
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import Hook, layout_hooks, offset_hooks

Method = Literal["slots", "mixture"]
Gates = Float[Tensor, "layer head"] | Float[Tensor, "layer head slot"] | None
_READ_BY_MIXTURE = tuple(
    site.value.rsplit("}", 1)[-1]
    for site in (Site.RESID_PRE, Site.Q, Site.K, Site.V, Site.ROT_Q, Site.ROT_K)
)


def slot_hooks(
    model: Model,
    n_slots: int,
    slots: Slots,
    gates: Float[Tensor, "layer head slot"] | None = None,
    *,
    keep: bool = False,
) -> list[Hook]:
    """Return hooks for the *slots* injection of given keys and values.

    Args:
        model: a supported model.
        n_slots: number of slots.
        slots: returns a layer's keys and values, ``[batch] slot kv_head d_head``, in each run.
        gates: how much of each slot's mass each head keeps (see `attach`); None keeps all.
        keep: whether the content keeps its positions (see `Prefix`).
    """
    values: dict[int, Tensor] = {}  # from the hook of the keys to that of the values

    host = host_of(model)

    def overwrite(layer: int, which: int) -> Callable[..., Tensor]:
        attn = host.attention(layer)

        def write(x: Float[Tensor, "batch pos kv_head d_head"], hook: object) -> Tensor:
            if which == 0:
                rows, values[layer] = slots(layer)
                rows = attn.slot_keys(rows)
            else:
                rows = values.pop(layer) if layer in values else slots(layer)[1]
            rows = expand_heads(rows, x.shape[2])
            rows = rows.expand(len(x), *rows.shape[-3:])
            return torch.cat([rows, x[:, n_slots:]], dim=1)

        return write

    hooks = layout_hooks(model, n_slots, keep=keep)
    for layer in range(host.n_layers):
        hooks.append((host.attention(layer).key_site.at(layer), overwrite(layer, 0)))
        hooks.append((Site.V.at(layer), overwrite(layer, 1)))
        if gates is not None:
            host.check_live(Site.ATTN_SCORES)
            hooks.append((Site.ATTN_SCORES.at(layer), gate_scores(gates[layer])))
    return hooks


def mixture_hooks(
    model: Model,
    n_slots: int,
    slots: Slots,
    gates: Float[Tensor, "*stack layer head slot"] | None = None,
    maxima: Callable[[int, Tensor], None] = lambda *_: None,
    *,
    keep: bool = False,
    position: int | None = None,
) -> list[Hook]:
    """Return hooks for the *mixture* injection of given keys and values (eq. 7 at `hook_z`).

    These hooks read queries and scores at their place in the order: hooks that write them must be
    added before. A stack of prefixes (``stack slot kv_head d_head``) or of gates is applied to as
    many equal blocks of the batch axis, in order.

    Args:
        model: a supported model.
        n_slots: number of slots.
        slots: returns a layer's keys and values, ``[stack] slot kv_head d_head``, in each run.
        gates: how much of each slot's mass each head keeps (see `attach`); None keeps all.
        maxima: called with the layer and the largest score of each row of slots and content.
        keep: whether the content keeps its positions (see `Prefix`).
        position: of the first row that runs, where the keys say their own (``"scored"``); None if
            it stands behind the slots. Keys as at `hook_k` stand one behind the other.
    """
    host = host_of(model)
    start = n_slots if position is None or host.key_form == "projected" else position
    hooks = offset_hooks(model, start, keep=keep)
    for layer in range(host.n_layers):
        own = None if gates is None else gates[..., layer, :, :]
        hooks += _mixture_at(model, layer, start, slots, own, maxima)
    return hooks


def around_mixture(hooks: Sequence[Hook]) -> tuple[list[Hook], list[Hook]]:
    """Return the hooks to add before those of the mixture, and the hooks to add after.

    The mixture reads queries, keys and values, so patches of them come before it; patches of its
    output come after.
    """
    early, late = [], []
    for hook in hooks:
        (early if str(hook[0]).endswith(_READ_BY_MIXTURE) else late).append(hook)
    return early, late


def _mixture_at(
    model: Model,
    layer: int,
    start: int,
    slots: Slots,
    gates: Float[Tensor, "*stack head slot"] | None,
    maxima: Callable[[int, Tensor], None],
) -> list[Hook]:
    host = host_of(model)
    attn, seen = host.attention(layer), {}
    gates = None if gates is None else gates.reshape(-1, *gates.shape[-2:])

    def head_form(x: Tensor, n_stack: int) -> Float[Tensor, "stack slot head d_head"]:
        x = expand_heads(x if x.ndim == 4 else x[None], host.n_heads)
        return x.expand(n_stack, *x.shape[1:])

    def read_q(q: Tensor, hook: object) -> None:
        seen["q"] = attn.scored_queries(q, start)

    def read_k(k: Tensor, hook: object) -> None:  # where no hook shows the scores
        seen["k"] = attn.seen_keys(k, start)

    def read_scores(scores: Tensor, hook: object) -> None:
        seen["content"] = scores.logsumexp(dim=-1)  # batch head query

    def mix(z: Float[Tensor, "batch pos head d_head"], hook: object) -> Tensor:
        if "k" in seen and "q" in seen:
            seen["content"] = attn.content_scores(seen["q"], seen.pop("k")).logsumexp(dim=-1)
        if len(seen) < 2:
            raise PrefixInterpError(
                f"prefix had no effect in layer {layer}: its hooks were removed "
                "(model.reset_hooks?); add all of them, or none"
            )
        q = seen.pop("q")
        keys, values = slots(layer)
        n_stack = max(1 if keys.ndim == 3 else len(keys), 1 if gates is None else len(gates))
        k = attn.scored_keys(head_form(keys, n_stack))
        v = attn.weighed_values(head_form(values, n_stack))
        scores = attn.slot_scores(q.unflatten(0, (n_stack, -1)), k)
        content = seen.pop("content").to(scores.dtype).unflatten(0, (n_stack, -1))
        own = None if gates is None else gates[:, None, :, None, :].to(scores)
        mass, keep, top = shared_softmax(content, scores, own)
        maxima(layer, top)
        bias = torch.einsum("tbhqs,tshd->tbqhd", mass.to(v.dtype), v).flatten(0, 1)
        return keep.to(z.dtype).flatten(0, 1).transpose(1, 2)[..., None] * z + bias

    content = (Site.ATTN_SCORES, read_scores) if attn.shows_scores else (attn.key_site, read_k)
    return [
        (attn.query_site.at(layer), read_q),
        (content[0].at(layer), content[1]),
        (Site.Z.at(layer), mix),
    ]


def prefix_hooks(
    model: Model,
    prefix: ContextLike,
    method: Method | str = "slots",
    gates: Gates = None,
) -> list[Hook]:
    """Return TransformerLens forward hooks that put `prefix` into `model`.

    For ``model.run_with_hooks(tokens, fwd_hooks=[*prefix_hooks(model, prefix), *mine])``; pass
    content tokens only. `attach` does the same with more checks (tokens, masks, and whether the
    prefix took effect); see there for how to combine it with other hooks. These hooks hold the keys
    and values of the present weights, and `torch.compile(model)` would leave them out.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        method: ``"slots"`` (pattern shows the prefix columns) or ``"mixture"``.
        gates: see `attach`.

    Raises:
        PrefixInterpError: the prefix does not fit, one is attached already, bad gates, or a
            compiled model.

    Example:
        >>> hooks = pi.prefix_hooks(model, prefix)
        >>> tuple(model.run_with_hooks(tokens, fwd_hooks=hooks).shape)
        (4, 19, 11)
    """
    check_choice("method", method, get_args(Method))
    check_free(model)
    check_uncompiled(model)
    prefix = as_prefix(prefix)
    n_slots, slots = prefix.n_slots, prefix.keys_values(model).__getitem__
    gates = check_gates(model, n_slots, gates)
    if method == "slots":
        return [
            *slot_hooks(model, n_slots, slots, gates, keep=prefix.keeps_positions),
            *finite_hooks(model, n_slots),
        ]

    def ask(layer: int, maxima: Tensor) -> None:
        check = FiniteCheck(model)
        check.note_maxima(layer, maxima)
        check.ask()

    return mixture_hooks(model, n_slots, slots, gates, ask, keep=prefix.keeps_positions)


def prefix_cache(
    model: Model, prefix: ContextLike, batch_size: int
) -> TransformerLensKeyValueCache:
    """Return a frozen TransformerLens key-value cache that holds `prefix`.

    Call ``model(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens))``; without the
    mask TransformerLens treats tokens equal to its padding token as padding.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        batch_size: number of sequences in the batch to come.

    Raises:
        PrefixInterpError: the prefix does not fit, or `batch_size` is below 1.
    """
    check_positive("batch_size", batch_size)
    prefix = as_prefix(prefix)
    slots = prefix.keys_values(model)
    host = host_of(model)
    start = host.content_start(prefix.n_slots, keep=prefix.keeps_positions)
    if host.learned_positions and start != prefix.n_slots:
        raise PrefixInterpError(
            f"prefix.n_slots={prefix.n_slots} cannot go into a cache: TransformerLens puts the "
            f"content at that position, here it stands at {start}; use attach"
        )
    if host.ungroups_heads:
        raise PrefixInterpError(
            "model.cfg.ungroup_grouped_query_attention=True is not supported by the cache of "
            "TransformerLens, which holds grouped heads; use attach, or set it to False"
        )
    return fill_cache(host, slots, batch_size)


def fill_cache(host: Host, slots: KeysValues, batch_size: int) -> TransformerLensKeyValueCache:
    """Return a frozen cache that holds keys and values of each layer's slots, maybe of none.

    Args:
        host: the model's interface.
        slots: of each layer, as at `hook_k` and `hook_v`; empty for no slots.
        batch_size: number of sequences.
    """
    cache = host.empty_cache(batch_size)
    for layer, (keys, values) in enumerate(slots):
        attn = host.attention(layer)
        k = repeat(keys, "slot kv_head d_head -> batch slot kv_head d_head", batch=batch_size)
        v = repeat(values, "slot kv_head d_head -> batch slot kv_head d_head", batch=batch_size)
        cache.entries[layer].past_keys = attn.cached_keys(k)
        cache.entries[layer].past_values = attn.cached_values(v)
    n_slots = len(slots[0][0]) if slots else 0
    cache.previous_attention_mask = torch.ones(
        batch_size, n_slots, dtype=torch.int, device=host.device
    )
    cache.freeze()
    return cache
