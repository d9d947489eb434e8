"""Records with right checksums that are made to take much memory or time."""

from __future__ import annotations

import random
from collections.abc import Iterator

from fuzz.damage import Input
from fuzz.forgeries import Forge, Raw, old
from fuzz.objects import Reader
from prefix_interp.records import MAX_HEADER_BYTES, MAX_JSON_BYTES, MAX_SIGNS


def bombs(reader: Reader, rng: random.Random, n: int) -> Iterator[Input]:
    """Yield records with right checksums that are large, or small but made to take long."""
    forge = Forge(reader, rng)
    signs = int(0.95 * MAX_SIGNS)  # as many as are allowed
    many = range(signs // 4)
    packed = any(file.suffix == ".safetensors" for file in reader.files)
    size = int(0.4 * MAX_HEADER_BYTES if packed else 0.9 * MAX_JSON_BYTES)
    payloads = {
        "lists": "[" + "[]," * (signs // 3) + "0]",
        "nested lists": "[" + "[[]]," * (signs // 5) + "0]",
        "objects": "[" + "{}," * (signs // 3) + "0]",
        "objects with a key": "[" + '{"a":0},' * (signs // 4) + "0]",
        "zeros": "[" + "0," * signs + "0]",
        "a column of zeros": '{"t":{"c":[' + "0," * signs + "0]}}",
        "a column of long texts": '{"t":{"c":[' + f'"{"x" * 40}",' * (size // 50) + "0]}}",
        "a deep column": '{"t":{"' + "a." * 60 + '":[' + "0," * 10**5 + "0]}}",
        "columns": '{"t":{' + ",".join(f'"{i}":[]' for i in many) + "}}",
        "rows of other keys": "[" + ",".join(f'{{"{i}":0}}' for i in range(30_000)) + "]",
        "keys": "{" + ",".join(f'"{i}":0' for i in many) + "}",
        "a key that stands twice": "{" + ",".join(f'"{i}":0' for i in many) + ',"5":1}',
        "a long number": "0." + "1" * size,
        "a long text": '"' + "\U0001f600" * (size // 12) + '"',
        "a long escaped text": '"' + "\\u00e9" * (size // 12) + '"',
        "a table": '{"table":[["a","int64",[' + "0," * signs + "0]]]}",
        "a wide table": '{"table":[' + ",".join(f'["{i}","object",[]]' for i in many[::2]) + "]}",
        "more lists than are allowed": "[" + "[]," * (size // 4) + "0]",
        "too large": "[" + "[]," * 10**8 + "0]",
    }  # fmt: skip
    for name, text in list(payloads.items())[:n]:
        stem, record, header, numbers = forge.parts()
        sealed = "records" not in record and name != "rows of other keys"
        if not sealed:
            record = old(record, random.Random(1))
        keys = [k for k, v in record.items() if isinstance(v, (dict, list))] or ["more"]
        record[rng.choice(keys)] = Raw(text)
        if "tables" in record and '{"t":' in text:
            record["tables"] = Raw(text)
        if "records" in record:
            record["records"] = Raw(text)
        if isinstance(record.get("fields"), dict):
            record["fields"][rng.choice(list(record["fields"]))] = Raw(text)
        yield name, forge.together(stem, record, header, numbers, sealed)
