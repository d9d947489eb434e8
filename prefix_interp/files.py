"""Bytes on disk: read once from a regular file, written whole or not at all."""

from __future__ import annotations

import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from prefix_interp.errors import PrefixInterpError

MAX_BYTES = 2**36  # a sparse file can claim any size
_DAY_S = 86_400
_HOST = re.sub(r"\W", "", platform.node())[:32] or "host"
# Of a file that is being written: whose it is can be read from its name.
_TEMPORARY = re.compile(r"\..*\.(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)
_swept: set[Path] = set()  # folders in which this process has looked for leftovers


def read_file(
    path: str | Path,
    max_bytes: int = MAX_BYTES,
    check: Callable[[BinaryIO, int], None] | None = None,
) -> bytes:
    """Return the bytes of a regular file; a pipe or device is refused before it is read.

    Args:
        path: the file.
        max_bytes: size that it may have.
        check: is given the open file and its size, and raises if it need not be read to the end.

    Raises:
        PrefixInterpError: the file is missing, larger than `max_bytes`, or cannot be read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise PrefixInterpError(
                    f"path={str(path)!r} is a pipe or a device; name a regular file"
                )
            if about.st_size > max_bytes:
                raise PrefixInterpError(
                    f"path={str(path)!r} has {about.st_size:,} bytes, more than the {max_bytes:,} "
                    "that such a file may have; name another file"
                )
            if check is not None:
                check(file, about.st_size)
                file.seek(0)
            data = file.read(about.st_size + 1)  # files of the kernel can be endless
            if len(data) != about.st_size:
                raise PrefixInterpError(
                    f"path={str(path)!r} does not have the size that it claims; name a file that "
                    "stays as it is"
                )
            return data
    except FileNotFoundError:
        raise PrefixInterpError(f"path={str(path)!r} does not exist; check the name") from None
    except PrefixInterpError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise PrefixInterpError(f"path={str(path)!r} cannot be read: {reason}") from None


def write_file(path: str | Path, data: bytes | str) -> Path:
    """Write `data` to `path` atomically (a temporary file beside it, then a rename).

    Raises:
        PrefixInterpError: the folder cannot be made or written; nothing is left behind.
    """
    return write_together({path: data})[0]


def write_together(files: Mapping[str | Path, bytes | str]) -> list[Path]:
    """Write several files of one folder so that old and new ones never stand side by side.

    All are written in full beside their targets. Then old targets but the first are removed, and
    the new files take their names in order: killed in between, later files are missing.

    Args:
        files: content by path; the first is the one that must never be missing.

    Raises:
        PrefixInterpError: they cannot be written. If a disk is full, the old files stay.
    """
    staged: list[tuple[Path, Path]] = []
    path = Path(next(iter(files)))
    try:
        for name, data in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(path.parent)
            end = f".{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
            staged.append((path.with_name(f".{path.name[:40]}{end}"), path))
            _write_through(staged[-1][0], data.encode() if isinstance(data, str) else data)
        for _, path in staged[1:]:
            path.unlink(missing_ok=True)
        for temporary, path in staged:
            temporary.replace(path)
        for folder in {path.parent for _, path in staged}:
            sync_folder(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PrefixInterpError(
            f"path={str(path)!r} cannot be written: {reason}; choose another folder"
        ) from None
    finally:
        for temporary, _ in staged:  # those that have not become their targets
            with suppress(OSError, ValueError):
                temporary.unlink(missing_ok=True)
    return [path for _, path in staged]


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: str | Path, *, recursive: bool = False) -> None:
    """Remove the temporary files that killed processes left in `folder`.

    Those of living processes of this machine stay, and those of other machines for a day.

    Args:
        folder: need not exist.
        recursive: sweep the folders in it, too.
    """
    pattern = "**/.*.tmp" if recursive else ".*.tmp"
    for file in Path(folder).glob(pattern):
        found = _TEMPORARY.fullmatch(file.name)
        with suppress(OSError):
            if found and (_is_dead(found) or time.time() - file.stat().st_mtime > _DAY_S):
                file.unlink()


def check_writable(folder: str | Path) -> None:
    """Raise unless `folder` is or could become a writable folder; leaves nothing behind.

    Long computations call this first, so that they do not fail at the end.

    Raises:
        PrefixInterpError: a file or a link to nothing stands in the way, or no file can be made
            there.
    """
    folder = Path(folder)
    above = [folder, *folder.absolute().parents]
    existing = next(p for p in above if is_there(p) or p.is_symlink())
    if not existing.is_dir() or not _takes_files(existing):
        reason = "is not writable" if existing.is_dir() else "is no folder"
        raise PrefixInterpError(
            f"path={str(folder)!r} cannot be written: {str(existing)!r} {reason}; choose another "
            "folder"
        )


def check_target(file: str | Path) -> None:
    """Raise unless `file` can be written: its folder, and no folder of its own name.

    Raises:
        PrefixInterpError: as `check_writable`, or `file` is a folder.
    """
    check_writable(Path(file).parent)
    if is_there(Path(file)) and Path(file).is_dir():
        raise PrefixInterpError(f"path={str(file)!r} is a folder; name a file in it")


def is_there(path: Path) -> bool:
    """Return whether something has this name.

    Raises:
        PrefixInterpError: nothing can have it: it is too long, or holds a null byte.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PrefixInterpError(
            f"path={str(path)!r} cannot be used: {reason}; choose another name"
        ) from None
    return True


def _takes_files(folder: Path) -> bool:
    """Return whether a file can be made; permissions do not tell, e.g. for root in /proc."""
    try:
        with TemporaryFile(dir=folder):  # without a name, where the file system can do that
            return True
    except OSError:
        return False


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe without a writer would block without this flag."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _write_through(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)  # whatever the umask


def _sweep_once(folder: Path) -> None:
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


def _is_dead(found: re.Match[str]) -> bool:
    """Return whether a process of this machine has ended; False for one of another machine."""
    if found["host"] != _HOST:
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
