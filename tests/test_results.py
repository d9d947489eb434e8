import json

import pytest

import prefix_interp as pi
from prefix_interp.results import Result, committed_result, package_versions


@pytest.fixture
def result():
    return Result(
        name="x", preset="fast", seeds=[0, 1], settings={"lr": 1e-3, "n": None},
        records=[{"seed": 0, "value": 0.1 + 0.2, "ci": {"low": 0.0, "high": 1.0}},
                 {"seed": 1, "value": 1e-300, "ci": {"low": -1.0, "high": 2.0}}],
        timing={"seconds": 1.5},
    )  # fmt: skip


def test_round_trip_is_exact(result, tmp_path):
    path = result.save(tmp_path / "new" / "x-fast.json")
    assert Result.load(path) == result
    assert json.loads(path.read_text())["format"] == 1
    first = path.read_bytes()
    Result.load(path).save(path)
    assert path.read_bytes() == first


def test_versions_and_dataframe(result):
    versions = package_versions()
    assert versions["transformer-lens"].startswith("3.") and versions["torch"]
    assert result.versions == versions
    table = result.to_dataframe()
    assert list(table.columns) == ["seed", "value", "ci.low", "ci.high"]
    assert table["ci.high"].tolist() == [1.0, 2.0] and table["value"][0] == 0.1 + 0.2


def test_altered_files_are_refused(result, tmp_path):
    path = result.save(tmp_path / "r.json")
    record = json.loads(path.read_text())
    for key in record:
        path.write_text(json.dumps({k: v for k, v in record.items() if k != key}))
        with pytest.raises(pi.PrefixInterpError, match=f"lacks the key '{key}'"):
            Result.load(path)
    path.write_text(json.dumps({**record, "record": []}))
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'records'"):
        Result.load(path)
    path.write_text(json.dumps({**record, "format": 2}))
    with pytest.raises(pi.PrefixInterpError, match="format"):
        Result.load(path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(pi.PrefixInterpError, match="JSON"):
        Result.load(path)
    with pytest.raises(pi.PrefixInterpError, match="does not exist"):
        Result.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_does_not_hold_is_refused_and_the_old_file_stays(result, tmp_path, value):
    path = result.save(tmp_path / "r.json")
    before = path.read_bytes()
    bad = Result("x", "fast", [0], {}, [{"value": value}])
    with pytest.raises(pi.PrefixInterpError, match="JSON"):
        bad.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_nan_in_a_file_is_refused(result, tmp_path):
    path = result.save(tmp_path / "r.json")
    path.write_text(path.read_text().replace("1.5", "NaN"))
    with pytest.raises(pi.PrefixInterpError, match="JSON"):
        Result.load(path)


def test_shipped_results():
    found = committed_result("table1", "fast")
    assert found.name == "table1" and found.preset == "fast" and found.records
    with pytest.raises(pi.PrefixInterpError, match="reproduce nothing --preset fast"):
        committed_result("nothing", "fast")
