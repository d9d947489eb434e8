"""Files with a right checksum over content that no version of the package writes."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from fuzz.damage import Change, Input
from fuzz.objects import Reader
from prefix_interp.models.toy import ToyConfig
from prefix_interp.records import blank_seal, seal

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
         "BOOL": 1, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U64": 8, "F4": 1}  # fmt: skip


class Raw:
    """A piece of JSON that `json.dumps` would not write.

    Args:
        text: stands in the file as it is.
    """

    def __init__(self, text: str) -> None:
        self.text = text


def nested(depth: int, opening: str = "[", closing: str = "]") -> Raw:
    """Return lists or objects inside each other.

    Args:
        depth: how many.
        opening: of each.
        closing: of each.
    """
    return Raw(opening * depth + "1" + closing * depth)


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1.0, -0.0, 1e300, 10_000, 10**9, 99_999_999, 2**31,
    2**47, 2**53 + 1, 2**63, 2**64, -(2**63), 10**299, "", "x", "x" * 10_000, "\ud800", "\x00",
    "two\nlines", "\u2028", "nan", "F32", "float8", "head 0.0", "head " + "9" * 5000 + ".0",
    "mlp 0", "a.b", ".", "." * 5000, [], {}, [1], [[]], [None], {"a": 1}, {"": ""},
    Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw(str(10**400)[:401]),
    Raw("1" * 5000), Raw("0." + "1" * 100_000), Raw("[" * 100_000), Raw('{"a":' * 100_000), Raw(""),
    Raw('{"a":1,"a":2}'), nested(60), nested(400), nested(900), nested(980),
    nested(450, '{"dict":{"a":', "}}"), nested(300, '{"tuple":[', "]}"), nested(200, '{"a":', "}"),
    Raw('"\\ud83d"'), Raw("'x'"), Raw("1_000"), Raw("0x10"), Raw("1,"), Raw("// x\n1"),
    {"float": "nan"}, {"float": "-inf"}, {"float": "1\n2"}, {"float": 10**290}, {"float": None},
    {"tensor": "nope"}, {"tensor": []}, {"tensor": {}}, {"tuple": 3}, {"tuple": [1, "x"]},
    {"tuple": {}}, {"dict": {"a": 1}}, {"dict": []}, {"dict": {"two\nlines": 0.5}},
    {"a": 1, "b": 2},
    {"estimate": [1, 2]}, {"estimate": [0.5, 0.1, 0.9]}, {"estimate": ["a", "b", "c"]},
    {"estimate": [{"float": "nan"}] * 3}, {"object": ["Recipe", {}]}, {"object": ["Task", []]},
    {"object": ["os", {"system": 1}]}, {"object": [[], {}]}, {"object": "ab"},
    {"object": ["Evaluation", {"task": "x"}]}, {"object": ["Prefix", {"parameterization": "kv"}]},
    {"table": []}, {"table": [["a", "U100000000", ["x"]]]}, {"table": [["a", "S999999999", [1]]]},
    {"table": [["a", "datetime64[ns]", ["x"]]]}, {"table": [["a", "datetime64[ns]", [1e300]]]},
    {"table": [["a", "int64", [2**70]]]}, {"table": [["a", "Int64", [0.5]]]},
    {"table": [["a", "category", [[]]]]}, {"table": [["a", "period[D]", ["2000"]]]},
    {"table": [["a", "Sparse[int]", [1]]]}, {"table": [["a", "interval", [1]]]},
    {"table": [["a", "float64", "text"], ["b", "object", [1, 2, 3]]]}, 
    {"table": [[[], "object", []]]},
    {"table": [["a", None, [1]], ["a", [], [2]]]}, {"table": [["a", "int8", [1000]]]},
    {"table": [["a", "timedelta64[ns]", ["1 day"]]]}, {"table": [["a", "complex128", ["x"]]]},
    {"table": [["a", "string[pyarrow]", ["x"]]]}, {"table": [["a", "str", [1, None]]]},
    {"table": [["a", "two\nlines", [1]]]}, {"table": [["a", "V8", [1]]]}, {"table": 3},
    {"table": [["a", "object", [{"dict": {"x": 1}}]]]}, 
    {"table": [["two\nlines", "int64", [None]]]},
]  # fmt: skip
KEYS = ["", "x", "format", "checksum", "sha256", "config", "a.b", "two\nlines", "\ud800",
        "." * 3000, "metadata", "x" * 20_000,
        "__metadata__", "float", "tensor", "after", "part"]  # fmt: skip
_MARK = "\ue000RAW{}\ue000"


def render(record: Any, **how: Any) -> str:
    """Return JSON in which every `Raw` stands as it is."""
    raws: list[str] = []

    def plain(x: Any) -> str:
        raws.append(x.text)
        return _MARK.format(len(raws) - 1)

    text = json.dumps(record, default=plain, **how)
    for i, raw in enumerate(raws):
        text = text.replace(json.dumps(_MARK.format(i)), raw)
    return text


class Forge:
    """Takes a saved object apart, and puts changed parts together with right checksums.

    Args:
        reader: what to forge for.
        rng: decides the forgeries.
    """

    def __init__(self, reader: Reader, rng: random.Random) -> None:
        self.reader, self.rng = reader, rng
        self.stems = sorted({file.with_name(file.name.partition(".")[0]) for file in reader.files})

    def parts(self) -> tuple[Path, dict[str, Any], dict[str, Any], bytes]:
        """Return one of the saved objects: its stem, record, tensors' header and numbers."""
        stem = self.rng.choice(self.stems)
        texts = [f for f in self.reader.files if f.name.startswith(f"{stem.name}.json")]
        texts = [f for f in texts if f.parent == stem.parent]
        tensors = stem.with_suffix(".safetensors")
        header, numbers, record = {}, b"", {}
        if tensors in self.reader.files:
            data = self.reader.files[tensors]
            end = 8 + int.from_bytes(data[:8], "little")
            header, numbers = json.loads(data[8:end]), data[end:]
            record = json.loads(header.pop("__metadata__")["record"])
        if texts:
            data = self.reader.files[texts[0]]
            record = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        return (
            stem,
            {k: v for k, v in record.items() if k not in ("checksum", "sha256")},
            header,
            numbers,
        )

    def together(
        self, stem: Path, record: Any, header: dict[str, Any], numbers: bytes, sealed: bool = True
    ) -> Change:
        """Return the files of an object with these parts.

        Args:
            stem: path without suffix.
            record: of the JSON file and in the tensors' header.
            header: of the tensors, by name.
            numbers: bytes behind the header.
            sealed: with checksums; without, it is as version 0.1 and 0.2 wrote it.
        """
        new: Change = {}
        about = blank_seal(record) if sealed and isinstance(record, dict) else record
        for file in self.reader.files:
            if file.parent != stem.parent or file.name.partition(".")[0] != stem.name:
                continue
            if file.suffix == ".safetensors":
                text = render(about, separators=(",", ":"))
                front = {"__metadata__": {"record": text}} if sealed else {}
                head = render({**front, **header}, separators=(",", ":")).encode()
                data = len(head).to_bytes(8, "little") + head + numbers
                new[file] = _sealed(data) if sealed else data
        for file in self.reader.files:
            if file.parent != stem.parent or not file.name.startswith(f"{stem.name}.json"):
                continue
            tensors = new.get(stem.with_suffix(".safetensors"))
            own = about
            if isinstance(tensors, bytes) and isinstance(about, dict):
                own = {**about, "sha256": hashlib.sha256(tensors).hexdigest()}
            text = render(own, indent=1).encode("utf-8", "surrogatepass")
            data = _sealed(text) if sealed else text
            new[file] = gzip.compress(data, mtime=0) if file.suffix == ".gz" else data
        return new

    def change(self, record: Any) -> tuple[str, Any]:
        """Return a record with one thing changed anywhere in it, and what was changed."""
        spots = list(_spots(record))
        if not spots:
            return "whole", self.rng.choice(VALUES)
        holder, key = self.rng.choice(spots)
        value, other = self.rng.choice(VALUES), self.rng.choice(spots)
        how = self.rng.choice(
            ["set", "set", "set", "near", "remove", "add", "swap", "wrap", "twice"]
        )
        if how == "set":
            holder[key] = copy.deepcopy(value)
        elif how == "near":
            holder[key] = _near(holder[key], self.rng)
        elif how == "remove":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[self.rng.choice(KEYS)] = copy.deepcopy(value)
        elif how == "add":
            holder.insert(key, copy.deepcopy(value))
        elif how == "swap":
            holder[key] = copy.deepcopy(other[0][other[1]])
        elif how == "wrap":
            holder[key] = self.rng.choice(
                [[holder[key]], {"tuple": [holder[key]]}, {key: holder[key]}]
            )
        elif isinstance(holder, dict):
            again = render({key: holder[key]})[1:-1]
            holder[key] = Raw(f"{render(holder[key])},{again}")
        return f"{how} {str(key)[:30]!r}", record

    def tensors(self, header: dict[str, Any], numbers: bytes) -> tuple[str, dict[str, Any], bytes]:
        """Return a header and numbers that were changed, and how."""
        rng, header = self.rng, copy.deepcopy(header)
        name = rng.choice(list(header)) if header else "x"
        one = header.setdefault(name, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
        how = rng.choice(["dtype", "shape", "places", "name", "remove", "add", "record", "numbers",
                          "made", "made", "made"])  # fmt: skip
        if how == "dtype":
            one["dtype"] = rng.choice([*SIZES, *VALUES])
        elif how == "shape":
            shapes = [[1], [], [2**47], [2**48], [0], [0, 2**47], [0, 2**47, 2**47], [-1], [1.0],
                      [True], one["shape"][::-1], [*one["shape"], 1], [1] * 70,
                      [1] * 5000]  # fmt: skip
            one["shape"] = rng.choice([*shapes, rng.choice(VALUES)])
        elif how == "places":
            a, b = one["data_offsets"]
            one["data_offsets"] = rng.choice(
                [[b, a], [a], [a, b, b], [0, b - a], [a + 4, b + 4], [a, 2**47], rng.choice(VALUES)]
            )
        elif how == "name":
            header[rng.choice([*KEYS, "two\nlines", "vectors", "0.x/more"])] = header.pop(name)
        elif how == "remove":
            del header[name]
        elif how == "add":
            header[rng.choice(KEYS)] = rng.choice([one, rng.choice(VALUES)])
        elif how == "record":
            one[rng.choice(KEYS)] = rng.choice(VALUES)
        elif how == "numbers":
            fill = rng.choice([b"\0", b"\xff", b"\x7f\x80", b"\x00\x00\xc0\x7f", rng.randbytes(7)])
            numbers = (fill * len(numbers))[: len(numbers)]
        else:  # all of them of one other type or of another shape, with the right places
            wanted, shapes = rng.choice(list(SIZES)), {k: v["shape"] for k, v in header.items()}
            if rng.random() < 0.5:
                shapes[name] = rng.choice(
                    [[], [1], [2, 3], [1] * 3, [1] * 4, [0, 4], one["shape"][1:]]
                )
            header, numbers = _made(shapes, wanted, rng)
        return f"{how} {name[:30]!r}", header, numbers


def _sealed(data: bytes) -> bytes:
    try:
        return seal(data)
    except AssertionError:  # there is no seal at its place
        return data


def _spots(x: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(x) if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else ():
        yield x, key
        yield from _spots(x[key])


def _near(x: Any, rng: random.Random) -> Any:
    """Return something that is almost `x`."""
    if isinstance(x, bool):
        return rng.choice([not x, int(x)])
    if isinstance(x, (int, float)):
        return rng.choice([x + 1, x - 1, -x, str(x), float(x), bool(x), x * 1000, [x]])
    if isinstance(x, str):
        return rng.choice([x + " ", x.upper(), x[:-1], x * 2, [x], x + "\n", None])
    if isinstance(x, list):
        return rng.choice([x[:-1], x + x, x[::-1], {str(i): y for i, y in enumerate(x)}, x[:1]])
    return rng.choice([list(x), list(x.items()), {}, None]) if isinstance(x, dict) else 0


def _made(shapes: dict[str, Any], dtype: str, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header, rng.choice([bytes(at), rng.randbytes(at) if at < 10**6 else bytes(at)])


def records(reader: Reader, rng: random.Random, n: int, sealed: bool = True) -> Iterator[Input]:
    """Yield whole objects with right checksums, in whose record or tensors something is changed."""
    forge = Forge(reader, rng)
    for i in range(n):
        stem, record, header, numbers = forge.parts()
        said = []
        if not sealed:
            record = old(record, rng)
        for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
            what, record = forge.change(record)
            said.append(what)
        if header and rng.random() < 0.4:
            what, header, numbers = forge.tensors(header, numbers)
            said.append(what)
        if reader.name in ("toy", "ModelFit") and "config" in record and rng.random() < 0.3:
            found = toy_like(record, rng)
            if found:
                header, numbers = found
                said.append("tensors of its config")
        yield (
            f"{', '.join(said)} of {stem.name}, {i}",
            forge.together(stem, record, header, numbers, sealed),
        )


def unsealed(reader: Reader, rng: random.Random, n: int) -> Iterator[Input]:
    """Yield the same as files of older formats, which have no checksum."""
    return records(reader, rng, n, sealed=False)


def old(record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a record as an older version wrote it."""
    number = rng.choice([1, 2])
    record = {**record, "format": number}
    if number == 1 and "tables" in record:
        tables = record.pop("tables")
        record["records"] = [
            {"part": name, **{k: v[0] for k, v in columns.items() if v}, "n_prefix": 1}
            for name, columns in tables.items()
        ]
    if number == 1 and "position" in record:
        level = "layers" if record.pop("layers") == "all" else "embedding"
        record |= {"after": record.pop("position"), "level": level}
    return record


def toy_like(record: dict[str, Any], rng: random.Random) -> tuple[dict[str, Any], bytes] | None:
    """Change a toy's config, and return tensors that fit it if they are small."""
    config = record["config"]
    if not isinstance(config, dict):
        return None
    names = [f.name for f in fields(ToyConfig)]
    choices = [1, 2, 3, 5, 16, 100, 1000, 8000, 100_000, True, False, "RMS", "none", "LN", None]
    for _ in range(rng.choice([1, 1, 2, 3])):
        config[rng.choice(names)] = rng.choice(choices)
    try:
        shapes: dict[str, Any] = dict(ToyConfig.from_dict(config).shapes)
    except ValueError:
        return None
    if sum(map(math.prod, shapes.values())) > 10**6:
        return None
    return _made(shapes, rng.choice(["F32", "F32", "F64", "F16", "BF16"]), rng)
