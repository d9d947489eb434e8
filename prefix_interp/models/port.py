"""What the library asks of a model, as a HookedTransformer answers it.

Questions about sizes, the positions of slots and content, and a layer's queries, keys, values,
scores and outputs, and runs that start at a layer. `bridge` says what differs
in a TransformerBridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.attention import Attention
from prefix_interp.models.positions import Positions
from prefix_interp.models.sites import Site

KeysValues = list[tuple[Tensor, Tensor]]
Slots = Callable[[int], tuple[Tensor, Tensor]]  # a layer's keys and values, when they are needed
NamedHook = tuple[str | Callable[..., Any], Callable[..., Any]]
# How keys of slots are stored: as at `hook_k`, or as they are multiplied with queries.
KeyForm = Literal["projected", "scored"]


@dataclass(frozen=True, eq=False)
class Host(Positions):
    """The library's interface to a model.

    Attributes:
        model: the model.
    """

    key_form: ClassVar[KeyForm] = "projected"

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

    @property
    def masks_of_layers(self) -> tuple[str, ...]:
        """Return the arguments of a layer that would not cover slots, if the caller gives them."""
        return "attention_mask", "past_kv_cache_entry"

    @property
    def rows_site(self) -> str | None:
        """Return the last place whose rows may be cut to those that are read, if there is one."""
        return Site.RESID_MID.at(self.n_layers - 1) if self.has_resid_mid else None

    # Hooks

    def prepare(self) -> None:
        """Find out, before anything is put into the model, what is to be known by running it."""

    @property
    def points(self) -> Mapping[str, Any]:
        """Return the hook points by name."""
        return self.model.hook_dict

    def is_live(self, site: Site) -> bool:
        """Return whether a write to `site` has the effect that its name promises."""
        return True

    def check_live(self, site: Site) -> None:
        """Raise if a write to `site` would have no effect, or another than its name promises.

        Raises:
            PrefixInterpError: it would.
        """
        if not self.is_live(site):
            raise PrefixInterpError(
                f"site={site.name!r} takes no write in this model, whose own code goes past it; "
                f"choose another, e.g. 'Z', or a HookedTransformer"
            )

    @contextmanager
    def hooked(self, hooks: Sequence[NamedHook], *, exact: bool = True) -> Iterator[None]:
        """Put forward hooks on the model for the time of a block, in order.

        Args:
            hooks: by name.
            exact: whether a float64 model also takes its softmax in float64.
        """
        with self.model.hooks(fwd_hooks=list(hooks)):
            yield

    def offset_hooks(self, n_slots: int, *, keep: bool = False) -> list[NamedHook]:
        """Return hooks that rotate content as if it stood behind slots: only distances count."""
        return []

    def uncovered(self, kwargs: Mapping[str, Any]) -> str | None:
        """Return the argument of a call that would not cover slots; here the layers are asked."""
        return None

    # Runs

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"], names: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and activations by hook name: those of `names`, or all."""
        only = None if names is None else list(names)
        found = self.model.run_with_cache(tokens, names_filter=only, return_cache_object=False)
        return cast("tuple[Tensor, dict[str, Tensor]]", found)

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
