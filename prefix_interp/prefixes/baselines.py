"""A prefixed run beside a named run without the prefix, aligned on the content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.finite import checked_run
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.prefixes.layout import (
    Hook,
    check_tokens,
    layout_hooks,
    offset_hooks,
)
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks.text import as_tokens

Baseline = Literal["masked", "placeholder", "unshifted"]
PLACEHOLDER_TOKEN = 0


@dataclass(frozen=True, eq=False)
class RunPair:
    """One batch with and without a prefix.

    Caches are TransformerLens's (``pair.on["z", 0]`` or ``pair.on[Site.Z.at(0)]``) with the
    position axis restricted to the content, so that entries of `on`, `off` and `held` belong to the
    same token; `pos` is the length of the tokens. Key axes (`hook_attn_scores`, `hook_pattern`)
    keep the slots of the run, if any, in front: the last `pos` keys are always the content.

    Attributes:
        model: the model that ran.
        prefix: the prefix of `on`.
        tokens: the content.
        baseline: what `off` means by "no prefix".
        on: activations with the prefix.
        off: activations without it.
        held: activations without it, but with every layer's input held at its value in `on`: what
            the pretrained layer computes from that input. In layer 0 this equals a masked `off`.
        logits_on: logits with the prefix.
        logits_off: logits without it.

    Example:
        >>> pair = pi.run_pair(model, prefix, tokens)
        >>> tuple(pair.on[pi.Site.Z.at(0)].shape)  # batch, pos, head, d_head
        (4, 19, 4, 64)
    """

    model: Model
    prefix: Prefix
    tokens: Int[Tensor, "batch pos"]
    baseline: Baseline | str
    on: ActivationCache
    off: ActivationCache
    held: ActivationCache
    logits_on: Float[Tensor, "batch pos d_vocab"]
    logits_off: Float[Tensor, "batch pos d_vocab"]

    def __repr__(self) -> str:
        n, length = self.tokens.shape
        return f"RunPair({self.prefix!r}; {n} sequences of {length} tokens; {self.baseline})"


def run_pair(
    model: Model,
    prefix: ContextLike,
    tokens: Int[Tensor, "batch pos"] | Sequence[str],
    baseline: Baseline | str = "masked",
) -> RunPair:
    """Return the activations of `tokens` with and without `prefix`.

    "No prefix" has three very different meanings:

    - ``"masked"``: the slots are masked, the content keeps its positions. Eq. 6 and 7 are exact
      only against this baseline.
    - ``"placeholder"``: the slots hold token 0 and are attended to (the authors' code).
    - ``"unshifted"``: no slots, the content starts at position 0.

    Args:
        model: a supported model.
        prefix: a prefix that fits it, a fit of one, or the folder it was saved to.
        tokens: content only: a tensor, or texts for the model's tokenizer (padded on the right).
        baseline: which "no prefix" `off` means.

    Raises:
        PrefixInterpError: prefix and model do not fit, tokens outside vocabulary or context, an
            unknown baseline, scores or logits that are not finite.

    Example:
        >>> pair = pi.run_pair(model, prefix, tokens)
        >>> torch.equal(pair.logits_on, pair.logits_off)
        False
    """
    check_choice("baseline", baseline, get_args(Baseline))  # before the first run
    prefix, host = as_prefix(prefix), host_of(model)
    n, keep = prefix.n_slots, prefix.keeps_positions
    tokens = tokens if isinstance(tokens, Tensor) else as_tokens(model, tokens).to(host.device)
    check_tokens(model, tokens, n, keep=keep)
    with torch.no_grad():
        with attach(model, prefix):
            logits_on, cache = host.run_with_cache(tokens)
        on = _content(model, cache, tokens.shape[1])
        off_tokens, off_hooks = baseline_run(model, n, tokens, baseline, keep=keep)
        with checked_run(model), host.hooked(off_hooks):
            logits_off, cache = host.run_with_cache(off_tokens)
        off = _content(model, cache, tokens.shape[1])
        n_rows = n if _masks_rows(model) else 0
        held_hooks = [*masked_hooks(model, n, keep=keep), *_hold_inputs(model, on, n_rows)]
        with checked_run(model), host.hooked(held_hooks):
            _, cache = host.run_with_cache(tokens)
        held = _content(model, cache, tokens.shape[1])
    if n_rows:
        _check_masked(held, host.n_layers, n)
    logits_off = logits_off[:, -tokens.shape[1] :]
    return RunPair(model, prefix, tokens, baseline, on, off, held, logits_on, logits_off)


def baseline_run(
    model: Model,
    n_slots: int,
    tokens: Int[Tensor, "batch pos"],
    baseline: Baseline | str,
    *,
    keep: bool = False,
) -> tuple[Int[Tensor, "batch all_pos"], list[Hook]]:
    """Return the tokens and hooks of a run without prefix; its last ``pos`` rows are the content.

    Args:
        model: a supported model.
        n_slots: number of slots the prefix would take.
        tokens: content only.
        baseline: which "no prefix" is meant.
        keep: whether the content keeps its positions (see `Prefix`).

    Raises:
        PrefixInterpError: an unknown baseline, or placeholders where positions are to be kept.
    """
    check_choice("baseline", baseline, get_args(Baseline))
    if baseline == "masked":
        return tokens, masked_hooks(model, n_slots, keep=keep)
    if baseline == "placeholder":
        if keep:
            raise PrefixInterpError(
                "baseline='placeholder' does not go with positions='keep': real tokens in front "
                "move the content; choose 'masked' or 'unshifted'"
            )
        n_pads = host_of(model).content_start(n_slots)
        pads = tokens.new_full((len(tokens), n_pads), PLACEHOLDER_TOKEN)
        return torch.cat([pads, tokens], dim=1), []
    return tokens, []


def baseline_pattern(
    model: Model, tokens: Int[Tensor, "batch pos"], layer: int = 0
) -> Float[Tensor, "batch head query key"]:
    """Return each head's attention over the content without a prefix (masked baseline).

    Args:
        model: a supported model; a toy keeps the slots it was built with.
        tokens: content.
        layer: 0-based.
    """
    slots = host_of(model).n_reserved or 0
    fed, hooks = baseline_run(model, slots, tokens, "masked")
    site, length = Site.PATTERN.at(layer), tokens.shape[1]
    host = host_of(model)
    with torch.no_grad(), checked_run(model), host.hooked(hooks):
        _, cache = host.run_with_cache(fed, [site])
    return cache[site][..., -length:, -length:]


def fast_baseline(
    model: Model,
    n_slots: int,
    tokens: Int[Tensor, "batch pos"],
    baseline: Baseline | str,
) -> tuple[Int[Tensor, "batch all_pos"], list[Hook]]:
    """Return the tokens and hooks of `baseline_run`, but without rows for masked slots."""
    if baseline == "masked":
        return tokens, offset_hooks(model, n_slots)
    return baseline_run(model, n_slots, tokens, baseline)


def masked_hooks(model: Model, n_slots: int, *, keep: bool = False) -> list[Hook]:
    """Return hooks that reserve `n_slots` slots that no content attends to.

    With `keep` the content keeps its positions (see `Prefix`). A model whose scores no hook writes
    gets no rows for the slots.
    """
    if not _masks_rows(model):
        return offset_hooks(model, n_slots, keep=keep)

    def mask(scores: Float[Tensor, "batch head query key"], hook: object) -> Tensor:
        scores = scores.clone()
        # The slots' own rows stay: a row with nothing to attend to would be NaN.
        scores[:, :, n_slots:, :n_slots] = -torch.inf
        return scores

    layers = range(host_of(model).n_layers)
    return [
        *layout_hooks(model, n_slots, keep=keep),
        *((Site.ATTN_SCORES.at(i), mask) for i in layers),
    ]


def _masks_rows(model: Model) -> bool:
    return host_of(model).is_live(Site.ATTN_SCORES)


def _hold_inputs(model: Model, on: ActivationCache, n_slots: int) -> list[Hook]:
    def hold(layer: int) -> Hook:
        def write(resid: Tensor, hook: object) -> Tensor:
            return torch.cat([resid[:, :n_slots], on[Site.RESID_PRE.at(layer)]], dim=1)

        return Site.RESID_PRE.at(layer), write

    return [hold(layer) for layer in range(host_of(model).n_layers)]


def _content(model: Model, cache: Mapping[str, Tensor], n_content: int) -> ActivationCache:
    """Return the cache with its position axes cut to the content, the last `n_content` rows."""
    square = {s.value.rsplit(".", 1)[-1] for s in (Site.ATTN_SCORES, Site.PATTERN)}
    cut = {}
    for name, x in cache.items():
        axis = 2 if name.rsplit(".", 1)[-1] in square else 1
        if ".q_norm." in name or ".k_norm." in name:  # batch, position and head on one axis
            n_batch, n_rows = cache[Site.RESID_PRE.at(0)].shape[:2]
            rows = rearrange(
                x, "(batch pos head) ... -> batch pos head ...", batch=n_batch, pos=n_rows
            )
            rows = rows[:, -n_content:]
            cut[name] = rearrange(rows, "batch pos head ... -> (batch pos head) ...")
            continue
        start = max(x.shape[axis] - n_content, 0)
        cut[name] = x.narrow(axis, start, x.shape[axis] - start)
    return ActivationCache(cut, model)


def _check_masked(cache: ActivationCache, n_layers: int, n_slots: int) -> None:
    for layer in range(n_layers):
        if bool(cache[Site.PATTERN.at(layer)][..., :n_slots].any()):
            raise PrefixInterpError(
                f"baseline='masked' had no effect in layer {layer}: this version of "
                "TransformerLens ignores writes to hook_attn_scores; use transformer-lens 3.9"
            )
