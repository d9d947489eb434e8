"""What is true of one Hugging Face model under a TransformerBridge, found by running it once.

Some sites take no write without a word, and some attentions do more to their keys than a hook
shows. So before anything is trusted to hooks, three tokens run through the model: every site is
written to, and slots put in by hooks are compared with Hugging Face's own cache of keys and values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.model import hub_model
from prefix_interp.models.port import Host
from prefix_interp.models.sites import Site, rotation_sites

_PROBE = 3  # tokens
# Hugging Face adds the stream of before to what its MLP writes, whatever the hook of the stream in
# between gives: a write there reaches the MLP alone.
_READ_ONLY = (Site.RESID_MID,)


@dataclass(frozen=True)
class Facts:
    """What was found.

    Attributes:
        live: sites at which a write changes what the layer, or the model, gives.
        rotates: for each layer whether it rotates queries and keys.
        shows_rotated: whether hooks show them rotated.
        d_mlp: hidden width of the MLPs, as their hook shows it.
        passed_over: stands for the forward of a layer that does not run.
    """

    live: frozenset[Site]
    rotates: tuple[bool, ...]
    shows_rotated: bool
    d_mlp: int
    passed_over: Callable[..., Any]

    def rotation(
        self, host: Host, layer: int, start: int, n_rows: int
    ) -> tuple[Float[Tensor, "1 pos rotated"], Float[Tensor, "1 pos rotated"]]:
        """Return cosine and sine of a layer's rotation of rows from position `start` on."""
        module = _bridge(host).rotary_emb.original_component
        rows = torch.arange(start, start + n_rows, device=host.device)[None]
        kinds = getattr(hub_model(_bridge(host)).config, "layer_types", None)
        by_layer = "layer_type" in signature(module.forward).parameters
        more = (kinds[layer],) if by_layer and kinds else ()
        with torch.no_grad():
            return module(host.W_E[:1], rows, *more)


_KNOWN: WeakKeyDictionary[nn.Module, Facts] = WeakKeyDictionary()


def _bridge(host: Host) -> TransformerBridge:
    return cast(TransformerBridge, host.model)


def facts_of(host: Host) -> Facts:
    """Return what is true of a model; it runs only the first time."""
    if _bridge(host) not in _KNOWN:
        _KNOWN[_bridge(host)] = _found(host)
    return _KNOWN[_bridge(host)]


def _tokens(host: Host) -> Tensor:
    return torch.arange(_PROBE, device=host.device)[None] % host.d_vocab


def window_of(config: Any) -> int | None:
    """Return how many keys a query sees in layers with a sliding window; None if there are none."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    used = getattr(config, "use_sliding_window", True)
    if not window or not used or (kinds and "sliding_attention" not in kinds):
        return None
    return int(window)


def _found(host: Host) -> Facts:
    seen: dict[str, tuple[int, ...]] = {}

    def see(name: str) -> tuple[str, Callable[..., None]]:
        return name, lambda x, hook: seen.update({name: tuple(x.shape)})

    names = [s.at(0) if s.per_layer else s.at() for s in Site]
    cosines = [rotation_sites(layer)[0] for layer in range(host.n_layers)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with host.hooked(
            [see(name) for name in [*names, *cosines] if name in host.points], exact=False
        ):
            plain = _bridge(host)(_tokens(host))
            outputs = hub_model(_bridge(host))(_tokens(host)).logits
        if not torch.allclose(plain, outputs):
            raise PrefixInterpError("model gives other logits than the one it wraps; load it again")
        live = {
            site
            for site, name in zip(Site, names, strict=True)
            if name in seen and site not in _READ_ONLY and _takes_a_write(host, name)
        }
    rotates = tuple(name in seen for name in cosines)
    width = seen.get(Site.MLP_ACT.at(0), (0,))[-1]
    return Facts(frozenset(live), rotates, Site.ROT_K.at(0) in seen, width, _passes(host))


def _takes_a_write(host: Host, name: str) -> bool:
    """Return whether a write there changes what the first layer gives."""

    def write(x: Tensor, hook: object) -> Tensor:
        noise = torch.linspace(0.5, 1.5, x.numel(), device=x.device, dtype=x.dtype)
        return x * noise.view(x.shape).clone()

    def run(hooks: list[Any]) -> Tensor:
        with host.hooked(hooks, exact=False):
            return _bridge(host)(_tokens(host), stop_at_layer=min(1, host.n_layers - 1) or None)

    return not torch.equal(run([(name, write)]), run([]))


def _passes(host: Host) -> Callable[..., Any]:
    """Return a forward that hands on the stream in the form in which a layer gives it."""
    kinds: list[bool] = []
    handle = host.blocks[0].register_forward_hook(
        lambda module, args, output: kinds.append(isinstance(output, tuple))
    )
    with torch.no_grad():
        _bridge(host)(_tokens(host))
    handle.remove()

    def hand_on(hidden_states: Tensor, *args: object, **kwargs: object) -> Any:
        return (hidden_states,) if kinds[0] else hidden_states

    return hand_on


def cached_logits(
    host: Host, keys_values: list[tuple[Tensor, Tensor]], tokens: Tensor
) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits of Hugging Face's own run behind cached keys and values: PEFT's way.

    Args:
        host: the model's interface.
        keys_values: of each layer's slots, ``slot kv_head d_head``, keys as they are multiplied.
        tokens: the content.
    """
    model, n_slots = hub_model(_bridge(host)), len(keys_values[0][0])
    cache = filled_cache(keys_values, len(tokens))
    rows = torch.arange(n_slots, n_slots + tokens.shape[1], device=tokens.device)
    mask = tokens.new_ones(len(tokens), n_slots + tokens.shape[1])
    given = {cache_argument(model): cache, "position_ids": rows[None].expand(len(tokens), -1)}
    return model(tokens, attention_mask=mask, use_cache=True, **given).logits


def filled_cache(keys_values: list[tuple[Tensor, Tensor]], batch: int) -> DynamicCache:
    """Return a new cache of Hugging Face that holds slots, once for each sequence."""
    cache = DynamicCache()
    for layer, pair in enumerate(keys_values):
        k, v = (x.transpose(0, 1)[None].expand(batch, -1, -1, -1).contiguous() for x in pair)
        cache.update(k, v, layer)
    return cache


def cache_argument(model: nn.Module) -> str:
    """Return what the model's forward calls its cache: transformers 5.24 renamed it."""
    names = signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in names else "cache"
