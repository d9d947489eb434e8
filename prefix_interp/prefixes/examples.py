"""Contexts made of tokens: solved sequences in front of the one to solve, a text as a prefix."""

from __future__ import annotations

from typing import get_args

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.finite import checked_run
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.sites import Site
from prefix_interp.models.support import check_supported
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import check_tokens, check_vocabulary
from prefix_interp.prefixes.prefix import Parameterization, Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.tasks.text import as_tokens


def examples_prompt(model: Model, examples: Int[Tensor, "example pos"]) -> SoftPrompt:
    """Return solved sequences as a prompt: inputs and all answers, one example after the other.

    In a toy, which has no other positions, each example stands at the positions that the content
    was trained at; the last answer, never fed in training, stands at the last of them. In other
    models positions are consecutive.

    Args:
        model: source of embeddings and positions.
        examples: inputs followed by all of their answers, one row each.

    Raises:
        PrefixInterpError: no examples, tokens outside the vocabulary, or more positions than the
            context holds.
    """
    host = host_of(model)
    room = host.room(0) + 1  # the last answer is never fed
    if examples.ndim != 2 or examples.shape[1] > room:
        raise PrefixInterpError(
            f"examples have shape {tuple(examples.shape)}; give two axes, example and pos, of at "
            f"most {room} positions"
        )
    check_vocabulary(model, examples)
    with torch.no_grad():
        rows = host.embed(examples)  # example pos d_model
        if host.n_reserved is not None:
            length = examples.shape[1]
            position = (host.n_reserved + torch.arange(length)).clamp(max=host.n_ctx - 1)
            # The layout will add positions to slots in front: subtract them here.
            added = host.slot_positions(examples.numel())
            added = rearrange(added, "(example pos) d_model -> example pos d_model", pos=length)
            rows = rows + host.W_pos[position] - added
    return SoftPrompt(rearrange(rows, "example pos d_model -> 1 (example pos) d_model"))


def prefix_from_text(
    model: Model,
    text: str | Int[Tensor, " slot"],
    parameterization: Parameterization | str = "kv",
    *,
    n_slots: int | None = None,
) -> Prefix:
    """Return what the model itself computes from a text, as a prefix.

    Attached, it does what the same tokens in front of the content do, up to rounding: a prompt
    that costs no passes, or a start for tuning.

    Args:
        model: a language model, or another model that is no toy.
        text: for the model's tokenizer, or tokens.
        parameterization: ``"kv"``, or ``"residual"`` for the inputs of the layers.
        n_slots: keeps only as many tokens from the front; None keeps all.

    Raises:
        PrefixInterpError: a toy, which reserves its slots and has no place for tokens there; a
            model without a tokenizer; an empty text, or fewer tokens than `n_slots`.

    Example:
        >>> lm = pi.load_pretrained(tiny_llama())
        >>> prefix = prefix_from_text(lm, torch.tensor([4, 7, 1]))
        >>> with pi.attach(lm, prefix):
        ...     behind = lm(tokens)
        >>> whole = lm(torch.cat([torch.tensor([4, 7, 1]).expand(4, -1), tokens], dim=1))
        >>> torch.allclose(behind, whole[:, 3:], atol=1e-4)
        True
    """
    check_choice("parameterization", parameterization, get_args(Parameterization))
    check_supported(model)
    check_free(model)
    host = host_of(model)
    if host.n_reserved is not None:
        raise PrefixInterpError(
            "model is a toy, whose first positions are reserved for slots; use examples_prompt"
        )
    tokens = as_tokens(model, text) if isinstance(text, str) else text.reshape(1, -1)
    if n_slots is not None:
        if not 1 <= n_slots <= tokens.shape[1]:
            raise PrefixInterpError(
                f"n_slots={n_slots!r} is not possible for a text of {tokens.shape[1]} tokens; give "
                f"1 to {tokens.shape[1]}"
            )
        tokens = tokens[:, :n_slots]
    check_tokens(model, tokens, 0)
    layers = [host.attention(i) for i in range(host.n_layers)]
    key_sites = [attn.key_site.at(i) for i, attn in enumerate(layers)]
    residual = [Site.RESID_PRE.at(i) for i in range(host.n_layers)]
    values = [Site.V.at(i) for i in range(host.n_layers)]
    with torch.no_grad(), checked_run(model):
        _, cache = host.run_with_cache(tokens.to(host.device), [*key_sites, *residual, *values])
        own = model_id(model)
        if parameterization == "residual":
            vectors = torch.stack([cache[name][0] for name in residual])
            return Prefix("residual", vectors=vectors, model_id=own)
        seen = zip(layers, key_sites, strict=True)
        keys = torch.stack([attn.seen_keys(cache[name], 0)[0] for attn, name in seen])
        found = torch.stack([cache[name][0] for name in values])
        # A model that ungroups its heads holds each key several times.
        times = keys.shape[2] // host.n_kv_heads
        return Prefix(
            "kv", keys=keys[:, :, ::times], values=found[:, :, ::times], model_id=own,
            key_form=host.key_form,
        )  # fmt: skip
