"""One process at a time in a folder of unfinished work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from prefix_interp.errors import PrefixInterpError


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        pid = owner.read_text() if owner.exists() else ""  # not there at the very beginning
        who = f"process {pid}" if pid.isdigit() else "another process"
        raise PrefixInterpError(
            f"{argument}={str(folder)!r} is in use by {who}; wait until it has ended, or choose "
            f"another --{argument}"
        ) from None
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
            owner.unlink(missing_ok=True)
        lock.release()
