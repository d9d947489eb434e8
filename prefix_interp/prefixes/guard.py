"""Checks that turn a prefix without effect into an error instead of a wrong answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.layout import NOT_EMBEDDED, Hook, check_tokens

_ATTACHED = "_prefix_interp_attached"


def check_free(model: Model) -> None:
    """Raise if `model` has a prefix attached.

    Raises:
        PrefixInterpError: inside an attach block of the same model.
    """
    if getattr(model, _ATTACHED, False):
        raise PrefixInterpError(
            "prefix cannot be attached or left out: the model has one already; leave that attach "
            "block first"
        )


def check_bare(model: Model) -> None:
    """Raise if `model` has hooks: a resumed run would apply them twice.

    Raises:
        PrefixInterpError: the user has added forward or backward hooks.
    """
    standing = [name for name, p in model.hook_dict.items() if p.fwd_hooks or p.bwd_hooks]
    if standing:
        raise PrefixInterpError(
            f"model has a hook at {standing[0]!r}, which attribution would apply twice; take it "
            "off first (model.reset_hooks())"
        )


class Guard:
    """Torch-level hooks that watch over an `attach` block; `reset_hooks` does not remove them."""

    def __init__(
        self,
        model: Model,
        n_slots: int,
        extra_rows: int,
        *,
        may_be_empty: bool = False,
    ) -> None:
        self.model, self.n_slots, self.extra_rows = model, n_slots, extra_rows
        self.may_be_empty = may_be_empty
        self.n_content: int | None = None  # known from the embedding to the first block
        self.layers_written: set[int] = set()
        self.handles: list[Any] = []

    def written(self, layer: int) -> None:
        """Record that the prefix was written in `layer`."""
        self.layers_written.add(layer)

    @contextmanager
    def watching(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Put `hooks` on the model and watch over them; leave nothing behind."""
        try:
            setattr(self.model, _ATTACHED, True)
            self._arm()
            with self.model.hooks(fwd_hooks=list(hooks)):
                yield
        finally:
            for handle in self.handles:
                handle.remove()
            delattr(self.model, _ATTACHED)

    def _arm(self) -> None:
        host = host_of(self.model)
        self.handles.append(host.embedding.register_forward_pre_hook(self._check_input))
        for layer, block in enumerate(host.blocks):
            self.handles += [
                block.register_forward_pre_hook(self._check_arguments, with_kwargs=True),
                block.register_forward_hook(self._check_effect(layer)),
            ]

    def _check_input(self, module: object, args: tuple[Tensor, ...]) -> None:
        check_tokens(self.model, args[0], self.n_slots, may_be_empty=self.may_be_empty)
        self.n_content = args[0].shape[1]
        self.layers_written.clear()  # left over if the last call ended in an error

    def _check_arguments(
        self, module: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> None:
        for name in ("attention_mask", "past_kv_cache_entry"):
            if kwargs.get(name) is not None:
                raise PrefixInterpError(
                    f"{name} is given but does not cover the {self.n_slots} prefix slots; call "
                    "the model under attach without it (for a cache, use prefix_cache)"
                )
        n_content, self.n_content = self.n_content, None
        if n_content is not None and args[0].shape[1] != n_content + self.extra_rows:
            raise PrefixInterpError(NOT_EMBEDDED)

    def _check_effect(self, layer: int) -> Callable[..., None]:
        def check(module: object, args: object, output: object) -> None:
            if layer not in self.layers_written:
                raise PrefixInterpError(
                    f"prefix had no effect in layer {layer}: its hooks were removed inside the "
                    "attach block (model.reset_hooks?); leave the block before removing hooks"
                )
            self.layers_written.discard(layer)

        return check
