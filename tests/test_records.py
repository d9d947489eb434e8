"""JSON records: strict, typed and sealed."""

import gzip
import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefix_interp import PrefixInterpError
from prefix_interp.records import (
    MAX_JSON_BYTES,
    Schema,
    blank_seal,
    check_record,
    is_sealed,
    parse_json,
    seal,
    to_json,
)
from prefix_interp.storage import read_json, write_json

SCHEMAS = {n: Schema(n, {"seed": int, "rows": list[float | None]}) for n in (1, 2)}
RECORD = {"format": 2, "seed": 3, "rows": [0.5, None]}


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_what_was_written_is_read(tmp_path, name):
    path = write_json(tmp_path / name, RECORD)
    assert read_json(path, SCHEMAS) == RECORD
    plain = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    assert json.loads(plain) == {"checksum": json.loads(plain)["checksum"], **RECORD}


@pytest.mark.parametrize("compact", [True, False])
def test_no_bit_can_change_unnoticed(tmp_path, compact):
    path = write_json(tmp_path / "x.json", RECORD, compact)
    data = path.read_bytes()
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(PrefixInterpError):
            read_json(path, SCHEMAS)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": 1, "a": 1}', "'a' stands twice"),
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "'b' stands twice"),
        ('{"a": NaN}', "it holds NaN"),
        ('{"a": -Infinity}', "it holds -Infinity"),
        ('{"a": 1e999}', "it holds 1e999, which no float can hold"),
        ('{"a": 1' + "0" * 400 + "}", "a number of 401 digits"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[1]", "holds a list, no object"),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested too deep, more than 64 levels"),
        ("null", "holds a NoneType, no object"),
        ("", "not valid JSON"),
        ('{"a": "\x00"}', "not valid JSON"),
    ],
)
def test_what_json_does_not_mean_is_refused(text, match):
    with pytest.raises(PrefixInterpError, match=match) as error:
        parse_json("x.json", text.encode())
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": "3"}, "wrong 'seed': input should be a valid integer"),
        ({"seed": True}, "wrong 'seed'"),
        ({"seed": 3.0}, "wrong 'seed'"),
        ({"rows": [1.0, "x"]}, "wrong 'rows.1"),
        ({"rows": {}}, "wrong 'rows'"),
        ({"sed": 1}, "unknown key 'sed' .did you mean 'seed'"),
        ({"format": 3}, "of format 3, known are 1, 2"),
        ({"format": True}, "of format True"),
        ({"format": None}, "of format None"),
        ({"format": ["x" * 1000]}, r"of format \['x{78}, known"),
        ({"rows": ["x"] * 100_000}, "wrong 'rows.0"),
        ({"two\nlines": 1}, "unknown key"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused(tmp_path, change, match):
    path = write_json(tmp_path / "x.json", RECORD | change)
    with pytest.raises(PrefixInterpError, match=match) as error:
        read_json(path, SCHEMAS)
    assert str(error.value).isprintable()


def test_missing_keys_are_named(tmp_path):
    for key in ("seed", "rows"):
        path = write_json(tmp_path / "x.json", {k: v for k, v in RECORD.items() if k != key})
        with pytest.raises(PrefixInterpError, match=f"lacks the key '{key}'"):
            read_json(path, SCHEMAS)


def test_only_an_older_format_may_come_without_a_checksum(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(to_json(RECORD | {"format": 1}))
    with pytest.warns(UserWarning, match="older version, without a checksum"):
        assert read_json(path, SCHEMAS) == RECORD | {"format": 1}
    path.write_text(to_json(RECORD))
    with pytest.raises(PrefixInterpError, match="its checksum is not where it was written"):
        read_json(path, SCHEMAS)
    sealed = json.loads(write_json(path, RECORD).read_text())
    path.write_text(json.dumps(sealed | {"format": 1, "checksum": 0}))
    with pytest.raises(PrefixInterpError, match="its checksum is not where it was written"):
        read_json(path, SCHEMAS)


def test_a_key_that_stands_twice_among_many_is_found_at_once():
    keys = ",".join(f'"{i}":0' for i in range(30_000))
    start = time.process_time()
    with pytest.raises(PrefixInterpError, match="'29999' stands twice"):
        parse_json("x.json", f'{{{keys},"29999":1}}'.encode())
    assert time.process_time() - start < 1, "the time grew with the square of the keys"


def test_a_list_is_refused_at_its_first_wrong_item():
    """A million reports of what is wrong took gigabytes."""
    nested = {1: Schema(1, {"x": list[dict[str, list[str] | list[float] | float]]})}
    for x in ([None] * 10**6, [{"a": [None] * 10**6}], [{"a": ["b"] * 10**6 + [1.0]}]):
        tracemalloc.start()
        with pytest.raises(PrefixInterpError, match=r"wrong 'x.0"):
            check_record("x.json", {"format": 1, "x": x}, nested)
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()
    record = {"format": 1, "x": [{"a": ["b"]}, {"a": [1.0]}, {"a": 2.0}]}
    assert check_record("x.json", record, nested) == record


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({1: "a", "1": "b"}, "the key '1' stands twice"),
        (10**400, "a number of 401 digits"),
        (eval("[" * 90 + "]" * 90), "more than 64 levels"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, value, match):
    with pytest.raises(PrefixInterpError, match=f"{match}.* could not be read again"):
        write_json(tmp_path / "x.json", RECORD | {"x": value})
    assert not list(tmp_path.iterdir())


def test_what_is_too_large_is_neither_read_nor_written(tmp_path):
    long = "x" * MAX_JSON_BYTES
    with pytest.raises(PrefixInterpError, match=f"bytes, more than {MAX_JSON_BYTES:,}"):
        parse_json("x.json", f'{{"a": "{long}"}}'.encode())
    with pytest.raises(PrefixInterpError, match=r"bytes, more than .* could not be read again"):
        write_json(tmp_path / "x.json", RECORD | {"x": long})
    assert not list(tmp_path.iterdir())


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(bytes(2**29)))
    with pytest.raises(PrefixInterpError, match="too large"):
        read_json(path, SCHEMAS)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()))
def test_any_record_is_sealed_and_its_own_checksums_are_not_taken_for_the_seal(record):
    record["note"] = to_json(blank_seal({}))
    data = seal(to_json(blank_seal(record)).encode())
    assert is_sealed("x", data)
    assert not is_sealed("x", to_json({"first": 0, **record}).encode())
    with pytest.raises(PrefixInterpError):
        is_sealed("x", data + b" ")


@pytest.mark.parametrize("inside", ["[],", "{},", '{"a":1},'])
def test_a_small_file_that_would_fill_the_memory_is_refused(inside):
    text = '{"a": [' + inside * 2_000_001 + "0]}"
    with pytest.raises(PrefixInterpError, match="more than 1,500,000 values"):
        parse_json("x.json", text.encode())
