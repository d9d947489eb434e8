"""The library's interface to a model, and the only place that knows which kind of model it is.

It answers questions about sizes, the positions of slots and content, and a layer's queries, keys,
values, scores and outputs, and starts runs at a layer. Nothing outside `models/` reads a model's
configuration or private parts. Today the model is a HookedTransformer of TransformerLens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.attention import Attention
from prefix_interp.models.model import Model as Model
from prefix_interp.models.support import check_kind
from prefix_interp.models.toy import Toy

KeysValues = list[tuple[Tensor, Tensor]]
Slots = Callable[[int], tuple[Tensor, Tensor]]  # a layer's keys and values, when they are needed


def host_of(model: Model) -> Host:
    """Return the interface to `model`; it has no state of its own and is free to create.

    Raises:
        PrefixInterpError: a kind of model that the library does not know.
    """
    check_kind(model)
    return Host(model)


@dataclass(frozen=True, eq=False)
class Host:
    """The library's interface to a model.

    Attributes:
        model: the model.
    """

    model: Model

    # Sizes and kinds

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""
        return self.model.cfg.n_layers

    @property
    def n_heads(self) -> int:
        """Return the number of heads of a layer."""
        return self.model.cfg.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Return the number of key-value heads (equal to `n_heads` without grouped queries)."""
        return self.model.cfg.n_key_value_heads or self.n_heads

    @property
    def d_model(self) -> int:
        """Return the width of the residual stream."""
        return self.model.cfg.d_model

    @property
    def d_head(self) -> int:
        """Return the width of a head."""
        return self.model.cfg.d_head

    @property
    def d_mlp(self) -> int:
        """Return the hidden width of the MLPs; 0 if there are none."""
        return 0 if self.attn_only else self.model.cfg.d_mlp or 0

    @property
    def d_vocab(self) -> int:
        """Return the number of tokens."""
        return self.model.cfg.d_vocab

    @property
    def n_ctx(self) -> int:
        """Return the number of positions, including those of slots."""
        return self.model.cfg.n_ctx

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the weights."""
        return self.model.W_E.dtype

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return self.model.W_E.device

    @property
    def causal(self) -> bool:
        """Return whether no position attends to later ones."""
        return self.model.cfg.attention_dir == "causal"

    @property
    def attn_only(self) -> bool:
        """Return whether there are no MLPs."""
        return self.model.cfg.attn_only

    @property
    def parallel(self) -> bool:
        """Return whether attention and MLP of a layer read the same residual stream."""
        return self.model.cfg.parallel_attn_mlp

    @property
    def has_resid_mid(self) -> bool:
        """Return whether there is a residual stream between attention and MLP."""
        return not (self.attn_only or self.parallel)

    @property
    def ungroups_heads(self) -> bool:
        """Return whether grouped keys and values are expanded to all heads before `hook_k`."""
        cfg = self.model.cfg
        return bool(cfg.ungroup_grouped_query_attention and cfg.n_key_value_heads is not None)

    @property
    def pads_left(self) -> bool:
        """Return whether the model's tokenizer, if any, pads on the left."""
        return getattr(self.model.tokenizer, "padding_side", None) == "left"

    @property
    def settings(self) -> dict[str, str]:
        """Return a text that describes the model apart from its weights and device."""
        return {name: str(x) for name, x in vars(self.model.cfg).items() if name != "device"}

    def cast(self, x: Tensor) -> Tensor:
        """Return `x` in the model's precision and on its device."""
        return x.to(self.device, self.dtype)

    # Positions

    @property
    def n_reserved(self) -> int | None:
        """Return the number of positions that a toy keeps for slots; None if it is not a toy."""
        return self.model.toy_config.n_prefix if isinstance(self.model, Toy) else None

    @property
    def learned_positions(self) -> bool:
        """Return whether each position has an embedding (otherwise keys and queries rotate)."""
        return self.model.cfg.positional_embedding_type == "standard"

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:
        """Return the learned position embeddings."""
        return self.model.W_pos

    def content_start(self, n_slots: int, *, keep: bool = False) -> int:
        """Return the position of the first content token behind a prefix of `n_slots` slots.

        It is `n_slots`, except in a toy, whose content keeps its trained positions, or with `keep`:
        there slots carry no position, so the model takes a prefix of any length.
        """
        if self.n_reserved is not None:
            return self.n_reserved
        return 0 if keep else n_slots

    def room(self, n_slots: int, *, keep: bool = False) -> int:
        """Return how many content tokens fit into the context after `n_slots` slots."""
        return self.n_ctx - self.content_start(n_slots, keep=keep)

    def check_room(self, n_slots: int, n_content: int, *, keep: bool = False) -> None:
        """Raise unless `n_content` tokens fit into the context after `n_slots` slots.

        Raises:
            PrefixInterpError: more content than fits.
        """
        room = self.room(n_slots, keep=keep)
        if n_content > room:
            raise PrefixInterpError(
                f"tokens have {n_content} positions, more than the context of {self.n_ctx} holds "
                f"behind the slots; give at most {room}"
            )

    def slot_positions(self, n_slots: int) -> Float[Tensor, "slot d_model"]:
        """Return position embeddings of slots in front; past the reserved, the last repeats."""
        last = min(max(self.content_start(n_slots), 1), self.n_ctx) - 1
        return self.W_pos[torch.arange(n_slots).clamp(max=last)]

    def content_positions(
        self, n_slots: int, n_content: int, *, keep: bool = False
    ) -> Float[Tensor, "pos d_model"]:
        """Return the position embeddings of content behind `n_slots` slots.

        Raises:
            PrefixInterpError: more content than the context holds there.
        """
        self.check_room(n_slots, n_content, keep=keep)
        start = self.content_start(n_slots, keep=keep)
        return self.W_pos[start : start + n_content]

    def position_rows(
        self, n_slots: int, n_content: int, before: int = 0, *, keep: bool = False
    ) -> Float[Tensor, "all_pos d_model"]:
        """Return the position embeddings of slots and content, in the order of the sequence.

        In a toy the content keeps its trained positions, slots in front have the reserved ones,
        later slots none. Otherwise they are consecutive over both, or the content keeps its own.

        Args:
            n_slots: number of rows that are not content.
            n_content: content tokens.
            before: number of content tokens in front of the slots.
            keep: whether the content keeps its positions.

        Raises:
            PrefixInterpError: more content than the context holds.
        """
        content = self.content_positions(n_slots, n_content, keep=keep)
        start = self.content_start(n_slots, keep=keep)
        consecutive = (self.n_reserved is None and not keep) or (n_slots == start and before == 0)
        if consecutive:
            return self.W_pos[: n_slots + n_content]
        own = self.slot_positions(n_slots)
        own = torch.zeros_like(own) if before else own
        return torch.cat([content[:before], own, content[before:]])

    # The residual stream, and what a layer computes from it

    @property
    def embedding(self) -> nn.Module:
        """Return the module that every call with tokens goes through first."""
        return self.model.embed

    @property
    def blocks(self) -> nn.ModuleList:
        """Return the modules of the layers, in order."""
        return self.model.blocks

    @property
    def unembedding(self) -> nn.Module:
        """Return the module that every call for logits ends with."""
        return self.model.unembed

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Return the embedding of each token, before any norm inside the embedding."""
        return self.model.W_E

    def embed(self, tokens: Int[Tensor, "*any"]) -> Float[Tensor, "*any d_model"]:
        """Return the rows of tokens at `hook_embed`; some models normalise them."""
        return self.model.embed(tokens.to(self.device))

    def attention(self, layer: int) -> Attention:
        """Return the attention of a layer (0-based)."""
        return Attention(self.model, layer)

    def keys_values(self, tensors: Mapping[str, Tensor]) -> KeysValues:
        """Return each layer's slot keys and values, as at `hook_k` and `hook_v`.

        Residual vectors pass through the layer's norm and its key and value projections, biases
        included; free keys and values are taken as they are. Gradients flow to `tensors`, which
        may have axes in front of the layer axis (a stack of prefixes).

        Args:
            tensors: ``vectors``, or ``keys`` and ``values``.
        """
        return [self.layer_keys_values(tensors, layer) for layer in range(self.n_layers)]

    def layer_keys_values(self, tensors: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
        """Return the slot keys and values of one layer (see `keys_values`)."""
        if "keys" in tensors:
            return tensors["keys"][..., layer, :, :, :], tensors["values"][..., layer, :, :, :]
        return self.attention(layer).keys_values(tensors["vectors"][..., layer, :, :])

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Return the unembedding."""
        return self.model.W_U

    @property
    def norms_embedding(self) -> bool:
        """Return whether a norm follows the embedding; `run_from` layer 0 skips it."""
        return bool(self.model.cfg.post_embedding_ln)

    @property
    def norms_attention_out(self) -> bool:
        """Return whether a norm follows attention; then what one head writes is not defined."""
        return bool(getattr(self.model.cfg, "use_normalization_before_and_after", False))

    @property
    def final_norm(self) -> nn.Module | None:
        """Return the norm before the unembedding, if there is one."""
        return getattr(self.model, "ln_final", None)

    # Runs

    def run_from(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        *,
        cache: TransformerLensKeyValueCache | None = None,
        skip_attention: bool = False,
    ) -> Float[Tensor, "batch rows d_vocab"]:
        """Return the logits of a run that begins at a layer, with the model's present hooks.

        Args:
            layer: 0-based; earlier ones do not run.
            resid: the residual stream before that layer.
            cache: keys and values of earlier positions; those of `resid` are added to it.
            skip_attention: hooks write the heads' outputs of this layer. Nothing reads what its
                attention computes, so it runs on a single row.
        """
        if not skip_attention:
            return self.model(resid, start_at_layer=layer, past_kv_cache=cache)
        norm = self.attention(layer).norm
        handle = norm.register_forward_pre_hook(lambda _, args: (args[0][:1, :1], *args[1:]))
        try:
            return self.model(resid, start_at_layer=layer, past_kv_cache=cache)
        finally:
            handle.remove()

    def layers_of_call(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[int | None, list[int]]:
        """Return where a call of the model with these arguments starts, and the layers it runs.

        It starts at a layer, or at the embedding (None).
        """
        if len(args) > 1:
            found = signature(self.model.forward).bind_partial(*args, **kwargs).arguments
        else:
            found = kwargs
        start, layers = found.get("start_at_layer"), list(range(self.n_layers))
        return start, layers[start : found.get("stop_at_layer")]

    def empty_cache(self, batch_size: int) -> TransformerLensKeyValueCache:
        """Return an empty key-value cache of TransformerLens.

        Args:
            batch_size: number of sequences in the batch to come.
        """
        cfg = self.model.cfg
        if cfg.ungroup_grouped_query_attention:  # then keys have one head per query head
            cfg = copy(cfg)
            cfg.n_key_value_heads = None
        return TransformerLensKeyValueCache.init_cache(cfg, self.device, batch_size)
