"""One process at a time in a folder of unfinished work."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from prefix_interp.errors import PrefixInterpError

_PATIENCE_S, _POLL_S = 2.0, 0.02  # for the owner's process id, which is written after the lock


@contextmanager
def locked(folder: str | Path, argument: str = "work") -> Iterator[None]:
    """Keep other processes out of `folder` during the block; the lock ends with this process.

    Args:
        folder: made if missing.
        argument: what the message calls it.

    Raises:
        PrefixInterpError: another process is in it, which the message names, or the folder cannot
            be made or locked.
    """
    folder = Path(folder)
    lock, owner = FileLock(folder / ".lock"), folder / ".owner"
    deadline = time.monotonic() + _PATIENCE_S
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not _acquired(lock):
            pid = _living(owner)
            if pid is None and time.monotonic() < deadline:  # it is just coming in, or leaving
                time.sleep(_POLL_S)
                continue
            raise PrefixInterpError(
                f"{argument}={str(folder)!r} is in use by "
                f"{'another process' if pid is None else f'process {pid}'}; wait until it has "
                f"ended, or choose another --{argument}"
            )
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PrefixInterpError(
            f"{argument}={str(folder)!r} cannot be locked: {reason}; choose another folder"
        ) from None
    try:
        with suppress(OSError):  # a full disk: the lock holds all the same
            owner.write_text(str(os.getpid()))
        yield
    finally:
        with suppress(OSError):
            if _living(owner) == os.getpid():  # not in a fork of the owner
                owner.unlink(missing_ok=True)
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _living(owner: Path) -> int | None:
    """Return the process named in the file; None if it is not written, or left by a dead one."""
    try:
        pid = int(owner.read_text())
    except (OSError, ValueError):
        return None
    try:
        if os.name == "posix":  # elsewhere the signal 0 is Ctrl-C
            os.kill(pid, 0)
    except PermissionError:
        return pid  # of another user
    except (OSError, OverflowError):
        return None
    return pid
