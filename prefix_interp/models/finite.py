"""Whether a run stays finite: TransformerLens turns a softmax that does not exist into zeros."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.plain_run import eager
from prefix_interp.models.sites import Site


class _Noted(NamedTuple):
    what: str
    total: Tensor  # one number, finite if all are
    values: Tensor | None  # None: only says where it began


class FiniteCheck:
    """What a model's layers compute, noted without waiting for it; `ask` then waits once.

    A row of scores needs a finite maximum: with infinity, NaN, or nothing but -infinity there is
    no softmax. A single score of -infinity is a mass of 0. The first `unread` rows are left out.
    """

    def __init__(self, model: Model, unread: int = 0, *, scores: bool = True) -> None:
        self.model, self.unread, self.owner = model, unread, threading.get_ident()
        self.scores = scores  # False: who mixes in slots notes the maxima with them
        self._noted: list[_Noted] = []

    def arm(self) -> list[Any]:
        """Put torch-level hooks on the scores, the layers and the logits; return their handles."""
        host = host_of(self.model)
        points = host.points
        handles = [host.unembedding.register_forward_hook(self._watch(self.note, "logits"))]
        for layer in range(host.n_layers):
            scores = self._watch(self.note_scores, layer)
            output = self._watch(self._note_output, f"the output of layer {layer}")
            handles.append(points[Site.RESID_POST.at(layer)].register_forward_hook(output))
            if self.scores and host.attention(layer).shows_scores:
                handles.append(points[Site.ATTN_SCORES.at(layer)].register_forward_hook(scores))
        return handles

    def note_scores(self, layer: int, scores: Tensor) -> None:
        """Note the scores of a layer, keys last."""
        scores = _plain(scores.detach())[..., self.unread :, :]
        if scores.is_cpu and scores.numel() and scores.shape[-1] == scores.shape[-2] + self.unread:
            # Much cheaper than each row's largest score, and no mask hides a position from itself.
            own = scores.diagonal(self.unread, -2, -1)
            if math.isfinite(scores.max() + _total(own)):
                return
        self.note_maxima(layer, scores.amax(-1))

    def note_maxima(self, layer: int, maxima: Tensor) -> None:
        """Note the largest score of each row of a layer."""
        self.note(f"the attention scores of layer {layer}", maxima)

    def note(self, what: str, values: Tensor) -> None:
        """Note values that must be finite."""
        values = _plain(values.detach())
        self._noted.append(_Noted(what, _total(values), values))

    def clear(self) -> None:
        """Forget what was noted."""
        self._noted.clear()

    def ask(self) -> None:
        """Raise unless all that was noted is finite, and forget it.

        Raises:
            PrefixInterpError: it names the first place that is not.
        """
        noted, self._noted = self._noted, []
        exact = [each for each in noted if each.values is not None]
        if not exact or math.isfinite(torch.stack([each.total for each in exact]).sum()):
            return
        # The sum of finite numbers may overflow, and then each of them is looked at.
        if all(bool(each.values.isfinite().all()) for each in exact if each.values is not None):
            return
        first = next(
            each.what for each in noted
            if not bool((each.total if each.values is None else each.values).isfinite().all())
        )  # fmt: skip
        raise PrefixInterpError(
            f"model has NaN or infinity in {first}, in {host_of(self.model).dtype}; use smaller "
            "values in the context and the weights, or a wider type (to_dtype), and leave each row "
            "of scores something to attend to"
        )

    def _note_output(self, what: str, values: Tensor) -> None:
        # Its total alone: to hold every layer's output would cost memory.
        self._noted.append(_Noted(what, _total(_plain(values.detach())), None))

    def _watch(self, note: Callable[[Any, Tensor], None], what: object) -> Callable[..., None]:
        def watch(module: object, args: object, output: Tensor) -> None:
            if threading.get_ident() == self.owner:
                note(what, output)

        return watch


@contextmanager
def checked_run(model: Model) -> Iterator[None]:
    """Let `model` run with its hooks, even if it is compiled; at the end, see that it was finite.

    Raises:
        PrefixInterpError: attention scores without a softmax, or logits that are not finite.
    """
    check = FiniteCheck(model)
    handles = check.arm()
    try:
        with eager():
            yield
        check.ask()
    finally:
        for handle in handles:
            handle.remove()


def finite_hooks(model: Model, unread: int) -> list[tuple[str, Callable[..., None]]]:
    """Return forward hooks that raise at once on attention scores without a softmax."""

    def at(layer: int) -> Callable[..., None]:
        def ask(scores: Tensor, hook: object) -> None:
            check = FiniteCheck(model, unread)
            check.note_scores(layer, scores)
            check.ask()

        return ask

    host = host_of(model)
    shown = [i for i in range(host.n_layers) if host.attention(i).shows_scores]
    return [(Site.ATTN_SCORES.at(i), at(i)) for i in shown]


def _total(values: Tensor) -> Tensor:
    """Return the sum, in float32 at least: it is not finite if a value is not."""
    return values.sum(dtype=torch.promote_types(values.dtype, torch.float32))


def _plain(values: Tensor) -> Tensor:
    """Return the numbers below torch.func's wrappers, which cannot be asked under vmap."""
    while is_functorch_wrapped_tensor(values):
        values = get_unwrapped(values)
    return values
