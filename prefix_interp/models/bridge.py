"""What the library asks of a model, as a Hugging Face model under a TransformerBridge answers it.

The model's own forward runs, so whatever an architecture does between its layers is done. It counts
rows after the embedding, so slots that are put in front there get positions and a causal mask. A
run that starts at a layer is the same forward with the earlier layers passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from inspect import signature
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import ParallelBlockBridge

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.bridge_attention import BridgeAttention
from prefix_interp.models.bridge_facts import Facts, facts_of, window_of
from prefix_interp.models.model import NOT_OF_HUB, hub_model
from prefix_interp.models.port import Host, NamedHook
from prefix_interp.models.sites import UNEMBED_IN, Site, rotation_sites

_POINTS: WeakKeyDictionary[nn.Module, Mapping[str, HookPoint]] = WeakKeyDictionary()
# What a call of the model may not say while slots stand in front: none of it covers them.
_REFUSED = ("attention_mask", "past_key_values", "cache", "position_ids", "use_cache", "labels")


# What these compute is given the shape of their tokens before it is unembedded.
_SHAPED_AS_TOKENS = {"gpt2", "gpt_bigcode", "codegen"}


class BridgeHost(Host):
    """The interface to a Hugging Face model under a TransformerBridge."""

    places_rows = True
    key_form = "scored"

    @cached_property
    def bridge(self) -> TransformerBridge:
        """Return the model under its own type."""
        return cast(TransformerBridge, self.model)

    @property
    def facts(self) -> Facts:
        """Return what was found by running the model once: which sites take a write, and more."""
        return facts_of(self)

    # Sizes and kinds

    @property
    def adds_rows(self) -> bool:
        """Return whether more rows can come out than tokens go in."""
        config: Any = self.bridge.original_model.config
        return config.model_type not in _SHAPED_AS_TOKENS

    @property
    def causal(self) -> bool:
        """Return whether no position attends to later ones; other models are refused."""
        return True

    @property
    def d_mlp(self) -> int:
        """Return the hidden width of the MLPs."""
        return self.facts.d_mlp

    @property
    def attn_only(self) -> bool:
        """Return whether there are no MLPs."""
        return False

    @property
    def parallel(self) -> bool:
        """Return whether attention and MLP of a layer read the same residual stream."""
        return isinstance(self.blocks[0], ParallelBlockBridge)

    @property
    def has_resid_mid(self) -> bool:
        """Return whether there is a residual stream between attention and MLP."""
        return not self.parallel

    @property
    def ungroups_heads(self) -> bool:
        """Return whether grouped keys and values are expanded before `hook_k`: they never are."""
        return False

    @property
    def settings(self) -> dict[str, str]:
        """Return a text that describes the model apart from its weights, place and precision."""
        found = hub_model(self.bridge).config.to_dict()
        return {name: str(x) for name, x in sorted(found.items()) if name not in NOT_OF_HUB}

    # Positions

    @property
    def n_ctx(self) -> int:
        """Return the number of positions, or of the keys that a window lets a query see."""
        window = window_of(hub_model(self.bridge).config)
        return min(self.model.cfg.n_ctx, window or self.model.cfg.n_ctx)

    @property
    def n_reserved(self) -> int | None:
        """Return None: only a toy keeps positions for slots."""
        return None

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:
        """Return the learned position embeddings; some tables have rows in front of the first."""
        table = self.bridge.pos_embed.W_pos
        return table[getattr(self.bridge.pos_embed.original_component, "offset", 0) :]

    def content_start(self, n_slots: int, *, keep: bool = False) -> int:
        """Return the position of the first content token behind a prefix of `n_slots` slots."""
        return 0 if keep and self.learned_positions else n_slots

    def rotation(
        self, layer: int, start: int, n_rows: int
    ) -> tuple[Float[Tensor, "1 pos rotated"], Float[Tensor, "1 pos rotated"]]:
        """Return cosine and sine of a layer's rotation of rows from position `start` on."""
        return self.facts.rotation(self, layer, start, n_rows)

    def offset_hooks(self, n_slots: int, *, keep: bool = False) -> list[NamedHook]:
        """Return hooks that rotate content as if it stood behind `n_slots` slots."""
        if self.learned_positions or not n_slots:
            return []

        def at(layer: int, which: int) -> Callable[..., Tensor]:
            def turn(x: Float[Tensor, "one pos rotated"], hook: object) -> Tensor:
                return self.rotation(layer, n_slots, x.shape[-2])[which].expand_as(x)

            return turn

        return [
            (name, at(layer, which))
            for layer in range(self.n_layers)
            if self.facts.rotates[layer]
            for which, name in enumerate(rotation_sites(layer))
        ]

    # The residual stream, and what a layer computes from it

    @property
    def embedding(self) -> nn.Module:
        """Return the module that every call with tokens goes through first."""
        return self.bridge.embed

    @property
    def blocks(self) -> nn.ModuleList:
        """Return the modules of the layers, in order."""
        return self.bridge.blocks

    @property
    def unembedding(self) -> nn.Module:
        """Return the module that every call for logits ends with."""
        return self.bridge.unembed

    def embed(self, tokens: Int[Tensor, "*any"]) -> Float[Tensor, "*any d_model"]:
        """Return the rows of tokens at `hook_embed`."""
        return self.bridge.embed.original_component(tokens.to(self.device))

    def attention(self, layer: int) -> BridgeAttention:
        """Return the attention of a layer (0-based)."""
        return BridgeAttention(self.model, layer, self, self.facts)

    @property
    def norms_embedding(self) -> bool:
        """Return whether a norm follows the embedding that `run_from` layer 0 skips: never."""
        return False

    @property
    def norms_attention_out(self) -> bool:
        """Return whether a norm follows attention; then what one head writes is not defined."""
        return self.attention(0).norm_behind is not None

    @property
    def final_norm(self) -> nn.Module | None:
        """Return the norm before the unembedding, if there is one."""
        norm = getattr(self.bridge, "ln_final", None)
        return None if norm is None else norm.original_component

    @property
    def masks_of_layers(self) -> tuple[str, ...]:
        """Return no argument of a layer: its mask comes from the rows (see `check_call`)."""
        return ()

    @property
    def rows_site(self) -> str | None:
        """Return the last place whose rows may be cut to those that are read."""
        return UNEMBED_IN

    # Hooks

    def prepare(self) -> None:
        """Find out, before anything is put into the model, what is to be known by running it."""
        facts_of(self)

    def is_live(self, site: Site) -> bool:
        """Return whether a write to `site` has the effect that its name promises."""
        return site in self.facts.live

    @property
    def points(self) -> Mapping[str, HookPoint]:
        """Return the hook points by name; a bridge would collect them anew at each access."""
        if self.bridge not in _POINTS:
            _POINTS[self.bridge] = self.bridge.hook_dict
        return _POINTS[self.bridge]

    @contextmanager
    def hooked(self, hooks: Sequence[NamedHook], *, exact: bool = True) -> Iterator[None]:
        """Put forward hooks on the model for the time of a block, in order.

        Args:
            hooks: by name.
            exact: whether a float64 model also takes its softmax in float64.

        Raises:
            PrefixInterpError: a place that the model lacks.
        """
        level = self.bridge.context_level + 1
        touched = []
        self.bridge.context_level = level
        try:
            first, last = self._exact_softmax() if exact else ([], [])
            for name, function in [*first, *hooks, *last]:
                if str(name) not in self.points:
                    raise PrefixInterpError(
                        f"hook={name!r} does not exist in this model; see the names of Site"
                    )
                point = self.points[str(name)]
                point.add_hook(function, level=level)
                touched.append(point)
            yield
        finally:
            for point in touched:
                point.remove_hooks(dir="fwd", level=level)
            self.bridge.context_level -= 1

    def _exact_softmax(self) -> tuple[list[NamedHook], list[NamedHook]]:
        """Return hooks to add first and last that take each softmax of a float64 model in float64.

        Hugging Face rounds it to float32 in any model, which is 5e-8 off.
        """
        if self.dtype != torch.float64 or not self.is_live(Site.PATTERN):
            return [], []
        scores: dict[int, Tensor] = {}

        def at(layer: int) -> tuple[NamedHook, NamedHook]:
            def see(x: Tensor, hook: object) -> None:
                scores[layer] = x

            def redo(x: Tensor, hook: object) -> Tensor:
                exact = scores.pop(layer).softmax(-1)
                # Scores that were written after this block's hooks had seen them are left alone.
                return exact if bool((exact - x).abs().max() < 1e-6) else x

            return (Site.PATTERN.at(layer), redo), (Site.ATTN_SCORES.at(layer), see)

        pairs = [at(layer) for layer in range(self.n_layers)]
        return [first for first, _ in pairs], [last for _, last in pairs]

    # Runs

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"], names: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits and activations by hook name: those of `names`, or every `Site`'s."""
        cache: dict[str, Tensor] = {}

        def keep(name: str) -> NamedHook:
            return name, lambda x, hook: cache.update({name: x.detach()})

        if names is None:
            layers = range(self.n_layers)
            names = [s.at(i) for s in Site for i in (layers if s.per_layer else [None])]
        with self.hooked([keep(name) for name in names if name in self.points]):
            logits = self.model(tokens)
        return logits, cache

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
            layer: 0-based; earlier ones are passed over.
            resid: the residual stream before that layer.
            cache: of no use here.
            skip_attention: hooks write the heads' outputs of this layer; it runs all the same.

        Raises:
            PrefixInterpError: a cache of TransformerLens.
        """
        if cache is not None:
            raise PrefixInterpError(
                "cache is TransformerLens's, which a TransformerBridge does not read; use "
                "generate for a language model"
            )
        n_rows = resid.shape[1]
        skipped = self.facts.passed_over

        def put_in(
            module: object, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (resid, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": resid}

        ids = torch.zeros(len(resid), n_rows, dtype=torch.long, device=self.device)
        with ExitStack() as stack:
            for block in self.blocks[:layer]:
                vars(block)["forward"] = skipped
                stack.callback(vars(block).pop, "forward")
            handle = self.blocks[layer].register_forward_pre_hook(put_in, with_kwargs=True)
            stack.callback(handle.remove)
            return self.model(ids)

    def uncovered(self, kwargs: Mapping[str, Any]) -> str | None:
        """Return the argument of a call that would not cover slots: a mask, a cache, positions."""
        given = (n for n in _REFUSED if kwargs.get(n) is not None and kwargs[n] is not False)
        return next(given, None)

    def layers_of_call(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[int | None, list[int]]:
        """Return where a call of the model starts, always at the embedding, and its layers."""
        found = signature(type(self.bridge).forward).bind_partial(None, *args, **kwargs).arguments
        return None, list(range(self.n_layers))[: found.get("stop_at_layer")]

    def empty_cache(self, batch_size: int) -> TransformerLensKeyValueCache:
        """Raise: TransformerLens's cache is for its own models."""
        raise PrefixInterpError(
            "model is a TransformerBridge, which does not read TransformerLens's cache; use "
            "generate for a language model"
        )
