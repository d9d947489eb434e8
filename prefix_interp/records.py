"""JSON records: parsed strictly, checked against a schema, and sealed by a checksum.

The first key of every record that we write is ``checksum``: the SHA-256 of the whole file with the
digits of the checksum itself set to 0. A record inside a safetensors file seals that file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, FailFast, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from prefix_interp.errors import PrefixInterpError, nearest

MAX_JSON_BYTES = 64 * 2**20  # of text, after decompression; the largest result here has 1.5 million
MAX_HEADER_BYTES = 64 * 2**20  # of a safetensors file, with the record in it
MAX_SIGNS = 1_500_000  # commas, colons, brackets: each may stand for a hundred bytes of memory
MAX_DEPTH = 64  # of lists and objects inside each other
_GZIP = b"\x1f\x8b"  # first bytes of a compressed file
_MAX_DIGITS = 300  # a longer whole number is beyond every float
_BLANK = f"sha256:{'0' * 64}"
# At the very start, so that nothing inside a record can be taken for it.
_SEAL = re.compile(
    rb'(?:.{8}\{"__metadata__":\{"record":")?\{\s*\\?"checksum\\?":\s*\\?"sha256:([0-9a-f]{64})',
    re.DOTALL,
)


class Schema:
    """What a record of one format must hold: exactly these keys, of exactly these types.

    Args:
        format: the number that the record names.
        fields: types by key, as in an annotation.

    Example:
        >>> from prefix_interp.records import Schema, check_record
        >>> check_record("x", {"format": 1, "seed": 2}, {1: Schema(1, {"seed": int})})
        {'format': 1, 'seed': 2}
    """

    def __init__(self, format: int, fields: Mapping[str, Any]) -> None:
        hints = {name: _stopping(hint) for name, hint in fields.items()}
        typed: Any = TypedDict("record", {"format": Literal[format], **hints})  # type: ignore[misc]
        self.keys = ["format", *fields]
        strict = with_config(ConfigDict(strict=True, extra="forbid"))
        self.adapter = TypeAdapter(strict(typed))


class _FirstError(FailFast):
    """Refuses a list at its first wrong item, not after millions."""

    def __hash__(self) -> int:  # a union of types needs it
        return id(self)


Schemas = Mapping[int, Schema]


def _stopping(hint: Any) -> Any:
    """Return the same type with `_FirstError` on every list in it."""
    parts = get_args(hint)
    if get_origin(hint) is list:
        return Annotated[list[_stopping(parts[0])], _FirstError()]  # type: ignore[misc]
    if get_origin(hint) is dict:
        return dict[parts[0], _stopping(parts[1])]
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(map(_stopping, parts))]  # noqa: UP007
    return hint


def to_json(record: Mapping[str, Any], compact: bool = False) -> str:
    """Return `record` as JSON; NaN and infinity are refused, since JSON has neither.

    Args:
        record: plain values.
        compact: leave out all white space; by default lines are indented.
    """
    how: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    try:
        return json.dumps(record, allow_nan=False, **how) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise PrefixInterpError(f"record cannot be written as JSON: {error}") from error


def one_line(text: object) -> str:
    """Return what someone else has to say as it may stand in a message."""
    return "".join(c if c.isprintable() else " " for c in str(text)[:300])


def blank_seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with room for its seal in front."""
    return {"checksum": _BLANK, **record}


def sealable(record: Mapping[str, Any], compact: bool, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Return the record as JSON with room for its seal, if it could be read again.

    Args:
        record: plain values.
        compact: as for `to_json`.
        max_bytes: size that the text may have.

    Raises:
        PrefixInterpError: a value is not plain JSON, or nothing that `parse_json` would take.
    """
    text = to_json(blank_seal(record), compact)
    try:
        _parsed(text.encode(), max_bytes)
    except ValueError as error:
        raise PrefixInterpError(
            f"record cannot be saved: {one_line(error)}, so it could not be read again; change it"
        ) from None
    return text


def seal(data: bytes) -> bytes:
    """Return the bytes of a file with the checksum that `blank_seal` left room for."""
    found = _SEAL.match(data)
    assert found is not None, "only files that begin with a blank seal are sealed"
    return _with_digits(data, found, hashlib.sha256(data).hexdigest().encode())


def is_sealed(path: str | Path, data: bytes) -> bool:
    """Return whether a file carries a checksum; raise if it is not the right one.

    Args:
        path: named in the message.
        data: all of the file's bytes.

    Raises:
        PrefixInterpError: a byte was changed since the file was written.
    """
    found = _SEAL.match(data)
    if found is None:
        return False
    if hashlib.sha256(_with_digits(data, found, b"0" * 64)).hexdigest().encode() != found[1]:
        raise PrefixInterpError(
            f"path={str(path)!r} is truncated or corrupted: its checksum is not that of its "
            "content; save it again"
        )
    return True


def parse_json(path: str | Path, data: bytes) -> dict[str, Any]:
    """Return the JSON object in some bytes.

    Raises:
        PrefixInterpError: not JSON, not an object, too large, nested too deep, a key that stands
            twice, or a number that no float can hold.
    """
    try:
        record = _parsed(data, MAX_JSON_BYTES)
    except ValueError as error:
        raise PrefixInterpError(
            f"path={str(path)!r} is not valid JSON ({one_line(error)}); save it again"
        ) from None
    if not isinstance(record, dict):
        raise PrefixInterpError(f"path={str(path)!r} holds a {type(record).__name__}, no object")
    return record


def parse_record(path: str | Path, data: bytes, schemas: Schemas) -> dict[str, Any]:
    """Return the record in the bytes of a JSON file, compressed or not.

    Args:
        path: named in messages.
        data: all of the file's bytes.
        schemas: by format. Files of the newest one must be sealed; those of older formats are read
            with a warning, since nothing can tell whether they are as they were written.

    Raises:
        PrefixInterpError: a broken checksum, or anything that JSON or the schema does not allow.
    """
    data = _unpacked(path, data)
    sealed = is_sealed(path, data)
    record = parse_json(path, data)
    if not sealed:
        check_unsealed(path, record, schemas)
    record.pop("checksum", None)
    return check_record(path, record, schemas)


def check_unsealed(path: str | Path, record: Mapping[str, Any], schemas: Schemas) -> None:
    """Raise if a file without a checksum should have one; warn that it is of an older format.

    Raises:
        PrefixInterpError: the record is of the newest format, or not what its schema says.
    """
    if "checksum" in record or record.get("format") == max(schemas):
        raise PrefixInterpError(
            f"path={str(path)!r} was changed after it was saved: its checksum is not where it was "
            "written; save it again"
        )
    check_record(path, {k: v for k, v in record.items() if k != "sha256"}, schemas)
    warnings.warn(
        f"path={str(path)!r} was written by an older version, without a checksum, so damage cannot "
        "be noticed; load it and save it again",
        stacklevel=2,
    )


def check_record(path: str | Path, record: dict[str, Any], schemas: Schemas) -> dict[str, Any]:
    """Return `record` if it is of a known format and holds what that format's schema says.

    Raises:
        PrefixInterpError: another format, a key that is unknown or missing, or a wrong type.
    """
    found = record.get("format")
    if isinstance(found, bool) or not isinstance(found, int) or found not in schemas:
        known = ", ".join(map(str, sorted(schemas)))
        raise PrefixInterpError(
            f"path={str(path)!r} is of format {repr(found)[:80]}, known are {known}; is it another "
            "kind of file, or of a newer version?"
        )
    try:
        schemas[found].adapter.validate_python(record)
    except ValidationError as error:
        raise PrefixInterpError(
            f"path={str(path)!r} {_in_words(error, schemas[found].keys)}"
        ) from None
    return record


def _unpacked(path: str | Path, data: bytes) -> bytes:
    """Return text that may be compressed by gzip, of at most `MAX_JSON_BYTES`."""
    if not data.startswith(_GZIP):
        return data
    reader, reason = zlib.decompressobj(wbits=31), ""
    try:
        data = reader.decompress(data, MAX_JSON_BYTES)
    except zlib.error as error:
        reason = str(error)
    if not reason and (not reader.eof or reader.unused_data):
        reason = "something follows its end" if reader.eof else "it is cut short or too large"
    if reason:
        raise PrefixInterpError(
            f"path={str(path)!r} cannot be decompressed ({reason}); save it again"
        )
    return data


def _with_digits(data: bytes, found: re.Match[bytes], digits: bytes) -> bytes:
    return data[: found.start(1)] + digits + data[found.end(1) :]


def _parsed(data: bytes, max_bytes: int) -> Any:
    """Return what strict JSON says; a ValueError says what is wrong."""
    if len(data) > max_bytes:
        raise ValueError(f"it has {len(data):,} bytes, more than {max_bytes:,}")
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > MAX_SIGNS:
        raise ValueError(f"it holds more than {MAX_SIGNS:,} values, keys and lists")
    try:
        found = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_doubles,
            parse_constant=_refuse,
            parse_int=_whole,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [found] if isinstance(found, (dict, list)) else []
    for _ in range(MAX_DEPTH + 1):  # what reads it further may use a call for each level
        inside = (x.values() if isinstance(x, dict) else x for x in level)
        level = [y for x in inside for y in x if isinstance(y, (dict, list))]
        if not level:
            return found
    raise ValueError(f"it is nested too deep, more than {MAX_DEPTH} levels")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text[:20]}, which no float can hold")
    return number


def _in_words(error: ValidationError, keys: Sequence[str]) -> str:
    """Return the first thing that is wrong, as one sentence."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    *outer, last = first["loc"] or ("",)
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        key = str(last)[:80]
        where = f" in {one_line('.'.join(map(str, outer)))}" if outer else nearest(key, keys)
        return f"has the unknown key {key!r}{where}"
    if first["type"] == "missing":
        return f"lacks the key {place[:200]!r}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"has a wrong {place[:200]!r}: {one_line(message)}"
