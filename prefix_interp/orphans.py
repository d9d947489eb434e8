"""A worker process ends with the process that started it, also if that one is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

# This module loads nothing else: a worker must follow before it spends seconds loading torch.

Out = TypeVar("Out")
_POLL_S = 0.5
_followed: set[int] = set()  # processes whose end will end this one


class Parent:
    """The process that makes it. A worker of that process that is sent it follows it from then on.

    It works while it is unpickled, so in what is sent to a worker it stands before anything that
    takes long to load. A thread, a later process or one of another machine does not follow.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __reduce__(self) -> tuple[type[Parent], tuple[()], int]:
        return Parent, (), self.pid

    def __setstate__(self, pid: int) -> None:
        self.pid = pid
        started_by = multiprocessing.parent_process()
        if started_by is None or started_by.pid != pid or pid in _followed:
            return
        _followed.add(pid)
        threading.Thread(target=_end_with, args=(pid,), daemon=True).start()


def call(parent: Parent, function: Callable[..., Out], item: object, arguments: Any) -> Out:
    """Return ``function(item, **arguments)``, in a worker that follows `parent`.

    Args:
        parent: stands first, since what a worker is sent is unpickled in order.
        function: importable.
        item: its first argument.
        arguments: the others, by name.
    """
    return function(item, **arguments)


def _end_with(parent: int) -> None:
    """End this process when `parent` has ended, which may have been before this began."""
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)
