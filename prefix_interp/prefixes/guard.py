"""Checks that turn a prefix without effect into an error instead of a wrong answer."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.finite import FiniteCheck
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.plain_run import check_traced, eager, in_backward, in_checkpoint
from prefix_interp.models.sites import Site, layer_of
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.layout import NOT_EMBEDDED, Hook, check_tokens

_ATTACHED = "_prefix_interp_attached"
_ENTERING = threading.Lock()
_COPY = (
    "model is a copy made inside an attach block, and holds its hooks for ever; copy it with "
    "clone(model) outside"
)
_NO_EFFECT = (
    "prefix had no effect in layer {}: {} inside the attach block; leave the block before removing "
    "hooks or replacing layers"
)


def check_free(model: Model) -> None:
    """Raise if `model` has a prefix attached.

    Raises:
        PrefixInterpError: inside an attach block of the same model, or a copy made inside one.
    """
    guard = getattr(model, _ATTACHED, None)
    if guard is None:
        return
    if guard.model is not model:
        raise PrefixInterpError(_COPY)
    guard.check_thread()
    raise PrefixInterpError(
        "prefix cannot be attached or left out: the model has one already; leave that attach "
        "block first"
    )


def check_bare(model: Model) -> None:
    """Raise if `model` has hooks: a resumed run would apply them twice.

    Raises:
        PrefixInterpError: the user has added forward or backward hooks.
    """
    points = host_of(model).points
    standing = [name for name, p in points.items() if p.fwd_hooks or p.bwd_hooks]
    if standing:
        raise PrefixInterpError(
            f"model has a hook at {standing[0]!r}, which attribution would apply twice; take it "
            "off first (model.reset_hooks())"
        )


class _Forward:
    """A model's forward inside a block; `run_with_hooks` calls it without the torch-level hooks."""

    def __init__(self, guard: Guard | None, forward: Callable[..., Any]) -> None:
        self.guard = guard
        update_wrapper(self, forward)
        self.__code__ = getattr(forward, "__code__", None)  # torch.export looks for it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.guard is None:
            raise PrefixInterpError(_COPY)
        self.guard.start_call(args, kwargs)
        output = self.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]
        self.guard.end_call()
        return output

    def __deepcopy__(self, memo: object) -> _Forward:
        return _Forward(None, self.__wrapped__)  # type: ignore[attr-defined]


@contextmanager
def _watched_forward(guard: Guard) -> Iterator[None]:
    own = vars(guard.model)
    before = own.get("forward")  # a user may have compiled it
    own["forward"] = ours = _Forward(guard, guard.model.forward)
    try:
        yield
    finally:
        if own.get("forward") is ours:
            del own["forward"]
            if before is not None:
                own["forward"] = before


class Guard:
    """Torch-level hooks that watch over an `attach` block; `reset_hooks` does not remove them.

    In every run each hook of the block must have run, on its own model and in its own thread: those
    outside the layers before the first layer, those of a layer at its end.
    """

    def __init__(
        self,
        model: Model,
        context: Context,
        extra_rows: int,
        *,
        unread: int = 0,
        may_be_empty: bool = False,
        needs_tokens: bool = False,
        content_scores: bool = True,
    ) -> None:
        self.model, self.context, self.extra_rows = model, context, extra_rows
        self.host = host_of(model)
        self.points = self.host.points
        self.may_be_empty, self.needs_tokens = may_be_empty, needs_tokens
        self.like = next(iter(context.tensors.values()))
        self.owner, self.live = threading.get_ident(), True
        self.finite = FiniteCheck(model, unread, scores=content_scores)
        self.n_content: int | None = None  # known from the embedding to the first layer
        self.hooks: dict[int | None, set[int]] = defaultdict(set)  # of each layer, by number
        self.ran: dict[int | None, set[int]] = defaultdict(set)  # and which of them have run
        self.todo: list[int] = []  # layers that the running call of the model has yet to end
        self.repeated: set[int] = set()  # layers that a checkpoint will run again
        self.handles: list[Any] = []

    def __deepcopy__(self, memo: object) -> Guard:
        """Return itself: a copy of the model is known by its guard, which is another model's."""
        return self

    def __reduce__(self) -> NoReturn:
        raise PrefixInterpError(
            "model cannot be pickled inside an attach block: the copy would hold its hooks for "
            "ever; do it outside"
        )

    @contextmanager
    def watching(self, hooks: Sequence[Hook]) -> Iterator[None]:
        """Put `hooks` on the model and watch over them; leave nothing behind."""
        with _ENTERING:
            check_free(self.model)
            setattr(self.model, _ATTACHED, self)
        try:
            with eager(), _watched_forward(self):
                self._arm()
                watched = [self._watched(i, str(name), f) for i, (name, f) in enumerate(hooks)]
                with self.host.hooked(watched):
                    self._watch_ends()
                    yield
                    self._check_left()
        finally:
            self.live = False
            for handle in self.handles:
                handle.remove()
            delattr(self.model, _ATTACHED)

    def check_thread(self) -> None:
        """Raise in every thread but the one that entered the block.

        Raises:
            PrefixInterpError: another thread.
        """
        if threading.get_ident() != self.owner and not in_backward():
            raise PrefixInterpError(
                "model has a prefix attached by another thread, and an attach block belongs to one "
                "thread; give each thread its own clone(model), or wait until the block is left"
            )

    def _check_own(self, is_own: bool) -> None:
        """Raise unless this is a run of the block's own model in its own thread."""
        if not is_own:
            raise PrefixInterpError(_COPY)
        if threading.get_ident() != self.owner:
            self.check_thread()

    # What stands on the model

    def _arm(self) -> None:
        host, points = self.host, self.points
        self.handles += self.finite.arm()
        self.handles += [
            self.model.register_forward_pre_hook(self._check_model),
            host.embedding.register_forward_pre_hook(self._check_input),
        ]
        for layer, block in enumerate(host.blocks):
            point = points[Site.RESID_PRE.at(layer)]
            self.handles += [
                block.register_forward_pre_hook(self._check_arguments(block), with_kwargs=True),
                point.register_forward_hook(self._start_layer(layer, point)),
            ]

    def _watch_ends(self) -> None:
        """Watch the end of the embedding and of each layer, after the block's hooks there."""
        if self.host.learned_positions:
            point = self.points[Site.POS_EMBED.at()]
            self.handles.append(point.register_forward_hook(self._check_outer))
        for layer in range(self.host.n_layers):
            point = self.points[Site.RESID_POST.at(layer)]
            self.handles.append(point.register_forward_hook(self._end_layer(layer, point)))

    def _watched(self, number: int, name: str, function: Callable[..., Any]) -> Hook:
        layer, point = layer_of(name), self.points[name]
        ran = self.ran[layer]
        self.hooks[layer].add(number)

        def run(x: Tensor, hook: object) -> Any:
            self._check_own(hook is point)
            if not ran:
                check_traced(x)
            ran.add(number)
            return function(x, hook)

        return name, run

    def _check_left(self) -> None:
        """Raise unless the block's last calls were right and nothing was taken off the model."""
        self.finite.ask()
        replaced = getattr(vars(self.model).get("forward"), "guard", None) is not self
        if replaced or any(
            handle.id not in (handle.hooks_dict_ref() or ()) for handle in self.handles
        ):
            raise PrefixInterpError(
                "model lost its torch-level hooks or its forward inside the attach block, so what "
                "it computed since may lack the prefix; leave the block before replacing them"
            )

    # What is checked in a run

    def _check_model(self, module: object, args: object) -> None:
        self._check_own(module is self.model)

    def start_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a call of the model with these arguments."""
        self._check_own(self.live)
        self.finite.clear()  # left over if the last call ended in an error
        if given := self.host.uncovered(kwargs):
            raise PrefixInterpError(
                f"{given} is given but does not cover the {self.context.n_slots} slots; call the "
                "model under attach with tokens alone (to generate, use generate)"
            )
        start, self.todo = self.host.layers_of_call(args, kwargs)
        if start != 0:  # model.generate embeds by itself, and then starts at layer 0
            self.n_content = None
        if self.needs_tokens and start is not None:
            raise PrefixInterpError(
                f"start_at_layer={start} leaves out the embedding, where this prompt is put in; "
                "its hooks would have no effect: call the model with tokens"
            )

    def end_call(self) -> None:
        """End a call of the model: raise unless every layer had the context and was finite."""
        self._check_embedded(None)
        if self.todo:
            raise PrefixInterpError(
                _NO_EFFECT.format(self.todo[0], "it was replaced, or did not run as Python")
            )
        self.finite.ask()

    def _check_input(self, module: object, args: tuple[Tensor, ...]) -> None:
        self._check_own(module is self.host.embedding)
        check_traced(args[0])
        self._check_precision()
        check_tokens(
            self.model, args[0], self.context.n_slots,
            keep=self.context.keeps_positions, may_be_empty=self.may_be_empty,
        )  # fmt: skip
        self.n_content = args[0].shape[1]
        self.ran[None].clear()

    def _check_arguments(self, block: nn.Module) -> Callable[..., None]:
        def check(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._check_own(module is block)
            for name in self.host.masks_of_layers:
                if kwargs.get(name) is not None:
                    raise PrefixInterpError(
                        f"{name} is given but does not cover the {self.context.n_slots} prefix "
                        "slots; call the model under attach without it (for a cache, use "
                        "prefix_cache)"
                    )

        return check

    def _start_layer(self, layer: int, point: nn.Module) -> Callable[..., Tensor | None]:
        ran = self.ran[layer]

        def start(module: object, args: object, x: Tensor) -> Tensor | None:
            self._check_own(module is point)
            self._check_precision()
            self._check_embedded(x.shape[1])
            ran.clear()
            if not in_checkpoint() or not torch.is_grad_enabled():
                self.repeated.discard(layer)
                return None
            self.repeated.add(layer)
            # One more tensor is saved, so torch notices if the run is repeated without the guard.
            return x * x.new_ones((), requires_grad=True)

        return start

    def _end_layer(self, layer: int, point: nn.Module) -> Callable[..., None]:
        ran, hooks = self.ran[layer], self.hooks[layer]

        def end(module: object, args: object, x: Tensor) -> None:
            self._check_own(module is point)
            if ran != hooks:
                raise PrefixInterpError(
                    _NO_EFFECT.format(layer, "its hooks were removed (model.reset_hooks?)")
                )
            ran.clear()
            if layer in self.todo:
                self.todo.remove(layer)
            if layer in self.repeated and x.requires_grad:
                x.register_hook(self._check_live)

        return end

    def _check_embedded(self, n_rows: int | None) -> None:
        """Raise if the embedding ran and its hooks did not."""
        n_content, self.n_content = self.n_content, None
        if n_content is None:
            return
        self._check_outer()
        if n_rows is not None and n_rows != n_content + self.extra_rows:
            raise PrefixInterpError(NOT_EMBEDDED)

    def _check_outer(self, *_: object) -> None:
        if self.ran[None] != self.hooks[None]:
            raise PrefixInterpError(NOT_EMBEDDED)

    def _check_precision(self) -> None:
        host, own = self.host, self.like
        if host.dtype != own.dtype or host.device.type != own.device.type:
            raise PrefixInterpError(
                f"model is {host.dtype} on {host.device} now but the context {own.dtype} on "
                f"{own.device}; leave the attach block and attach {self.context.STEM}.to(model)"
            )

    def _check_live(self, grad: Tensor) -> None:
        if not self.live:
            raise PrefixInterpError(
                "backward of a checkpoint came after its attach block, and would repeat the run "
                "without the prefix; call it inside the block, or leave the checkpoint out"
            )
