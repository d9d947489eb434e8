"""Files on disk: safetensors and JSON, written atomically and checked when read.

A saved object is a folder of two files. `<stem>.safetensors` holds the tensors,
`<stem>.json` everything else together with the SHA-256 of the tensors' file. While both are being
replaced, the new record waits in a third file, so a crash leaves the old object or the new one,
never a mixture.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from prefix_interp.errors import PrefixInterpError

_GZIP = b"\x1f\x8b"  # first bytes of a compressed file


def to_json(record: Mapping[str, Any], compact: bool = False) -> str:
    """Return `record` as JSON; NaN and infinity are refused, since JSON has neither.

    Args:
        record: plain values.
        compact: leave out all white space; by default lines are indented.
    """
    how: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    try:
        return json.dumps(record, allow_nan=False, **how) + "\n"
    except (TypeError, ValueError) as error:
        raise PrefixInterpError(f"record cannot be written as JSON: {error}") from error


def write_json(path: str | Path, record: Mapping[str, Any], compact: bool = False) -> Path:
    """Write `record` as JSON atomically; equal records give equal bytes.

    Args:
        path: if it ends in ``.gz``, the file is compressed.
        record: plain values.
        compact: as for `to_json`.

    Raises:
        PrefixInterpError: the file cannot be written, or a value is not plain JSON.
    """
    data = to_json(record, compact).encode()
    if Path(path).suffix == ".gz":
        packed = io.BytesIO()
        # No name and no time in the header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
            file.write(data)
        data = packed.getvalue()
    return write_file(path, data)


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in `path`, which may be compressed by gzip.

    Raises:
        PrefixInterpError: the file is missing, not JSON, or not an object.
    """
    path = Path(path)

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8")
        record = json.loads(text, parse_constant=refuse)
    except FileNotFoundError:
        raise PrefixInterpError(f"path={str(path)!r} does not exist; check the name") from None
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise PrefixInterpError(
            f"path={str(path)!r} is not valid JSON ({error}); save it again"
        ) from None
    except OSError as error:
        raise PrefixInterpError(f"path={str(path)!r} cannot be read: {error.strerror}") from None
    if not isinstance(record, dict):
        raise PrefixInterpError(f"path={str(path)!r} holds a {type(record).__name__}, no object")
    return record


def check_writable(folder: str | Path) -> None:
    """Raise unless `folder` is or could become a writable folder; creates nothing.

    Long computations call this first, so that they do not fail at the end.

    Raises:
        PrefixInterpError: a file stands in the way, or the permission is missing.
    """
    folder = Path(folder)
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "is no folder" if not existing.is_dir() else "is not writable"
        raise PrefixInterpError(
            f"path={str(folder)!r} cannot be written: {str(existing)!r} {reason}; choose another "
            "folder"
        )


def write_file(path: str | Path, data: bytes | str) -> Path:
    """Write `data` to `path` atomically (a temporary file beside it, then a rename).

    Raises:
        PrefixInterpError: the folder cannot be made or written; nothing is left behind.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise PrefixInterpError(
            f"path={str(path)!r} cannot be written: {error.strerror}; choose another folder"
        ) from None
    return path


def save_folder(
    path: str | Path, stem: str, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]
) -> Path:
    """Write `<path>/<stem>.safetensors` and `<path>/<stem>.json` as one step; return the folder.

    Raises:
        PrefixInterpError: the folder cannot be written; what was there stays as it was.
    """
    folder = Path(path)
    data = to_bytes({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    text = to_json({**record, "sha256": hashlib.sha256(data).hexdigest()})
    check_writable(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    pending, weights = _pending(folder, stem), folder / f"{stem}.safetensors"
    try:
        write_file(pending, text)
        before = weights.read_bytes() if weights.exists() else None
        write_file(weights, data)
        try:
            pending.replace(folder / f"{stem}.json")
        except OSError:
            if before is None:
                weights.unlink()
            else:
                write_file(weights, before)
            raise
    except (OSError, PrefixInterpError) as error:
        pending.unlink(missing_ok=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, PrefixInterpError):
            raise
        raise PrefixInterpError(
            f"path={str(folder)!r} cannot be written: {error.strerror}; choose another folder"
        ) from None
    return folder


def _pending(folder: Path, stem: str) -> Path:
    """Return where a record waits until the tensors it belongs to are in place."""
    return folder / f".{stem}.json.pending"


def load_folder(path: str | Path, stem: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the record that `save_folder` wrote.

    Raises:
        PrefixInterpError: a file is missing, cut short or altered.
    """
    folder = Path(path)
    record, pending = read_json(folder / f"{stem}.json"), _pending(folder, stem)
    file = folder / f"{stem}.safetensors"
    if not file.exists():
        raise PrefixInterpError(f"path={str(file)!r} does not exist; save the object again")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise PrefixInterpError(f"path={str(file)!r} cannot be read: {error.strerror}") from None
    if record.get("sha256") != digest and pending.exists():
        record = read_json(pending)  # saving was cut off between the two files
    if record.pop("sha256", None) != digest:
        raise PrefixInterpError(
            f"path={str(file)!r} is truncated or corrupted (its SHA-256 is not the one in "
            f"{stem}.json); save the object again"
        )
    return read_tensors(file)[0], record


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors and the header's metadata of one safetensors file.

    Raises:
        PrefixInterpError: the file is missing or not a valid safetensors file.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise PrefixInterpError(f"path={str(path)!r} does not exist; check the name") from None
    except (SafetensorError, OSError) as error:
        raise PrefixInterpError(
            f"path={str(path)!r} is truncated or corrupted ({error}); save it again"
        ) from None
