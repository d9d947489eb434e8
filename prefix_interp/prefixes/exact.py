"""Whether hooks put a context into a language model exactly: asked of the model itself, once.

Hugging Face's architectures differ in what they do to keys, and in ways that no list keeps up with.
So a random prefix is put in by each of the library's ways and by Hugging Face's own cache, which is
what PEFT fills, and a model on which they differ is refused. The same holds for the embeddings of a
text as a soft prompt, and the text itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.bridge import BridgeHost
from prefix_interp.models.bridge_facts import cached_logits
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.models.unwrapped import PROBLEMS, first_line
from prefix_interp.prefixes.inject import mixture_hooks, slot_hooks
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Parameterization, prefix_shapes
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.seeds import derive_generator

_SLOTS, _TOKENS = 2, 3
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # of the largest value
_KNOWN: WeakKeyDictionary[nn.Module, dict[str, str | None]] = WeakKeyDictionary()
_READS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


SOFT = "soft prompt"


def check_exact(model: Model, kind: Parameterization | str) -> None:
    """Raise unless a context of this kind can be put into `model` exactly; it runs once per model.

    Args:
        model: a HookedTransformer, whose code is known and tested, or a language model.
        kind: ``"kv"`` or ``"residual"`` for a prefix, or `SOFT`.

    Raises:
        PrefixInterpError: the ways differ; it says which.
    """
    host = host_of(model)
    if not isinstance(host, BridgeHost):
        return
    known = _KNOWN.setdefault(host.bridge, {})
    if kind not in known:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                known[kind] = _soft_fault(host) if kind == SOFT else _fault(host, kind)
            except PrefixInterpError:
                raise
            except PROBLEMS as error:
                known[kind] = f"its code does not run with slots in front ({first_line(error)})"
    if known[kind] is not None:
        name = SOFT if kind == SOFT else f"{kind} prefix"
        raise PrefixInterpError(
            f"model={type(host.bridge.original_model).__name__} cannot take a {name}: "
            f"{known[kind]}; use another model"
        )


def reads_cache(host: BridgeHost) -> bool:
    """Return whether the model reads Hugging Face's cache; it runs once per model.

    Under TransformerLens 3.9 with transformers 5.24, which renamed the argument, it does not.
    """
    if host.bridge not in _READS:
        tokens = torch.arange(_TOKENS, device=host.device)[None] % host.d_vocab
        slots = host.keys_values(_random(host, "kv"))
        others = [(k.flip(0), v.flip(0) + 1) for k, v in slots]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            a, b = (cached_logits(host, each, tokens) for each in (slots, others))
        _READS[host.bridge] = not torch.equal(a, b)
    return _READS[host.bridge]


def _fault(host: BridgeHost, parameterization: Parameterization | str) -> str | None:
    """Return in what way hooks are not exact; None if they are."""
    tensors = _random(host, parameterization)
    tokens = torch.arange(_TOKENS, device=host.device)[None].expand(2, -1) % host.d_vocab
    slots = host.keys_values(tensors)
    if parameterization == "residual":
        for layer, (ours, theirs) in enumerate(zip(slots, _run(host, tensors), strict=True)):
            if not all(_close(a, b) for a, b in zip(ours, theirs, strict=True)):
                return f"layer {layer} makes other keys or values of its input than its weights"
    if reads_cache(host):
        want, place = cached_logits(host, slots, tokens), "Hugging Face's own cache"
    else:
        slots, want = _of_text(host, tokens)
        place = "the text itself"
    ways = {
        "slots": slot_hooks(host.model, _SLOTS, slots.__getitem__),
        "mixture": mixture_hooks(host.model, _SLOTS, slots.__getitem__),
    }
    for name, hooks in ways.items():
        with host.hooked(hooks):
            found = host.model(tokens)
        if not _close(found, want):
            return f"put in by hooks ({name}) it {_off(found, want)} {place}"
    return None


def _soft_fault(host: BridgeHost) -> str | None:
    """Return in what way rows among the tokens are not those of a text; None if they are."""
    tokens = torch.arange(_TOKENS, device=host.device)[None].expand(2, -1) % host.d_vocab
    front = (_front(host) + _TOKENS) % host.d_vocab
    want = host.model(torch.cat([front.expand(2, -1), tokens], dim=1))[:, _SLOTS:]
    with host.hooked(soft_hooks(host.model, host.embed(front))):
        found = host.model(tokens)
    if _close(found, want):
        return None
    return f"a text put in as rows {_off(found, want)} the text itself"


def _front(host: BridgeHost) -> Tensor:
    return torch.arange(_SLOTS, device=host.device)[None] + 1


def _off(found: Tensor, want: Tensor) -> str:
    off = float((found - want).abs().max() / want.abs().max())
    return f"gives logits {off:.1g} of the largest away from"


def _random(host: BridgeHost, parameterization: Parameterization | str) -> dict[str, Tensor]:
    rng = derive_generator(0, "exact", parameterization)
    shapes = prefix_shapes(host.model, _SLOTS, parameterization)
    return {name: host.cast(torch.randn(shape, generator=rng)) for name, shape in shapes.items()}


def _run(host: BridgeHost, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values that the model itself computes if the vectors are its rows."""
    found: dict[tuple[int, bool], Tensor] = {}

    def hold(layer: int) -> list[Hook]:
        attn = host.attention(layer)

        def write(resid: Tensor, hook: object) -> Tensor:
            return tensors["vectors"][None, layer].clone()

        def see_keys(k: Tensor, hook: object) -> None:
            found[layer, True] = attn.seen_keys(k, 0)[0]

        def see_values(v: Tensor, hook: object) -> None:
            found[layer, False] = v[0]

        return [
            (Site.RESID_PRE.at(layer), write),
            (attn.key_site.at(layer), see_keys),
            (Site.V.at(layer), see_values),
        ]

    with host.hooked([hook for layer in range(host.n_layers) for hook in hold(layer)]):
        host.model(torch.zeros(1, _SLOTS, dtype=torch.long, device=host.device))
    return [(found[i, True], found[i, False]) for i in range(host.n_layers)]


def _of_text(host: BridgeHost, tokens: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the keys and values of tokens in front of others, and the logits of the others."""
    found: dict[tuple[int, bool], Tensor] = {}

    def see(layer: int, is_key: bool) -> Hook:
        attn = host.attention(layer)

        def read(x: Tensor, hook: object) -> None:
            rows = attn.seen_keys(x, 0) if is_key else x
            found[layer, is_key] = rows[0, :_SLOTS].clone()

        return (attn.key_site if is_key else Site.V).at(layer), read

    layers = range(host.n_layers)
    front = _front(host).expand(len(tokens), -1)
    with host.hooked([see(layer, is_key) for layer in layers for is_key in (True, False)]):
        logits = host.model(torch.cat([front % host.d_vocab, tokens], dim=1))
    return [(found[i, True], found[i, False]) for i in layers], logits[:, _SLOTS:]


def _close(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree to rounding, which grows with depth: 30 layers, 5e-5."""
    tolerance = _TOLERANCE.get(a.dtype, 0.1)
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6))
