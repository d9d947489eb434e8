"""What goes around hooks: compiled code, tracing, and checkpoints that run again later."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils import checkpoint

from prefix_interp.errors import PrefixInterpError

_LOCK = threading.Lock()
_HELD = ExitStack()  # the compiler's setting, which is one for the whole process
_blocks = 0


@contextmanager
def eager() -> Iterator[None]:
    """Let compiled models run as they are written, with their hooks, until the last block ends.

    Compiled code holds no hooks that were added later, and does not notice that they are missing.

    Raises:
        PrefixInterpError: called by a function that is being compiled.
    """
    global _blocks
    with _LOCK:
        if _blocks == 0:
            try:
                _HELD.enter_context(torch.compiler.set_stance("force_eager"))
            except RuntimeError as error:
                raise PrefixInterpError(
                    "attach cannot be called by a compiled function, which would skip its hooks; "
                    "compile the model alone, or call attach outside"
                ) from error
        _blocks += 1
    try:
        yield
    finally:
        with _LOCK:
            _blocks -= 1
            if _blocks == 0:
                _HELD.close()


def check_uncompiled(model: nn.Module) -> None:
    """Raise if `model` or a layer of it is compiled: it would leave out hooks without a word.

    Raises:
        PrefixInterpError: `model.compile` was called.
    """
    if any(each._compiled_call_impl is not None for each in model.modules()):
        raise PrefixInterpError(
            "model is compiled (model.compile), and would leave out hooks without a word; use "
            "attach, or a model that is not compiled"
        )


def check_traced(x: object) -> None:
    """Raise if a run is recorded: what is recorded would hold the prefix for ever.

    Args:
        x: an activation of the run.

    Raises:
        PrefixInterpError: tracing, exporting or compiling.
    """
    if (
        not isinstance(x, torch.Tensor)
        or torch._C._get_tracing_state() is not None
        or torch.compiler.is_compiling()
        or get_proxy_mode() is not None
    ):
        raise PrefixInterpError(
            "model cannot be traced, exported or compiled inside an attach block: what is made "
            "would hold the prefix for ever; make it outside"
        )


def in_backward() -> bool:
    """Return whether a backward pass is running, which may use threads of its own."""
    return torch._C._current_graph_task_id() != -1


def in_checkpoint() -> bool:
    """Return whether this run is one of torch.utils.checkpoint, which repeats it in the backward.

    Raises:
        PrefixInterpError: a reentrant checkpoint, whose backward cannot be told from another run.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is vars(checkpoint):
            if frame.f_code is checkpoint.CheckpointFunction.forward.__code__:
                raise PrefixInterpError(
                    "use_reentrant=True is not supported inside an attach block: the backward "
                    "would repeat the run without the prefix; give use_reentrant=False to "
                    "torch.utils.checkpoint, or leave the checkpoint out"
                )
            return True
        frame = frame.f_back
    return False
