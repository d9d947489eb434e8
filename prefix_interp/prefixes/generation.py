"""Greedy text under a context, with cached keys and values.

What a cache decodes is what a plain run under `attach` would say, token by token; where that cannot
be promised (hooks of the user's, slots inside the content), every token is a whole run.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from prefix_interp.errors import PrefixInterpError, check_index, check_positive
from prefix_interp.models.bridge import BridgeHost
from prefix_interp.models.bridge_facts import cache_argument, filled_cache
from prefix_interp.models.host import Host, KeysValues, Model, host_of
from prefix_interp.models.support import check_supported
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.exact import SOFT, check_exact, reads_cache
from prefix_interp.prefixes.given import ContextLike, as_context
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.inject import fill_cache
from prefix_interp.prefixes.layout import check_tokens
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.tasks.text import Texts, padded_tokens

# From the tokens that were chosen last (None at the start) to the scores of the next.
_Next = Callable[[Int[Tensor, " batch"] | None], Float[Tensor, "batch d_vocab"]]


def generate(
    model: Model,
    context: ContextLike | None,
    tokens: Int[Tensor, "batch pos"] | Texts,
    max_new_tokens: int,
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    stop: int | None = None,
) -> Int[Tensor, "batch new"]:
    """Return how the model continues each row under a context: its likeliest token every time.

    Args:
        model: a language model or a toy.
        context: a prefix, a soft prompt, a fit or a folder of one; None for the bare model.
        tokens: prompts, padded on the right, or texts for the model's tokenizer. Tokens may be
            empty (``batch 0``) behind a soft prompt at the embedding.
        max_new_tokens: tokens to add, at least 1.
        lengths: how many tokens of each row are no padding; None for all. Texts bring their own.
        stop: token that ends a row; behind it stands nothing but itself.

    Raises:
        PrefixInterpError: the context does not fit, tokens outside the vocabulary, lengths that are
            not possible, more tokens than the model's context holds, or an attached prefix.

    Example:
        >>> generate(model, prefix, tokens[:, :10], 3).tolist()[0] == tokens[0, 10:13].tolist()
        True
    """
    check_supported(model)
    check_free(model)
    check_positive("max_new_tokens", max_new_tokens)
    host, found = host_of(model), None if context is None else as_context(context)
    n_slots, before = 0, 0
    if found is not None:
        found.check_fits(model)
        n_slots, before = found.n_slots, getattr(found, "position", 0)
        if isinstance(found, Prefix):
            check_exact(model, found.parameterization)
        elif getattr(found, "layers", None) == "embedding":
            check_exact(model, SOFT)
    if stop is not None:
        check_index("stop", stop, host.d_vocab)
    cached = can_cache(model) and _is_cached(host, found)
    # Some language models shape their output by their input, which a row in front does not fit.
    in_front = isinstance(found, SoftPrompt) and not before
    may_be_empty = in_front and (cached or not isinstance(host, BridgeHost))
    keep = found is not None and found.keeps_positions
    if not isinstance(tokens, Tensor):
        if lengths is not None:
            raise PrefixInterpError(
                "lengths are those of tokens; texts bring their own, so leave them out"
            )
        tokens, lengths = padded_tokens(model, tokens)
    check_tokens(model, tokens, n_slots, keep=keep, may_be_empty=may_be_empty)
    lengths = _lengths(tokens, lengths, 0 if may_be_empty else max(before, 1))
    tokens = tokens.to(host.device)
    # The last token is never fed.
    host.check_room(n_slots, tokens.shape[1] + max_new_tokens - 1, keep=keep)
    with torch.no_grad():
        if not cached:
            return _recomputed(model, found, tokens, lengths, max_new_tokens, stop)
        rows, slots = host.embed(tokens), []
        if isinstance(found, Prefix):
            slots = host.keys_values(found.tensors)
        elif isinstance(found, SoftPrompt):
            rows = torch.cat([found.vectors.expand(len(rows), -1, -1), rows], dim=1)
            lengths = lengths + n_slots
        start = host.content_start(n_slots, keep=keep) if slots else 0
        places = None
        if host.learned_positions and not host.places_rows:
            n_rows = tokens.shape[1] + max_new_tokens - 1
            if isinstance(found, Prefix):
                places = host.content_positions(n_slots, n_rows, keep=keep)
            else:
                places = host.position_rows(n_slots, n_rows) if n_slots else host.W_pos[:n_rows]
        return continue_rows(
            model, rows, max_new_tokens, lengths=lengths, slots=slots, start=start, places=places,
            stop=stop,
        )  # fmt: skip


def can_cache(model: Model) -> bool:
    """Return whether computed rows never change, and no hook watches them.

    A run with a cache skips the embedding, and its hooks see one token at a time.
    """
    host = host_of(model)
    hooks = [
        hook
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not str(getattr(hook, "__module__", "")).startswith("transformer_lens.model_bridge")
    ]
    return not hooks and host.causal and not host.norms_embedding


def continue_rows(
    model: Model,
    rows: Float[Tensor, "batch row d_model"],
    n_new: int,
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    slots: KeysValues | None = None,
    start: int = 0,
    places: Float[Tensor, "place d_model"] | None = None,
    stop: int | None = None,
) -> Int[Tensor, "batch new"]:
    """Return what the model emits after embedded rows, by greedy decoding with a cache.

    Nothing is checked; see `can_cache`.

    Args:
        model: a language model or a toy.
        rows: as at `hook_embed`, padded on the right.
        n_new: tokens to emit.
        lengths: how many rows of each sequence are no padding; None for all.
        slots: keys and values of each layer that stand in front of the rows.
        start: position of the first row, in a language model.
        places: position embeddings of the rows and of those to come, in other models that learn
            them.
        stop: token that ends a sequence.
    """
    host = host_of(model)
    if lengths is None:
        lengths = torch.full((len(rows),), rows.shape[1], device=rows.device)
    if isinstance(host, BridgeHost):
        following = _hub(host, rows, lengths, slots or [], start)
        return _greedy(following, n_new, stop)
    emitted = torch.zeros(len(rows), n_new, dtype=torch.long, device=rows.device)
    for length in lengths.unique().tolist():  # a cache of TransformerLens rotates by its own length
        own = lengths == length
        following = _toy(host, rows[own, :length], slots or [], places)
        emitted[own] = _greedy(following, n_new, stop)
    return emitted


def _greedy(following: _Next, n_new: int, stop: int | None) -> Int[Tensor, "batch new"]:
    emitted: list[Tensor] = []
    for _ in range(n_new):
        chosen = following(emitted[-1] if emitted else None).argmax(dim=-1)
        if stop is not None and emitted:
            chosen = torch.where(emitted[-1] == stop, stop, chosen)
        emitted.append(chosen)
        if stop is not None and bool((chosen == stop).all()):
            break
    found = torch.stack(emitted, dim=1)
    return torch.nn.functional.pad(found, (0, n_new - found.shape[1]), value=stop or 0)


def _toy(host: Host, rows: Tensor, slots: KeysValues, places: Tensor | None) -> _Next:
    """Return the step of a HookedTransformer; all rows are content."""
    cache: TransformerLensKeyValueCache = fill_cache(host, slots, len(rows))
    cache.unfreeze()
    done = 0

    def following(chosen: Tensor | None) -> Tensor:
        nonlocal done
        x = rows if chosen is None else host.embed(chosen[:, None])
        if places is not None:
            x = x + places[done : done + x.shape[1]]
        done += x.shape[1]
        return host.run_from(0, x, cache=cache)[:, -1]

    return following


def _hub(host: BridgeHost, rows: Tensor, lengths: Tensor, slots: KeysValues, start: int) -> _Next:
    """Return the step of a Hugging Face model: its own cache, in which padding is masked."""
    model, cache = host.bridge.original_model, filled_cache(slots, len(rows))
    fixed: dict[str, Any] = {cache_argument(model): cache, "use_cache": True}
    content = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
    n_slots = len(slots[0][0]) if slots else 0
    mask = torch.cat([content.new_ones(len(rows), n_slots), content], dim=1).long()
    place = start + torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
    # Logits of the last tokens are enough; those of a long prompt would take much memory.
    needed, which = (lengths - 1).unique(return_inverse=True)
    cuts = "logits_to_keep" in signature(model.forward).parameters

    def following(chosen: Tensor | None) -> Tensor:
        nonlocal mask, place
        if chosen is None:
            own = {"logits_to_keep": needed} if cuts else {}
            found = model(
                inputs_embeds=rows, attention_mask=mask, position_ids=place, **fixed, **own
            )
            read = which if cuts else lengths - 1
            place = start + lengths[:, None] - 1
            return found.logits[torch.arange(len(rows), device=rows.device), read]
        mask, place = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1), place + 1
        found = model(chosen[:, None], attention_mask=mask, position_ids=place, **fixed)
        return found.logits[:, -1]

    return following


def _recomputed(
    model: Model,
    context: Context | None,
    tokens: Int[Tensor, "batch pos"],
    lengths: Int[Tensor, " batch"],
    n_new: int,
    stop: int | None,
) -> Int[Tensor, "batch new"]:
    """Return the same tokens by whole runs, whose hooks see whole sequences."""
    every = torch.arange(len(tokens), device=tokens.device)
    in_front = bool((lengths == 0).any())
    ends = lengths.clone()

    def following(chosen: Tensor | None) -> Tensor:
        nonlocal tokens
        if chosen is not None:
            if bool((ends == tokens.shape[1]).any()):
                tokens = torch.cat([tokens, tokens.new_zeros(len(tokens), 1)], dim=1)
            tokens[every, ends] = chosen
            ends.add_(1)
        return model(tokens)[every, ends - (0 if in_front else 1)]

    tokens = tokens.clone()
    if context is None:
        return _greedy(following, n_new, stop)
    with attach(model, context, predict_first=in_front):
        return _greedy(following, n_new, stop)


def _is_cached(host: Host, context: Context | None) -> bool:
    """Return whether a cache, or rows in front, can hold the context, and the model reads it."""
    if isinstance(host, BridgeHost) and not reads_cache(host):
        return False
    if isinstance(context, SoftPrompt):
        return context.layers == "embedding" and not context.position
    return context is None or not host.ungroups_heads


def _lengths(tokens: Tensor, lengths: Tensor | None, least: int) -> Int[Tensor, " batch"]:
    n_rows, most = tokens.shape
    if lengths is None:
        lengths = torch.full((n_rows,), most)
    whole = lengths.dtype in (torch.int64, torch.int32) and tuple(lengths.shape) == (n_rows,)
    if not whole or int(lengths.min()) < least or int(lengths.max()) > most:
        raise PrefixInterpError(
            f"lengths={lengths.tolist()} must be one whole number for each of the {n_rows} rows, "
            f"from {least} to {most}"
        )
    return lengths.to(tokens.device).long()
