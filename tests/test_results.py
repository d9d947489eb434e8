import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp import results
from prefix_interp.results import Result, package_versions
from prefix_interp.storage import write_json


@pytest.fixture
def result():
    return Result(
        name="x", preset="fast", seeds=[0, 1], settings={"lr": 1e-3, "n": None},
        tables={
            "score": [{"seed": 0, "value": 0.1 + 0.2, "ci": {"low": 0.0, "high": 1.0}},
                      {"seed": 1, "value": 1e-300, "ci": {"low": -1.0, "high": 2.0}}],
            "curve": [{"seed": 0, "points": [1, 2.5], "ci": None},
                      {"seed": 1, "points": [], "ci": {"low": 3.0}}],
        },
        timing={"seconds": 1.5},
    )  # fmt: skip


def read(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def write(path, record):
    path.write_bytes(gzip.compress(json.dumps(record).encode()))


def test_round_trip_is_exact_and_its_bytes_are_always_the_same(result, tmp_path):
    path = result.save(tmp_path / "new" / "x-fast.json.gz")
    first = path.read_bytes()
    assert Result.load(path) == result
    Result.load(path).save(path)
    assert path.read_bytes() == first
    assert first[4:10] == bytes([0, 0, 0, 0, 2, 255])  # no time, and no system of one's own
    assert read(path)["tables"]["score"] == {
        "seed": [0, 1], "value": [0.1 + 0.2, 1e-300], "ci.low": [0.0, -1.0], "ci.high": [1.0, 2.0]
    }  # fmt: skip
    plain = result.save(tmp_path / "x.json")
    assert json.loads(plain.read_text()) == read(path) and Result.load(plain) == result


leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3)
leaves |= st.floats(allow_nan=True, allow_infinity=False)
keys = st.sampled_from("abcd")
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=4,
)
tables = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.lists(st.dictionaries(keys, values, min_size=1, max_size=3), max_size=3),
    max_size=2,
)


@given(tables=tables)
def test_any_records_come_back_as_they_were(tables, tmp_path_factory):
    result = Result("x", "fast", [0], {}, tables)
    path = result.save(tmp_path_factory.mktemp("results") / "x.json.gz")
    assert Result.load(path) == result


def test_records_of_one_table_have_one_shape():
    rows = [{"a": 1.0, "b": float("nan")}, {"c": (math.nan, 2.0), "a": 2.0}]
    result = Result("x", "fast", [0], {"lrs": (1, 2)}, {"rows": rows})
    assert result.settings == {"lrs": [1, 2]}
    assert result.rows() == [
        {"a": 1.0, "b": None, "c": None}, {"a": 2.0, "b": None, "c": [None, 2.0]}
    ]  # fmt: skip


def test_versions_and_dataframe(result):
    versions = package_versions()
    assert versions["transformer-lens"].startswith("3.") and versions["torch"]
    assert result.versions == versions
    table = result.to_dataframe("score")
    assert list(table.columns) == ["seed", "value", "ci.low", "ci.high"]
    assert table["ci.high"].tolist() == [1.0, 2.0] and table["value"][0] == 0.1 + 0.2
    curves = result.to_dataframe("curve")
    assert list(curves.columns) == ["seed", "points", "ci.low"]
    assert math.isnan(curves["ci.low"][0]) and curves["ci.low"][1] == 3.0


def test_a_table_is_named_where_there_are_several(result):
    one = Result("x", "fast", [0], {}, {"score": result.rows("score")})
    assert one.rows() == one.rows("score") == result.rows("score")
    with pytest.raises(pi.PrefixInterpError, match=r"table=None.*'score', 'curve'"):
        result.rows()
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'score'"):
        result.to_dataframe("scores")


def test_altered_files_are_refused(result, tmp_path):
    path = result.save(tmp_path / "r.json.gz")
    record = read(path)
    del record["checksum"]
    for key in record:
        write_json(path, {k: v for k, v in record.items() if k != key})
        with pytest.raises(pi.PrefixInterpError, match=f"lacks the key '{key}'|of format None"):
            Result.load(path)
    for change, match in [
        ({"table": []}, "did you mean 'tables'"),
        ({"format": 9}, "format 9, known are 1, 2, 3"),
        ({"seeds": "x"}, "wrong 'seeds': input should be a valid list"),
        ({"settings": 5}, "wrong 'settings': input should be a valid dict"),
        ({"tables": {"t": {"a": [1, 2], "b": [1]}}}, "different lengths"),
        ({"tables": {"t": {"a": [1], "a.b": [1]}}}, "make no rows"),
    ]:
        write_json(path, record | change)
        with pytest.raises(pi.PrefixInterpError, match=match):
            Result.load(path)
    write(path, record | {"preset": "paper"})
    with pytest.raises(pi.PrefixInterpError, match="its checksum is not where it was"):
        Result.load(path)
    result.save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(pi.PrefixInterpError, match=r"cannot be decompressed .it is cut short"):
        Result.load(path)
    path.write_bytes(b"\x1f\x8b" + b"not gzip")
    with pytest.raises(pi.PrefixInterpError, match="cannot be decompressed"):
        Result.load(path)
    with pytest.raises(pi.PrefixInterpError, match="does not exist"):
        Result.load(tmp_path / "nowhere.json.gz")


@pytest.mark.parametrize(
    "tables",
    [
        {"t": {"a": [0] * 200, "b": [0] * 200}},
        {"t": {".".join("x" * 30): [0] * 20}},
        {"t": {".".join("x" * 1000): [0]}},
        [{f"{i}": 0} for i in range(50)],  # format 1: each row gets all 50 keys
    ],
)
def test_tables_that_would_fill_the_memory_are_refused(result, tmp_path, monkeypatch, tables):
    monkeypatch.setattr(results, "MAX_CELLS", 300)
    path = result.save(tmp_path / "r.json.gz")
    record = {k: v for k, v in read(path).items() if k != "checksum"}
    if isinstance(tables, list):
        del record["tables"]
        write(path, record | {"format": 1, "records": tables})
        with (
            pytest.warns(UserWarning, match="older version"),
            pytest.raises(pi.PrefixInterpError, match="would hold 2,500 cells, where 300"),
        ):
            Result.load(path)
        return
    write_json(path, record | {"tables": tables})
    with pytest.raises(pi.PrefixInterpError, match="where 300 in columns nested at most 64 deep"):
        Result.load(path)
    rows = Result("x", "fast", [0], {}, {"t": [{"a": 0}] * 301})
    with pytest.raises(pi.PrefixInterpError, match="make several results"):
        rows.save(path)


@pytest.mark.parametrize("row", [{"v": float("inf")}, {"v": object()}, {"a.b": 1}])
def test_what_a_file_cannot_hold_is_refused_and_the_old_file_stays(result, tmp_path, row):
    path = result.save(tmp_path / "r.json.gz")
    before = path.read_bytes()
    with pytest.raises(pi.PrefixInterpError, match=r"JSON|dot"):
        Result("x", "fast", [0], {}, {"rows": [row]}).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_nan_in_a_file_is_refused(result, tmp_path):
    path = result.save(tmp_path / "r.json")
    whole = path.read_text().replace('"checksum":"sha256:', '"checksum":"md5:')  # not looked at
    for number in ("NaN", "Infinity", "1e999", "9" * 400, "[" * 100_000):
        path.write_text(whole.replace("1.5", number))
        with pytest.raises(pi.PrefixInterpError, match=r"JSON|digits|deep"):
            Result.load(path)


def test_a_file_of_format_1_is_read_as_tables_with_the_names_of_today(tmp_path):
    about = {"name": "x", "preset": "fast", "seeds": [0], "settings": {"n_prefix": 1},
             "versions": {}, "timing": {}}  # fmt: skip
    records = [
        {"seed": 0, "part": "bias", "n_prefix": 2, "level": "head"},
        {"seed": 0, "part": "tuning", "n_prefix": None},
        {"seed": 1, "part": "bias", "n_prefix": 1, "level": "layer"},
    ]
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"format": 1, **about, "records": records}))
    with pytest.warns(UserWarning, match="older version"):
        result = Result.load(path)
    assert result.tables == {
        "bias": [{"seed": 0, "n_slots": 2, "level": "head"},
                 {"seed": 1, "n_slots": 1, "level": "layer"}],
        "tuning": [{"seed": 0, "n_slots": None}],
    }  # fmt: skip
    assert result.settings == {"n_prefix": 1}  # of a toy's shape
    ladder = [
        {"n_slots": 0, "n_prefix": None, "context": "none"},
        {"n_slots": 3, "after": 0, "level": "embedding", "context": "soft prompt"},
        {"n_slots": 3, "after": 10, "level": "layers", "context": "suffix"},
    ]
    path.write_text(json.dumps({"format": 1, **about, "records": ladder}))
    with pytest.warns(UserWarning, match="older version"):
        result = Result.load(path)
    assert result.rows("rows") == [
        {"n_slots": 0, "context": "none", "position": None, "layers": None},
        {"n_slots": 3, "context": "soft prompt", "position": 0, "layers": "embedding"},
        {"n_slots": 3, "context": "suffix", "position": 10, "layers": "all"},
    ]
    result.save(tmp_path / "new.json.gz")
    assert Result.load(tmp_path / "new.json.gz") == result


def test_it_prints_as_one_line_and_shows_the_first_rows():
    rows = [{"seed": i, "name": "<b>"} for i in range(2000)]
    result = Result("demo", "fast", [0, 1], {}, {"many": rows})
    assert repr(result) == "Result(demo, fast, 2 seeds: many 2,000 rows)"
    assert (
        Result("demo", "fast", [0], {}, {"one": [{"a": 1}]}).caption().endswith("1 seed: one 1 row")
    )
    assert result._repr_html_().count("<tr") == 4 and "<b>" not in result._repr_html_()


def test_records_without_keys_are_refused_and_not_lost(tmp_path):
    with pytest.raises(pi.PrefixInterpError, match="2 records without keys"):
        Result("x", "fast", [0], {}, {"rows": [{}, {}]}).save(tmp_path / "r.json")
    assert not list(tmp_path.iterdir())
