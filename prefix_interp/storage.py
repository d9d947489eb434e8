"""Saved objects: safetensors and JSON, sealed when written and checked when read.

A saved object is a folder of two files. ``<stem>.safetensors`` holds the tensors and, in its
header, everything else: this file alone is the object. ``<stem>.json`` repeats everything else for
people, with the SHA-256 of the tensors' file. The tensors' file is replaced first and in one step,
so a crash leaves the old object or the new one, never a mixture.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import re
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import check_writable, is_there, read_file, write_file
from prefix_interp.records import (
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
    Schemas,
    check_record,
    check_unsealed,
    is_sealed,
    one_line,
    parse_json,
    parse_record,
    seal,
    sealable,
)

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of each number
ANY_NUMBER = {**FLOATS, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
Shapes = Mapping[str, tuple[int, ...]]
_END = re.compile(rb'"data_offsets":\[\d{1,15},(\d{1,15})\]')  # of the numbers of a tensor
_WAIT_S, _RETRY_S = 0.2, 0.005  # beside a writer, which needs a moment between its two files


def write_json(path: str | Path, record: Mapping[str, Any], compact: bool = False) -> Path:
    """Write `record` as sealed JSON, atomically; equal records give equal bytes.

    Args:
        path: if it ends in ``.gz``, the file is compressed.
        record: plain values; ``format`` says which schema it follows.
        compact: as for `to_json`.

    Raises:
        PrefixInterpError: the file cannot be written, or a value is not plain JSON.
    """
    data = json_bytes(record, compact)
    if Path(path).suffix == ".gz":
        packed = io.BytesIO()
        # No name and no time in the header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as file:
            file.write(data)
        data = packed.getvalue()
    return write_file(path, data)


def json_bytes(record: Mapping[str, Any], compact: bool = False) -> bytes:
    """Return `record` as sealed JSON; equal records give equal bytes.

    Args:
        record: plain values; ``format`` says which schema it follows.
        compact: as for `to_json`.

    Raises:
        PrefixInterpError: a value is not plain JSON.
    """
    return seal(sealable(record, compact).encode())


def read_json(path: str | Path, schemas: Schemas) -> dict[str, Any]:
    """Return the record in a JSON file, which may be compressed by gzip.

    Args:
        path: a regular file.
        schemas: what it may hold, by format; see `parse_record`.

    Raises:
        PrefixInterpError: the file is missing, altered, not JSON, or holds something else.
    """
    return parse_record(path, read_file(path, MAX_JSON_BYTES), schemas)


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]
) -> Path:
    """Write one sealed safetensors file, atomically; equal content gives equal bytes.

    Args:
        path: the file.
        tensors: by name.
        record: everything else, as plain values.

    Raises:
        PrefixInterpError: the file cannot be written, or a value is not plain JSON.
    """
    return write_file(path, _packed(tensors, record))


def read_tensors(
    path: str | Path,
    schemas: Schemas,
    shapes: Callable[[dict[str, Any]], Shapes] | None = None,
    numbers: Mapping[str, int] = FLOATS,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the record of a file that `write_tensors` wrote.

    Args:
        path: a regular file.
        schemas: what the record may hold, by format.
        shapes: names and shapes that a record asks for; checked before memory is taken.
        numbers: types of numbers that tensors may have: `FLOATS` or `ANY_NUMBER`.

    Raises:
        PrefixInterpError: the file is missing, altered, or holds something else.
    """
    data = _read_whole(path)
    found, record = _header(path, data, numbers)
    if record is None:
        raise PrefixInterpError(
            f"path={str(path)!r} has no checksum: it is of an older version or of another "
            "program; make it again"
        )
    check_record(path, record, schemas)
    if shapes is not None:
        _check_shapes(path, found, shapes(record))
    return _tensors(path, data), record


def read_foreign_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file of another program, which has no seal.

    Args:
        path: a regular file.

    Raises:
        PrefixInterpError: the file is missing, cut short, or holds other numbers than floats.
    """
    data = _read_whole(path)
    _header(path, data, FLOATS)
    return _tensors(path, data)


def save_folder(
    path: str | Path, stem: str, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]
) -> Path:
    """Write `<path>/<stem>.safetensors` and `<path>/<stem>.json`; return the folder.

    Raises:
        PrefixInterpError: the folder cannot be written; what was there stays as it was.
    """
    folder = Path(path)
    data = _packed(tensors, record)
    text = sealable({**record, "sha256": hashlib.sha256(data).hexdigest()}, compact=False)
    check_writable(folder)
    made = [p for p in (folder, *folder.parents) if not is_there(p)]
    weights = folder / f"{stem}.safetensors"
    try:
        before = read_file(weights) if is_there(weights) else None
        write_file(weights, data)
        try:
            write_file(folder / f"{stem}.json", seal(text.encode()))
        except PrefixInterpError:
            if before is None:
                weights.unlink(missing_ok=True)
            else:
                write_file(weights, before)
            raise
    except PrefixInterpError:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise
    return folder


def load_folder(
    path: str | Path,
    stem: str,
    schemas: Schemas,
    shapes: Callable[[dict[str, Any]], Shapes] | None = None,
    numbers: Mapping[str, int] = FLOATS,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors and the record that `save_folder` wrote.

    It may be read while another process saves: then it is the older or the newer object.

    Args:
        path: the folder.
        stem: name of the files.
        schemas: what the record may hold, by format; those before the newest are read with a
            warning, since their files have no checksum.
        shapes: see `read_tensors`.
        numbers: see `read_tensors`.

    Raises:
        PrefixInterpError: a file is missing, cut short, altered, or holds something else.
    """
    text_file, file = Path(path) / f"{stem}.json", Path(path) / f"{stem}.safetensors"
    end = time.monotonic() + _WAIT_S
    pair = _Pair(text_file, file, schemas, numbers)
    while not pair.belongs and pair.own is not None and time.monotonic() < end:
        time.sleep(_RETRY_S)
        pair = _Pair(text_file, file, schemas, numbers)
    if not pair.belongs:
        if pair.own is None:
            raise PrefixInterpError(
                f"path={str(file)!r} is truncated or corrupted (its SHA-256 is not the one in "
                f"{stem}.json); save the object again"
            )
        check_record(text_file, pair.written, schemas)
        warnings.warn(
            f"path={str(text_file)!r} is of another save than {file.name}, which was taken as it "
            "is; save the object again",
            stacklevel=3,
        )
    elif pair.own not in (None, pair.written):
        raise PrefixInterpError(
            f"path={str(text_file)!r} was changed: it does not say what {file.name} says; save "
            "the object again"
        )
    record = check_record(text_file, pair.own or pair.written, schemas)
    if shapes is not None:
        _check_shapes(file, pair.shapes, shapes(record))
    return _tensors(file, pair.data), record


class _Pair:
    """Both files of a folder, each read once; beside a writer they may be of different saves."""

    def __init__(
        self, text_file: Path, file: Path, schemas: Schemas, numbers: Mapping[str, int]
    ) -> None:
        text, self.data = read_file(text_file, MAX_JSON_BYTES), _read_whole(file)
        self.shapes, self.own = _header(file, self.data, numbers)
        self.written = parse_json(text_file, text)
        if not is_sealed(text_file, text):
            check_unsealed(text_file, self.written, schemas)
        self.written.pop("checksum", None)
        digest = self.written.pop("sha256", None)
        self.belongs = digest == hashlib.sha256(self.data).hexdigest()


def _packed(tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> bytes:
    # Half of the header is left for the names of tensors, and what JSON in JSON takes.
    text = sealable(record, compact=True, max_bytes=MAX_HEADER_BYTES // 2)
    like = torch.contiguous_format  # each with memory of its own, even if two are the same tensor
    plain = {k: v.detach().cpu().clone(memory_format=like) for k, v in tensors.items()}
    return seal(to_bytes(plain, metadata={"record": text}))


def _read_whole(path: Path | str) -> bytes:
    """Return a safetensors file; one that is longer than its header says is not read."""

    def check(file: BinaryIO, size: int) -> None:
        start = file.read(8)
        header = file.read(min(int.from_bytes(start, "little"), MAX_HEADER_BYTES))
        if 8 + len(header) + max(map(int, _END.findall(header)), default=0) != size:
            raise PrefixInterpError(
                f"path={str(path)!r} is truncated or corrupted (its header is cut short, or says "
                "another size); save it again"
            )

    return read_file(path, check=check)


def _header(
    path: Path | str, data: bytes, numbers: Mapping[str, int]
) -> tuple[dict[str, tuple[int, ...]], dict[str, Any] | None]:
    """Return the shapes in a safetensors file, and its record if the file is sealed.

    Nothing of the size of the tensors is made: a header may claim any size.
    """

    def damaged(reason: str) -> PrefixInterpError:
        return PrefixInterpError(
            f"path={str(path)!r} is truncated or corrupted ({reason}); save it again"
        )

    sealed, size = is_sealed(path, data), int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise damaged("its header is cut short")
    header = parse_json(path, data[8 : 8 + size])
    about, shapes = header.pop("__metadata__", {}), {}
    for name, tensor in header.items():
        tensor: dict[str, Any] = tensor if isinstance(tensor, dict) else {}
        kind = one_line(tensor.get("dtype"))
        shape, ends = tensor.get("shape", ()), tensor.get("data_offsets", ())
        if kind not in numbers:
            raise PrefixInterpError(
                f"path={str(path)!r} holds {name[:80]!r} as {kind[:20]}; allowed are "
                f"{', '.join(numbers)}: convert it"
            )
        if not (_all_sizes(shape) and _all_sizes(ends) and len(ends) == 2):
            raise damaged(f"{name[:80]!r} has no shape or place")
        if ends[1] - ends[0] != math.prod(shape) * numbers[kind] or ends[1] > len(data) - 8 - size:
            raise damaged(f"{name[:80]!r} does not have the size of its shape")
        shapes[name] = tuple(shape)
    record = about.get("record") if isinstance(about, dict) else None
    if not sealed:
        if record is not None:
            raise damaged("its checksum is not where it was written")
        return shapes, None
    if not isinstance(record, str):
        raise damaged("its record is missing")
    parsed = parse_json(path, record.encode("utf-8", "replace"))
    parsed.pop("checksum", None)
    return shapes, parsed


def _all_sizes(xs: Any) -> bool:
    return isinstance(xs, list) and all(type(x) is int and 0 <= x < 2**48 for x in xs)


def _check_shapes(path: Path | str, found: Shapes, wanted: Shapes) -> None:
    wrong = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
    if wrong:
        name = wrong[0]
        raise PrefixInterpError(
            f"path={str(path)!r} does not hold what its record asks for: {name[:80]!r} has shape "
            f"{found.get(name)}, not {wanted.get(name)}; save it again"
        )


def _tensors(path: Path | str, data: bytes) -> dict[str, torch.Tensor]:
    try:
        return from_bytes(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise PrefixInterpError(
            f"path={str(path)!r} is truncated or corrupted ({one_line(error)}); save it again"
        ) from None
