import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefix_interp import PrefixInterpError, storage
from prefix_interp.storage import (
    check_writable,
    load_folder,
    read_json,
    read_tensors,
    save_folder,
    to_json,
    write_file,
)

OLD, NEW = {"w": torch.arange(3.0)}, {"w": torch.arange(4.0)}


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_round_trip_keeps_bits_dtypes_and_views(tmp_path):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    tensors = {
        "t": x.T[1:],
        "half": x.bfloat16(),
        "long": torch.tensor(7),
        "grad": x.requires_grad_(),
    }
    record = {"text": "ü", "list": [1, None, 0.1]}
    path = save_folder(tmp_path / "a" / "b", "thing", tensors, record)
    loaded, found = load_folder(path, "thing")
    assert found == record and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
    assert load_file(path / "thing.safetensors").keys() == tensors.keys()  # safetensors' own reader
    assert names(path) == ["thing.json", "thing.safetensors"] and names(tmp_path / "a") == ["b"]


def test_other_files_in_the_folder_stay(tmp_path):
    folder = save_folder(tmp_path / "f", "one", OLD, {})
    (folder / "sub").mkdir()
    (folder / "sub" / "note").write_text("mine")
    (folder / "link").symlink_to("sub/note")
    save_folder(folder, "two", NEW, {})
    save_folder(folder, "one", NEW, {})
    assert names(folder) == ["link", "one.json", "one.safetensors", "sub",
                             "two.json", "two.safetensors"]  # fmt: skip
    assert (folder / "sub" / "note").read_text() == "mine" and (folder / "link").is_symlink()
    assert torch.equal(load_folder(folder, "one")[0]["w"], NEW["w"])


@pytest.mark.parametrize("failing", range(1, 4))
def test_a_failing_step_leaves_the_old_object(tmp_path, monkeypatch, failing):
    """The disk refuses the nth rename: the folder still holds the old object, and nothing else."""
    folder = save_folder(tmp_path / "f", "x", OLD, {"v": 1})
    calls, real = [], Path.replace

    def replace(self, target):
        calls.append(self)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(PrefixInterpError, match="No space left"):
            save_folder(folder, "x", NEW, {"v": 2})
    tensors, record = load_folder(folder, "x")
    assert record == {"v": 1} and torch.equal(tensors["w"], OLD["w"])
    assert names(tmp_path) == ["f"] and names(folder) == ["x.json", "x.safetensors"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_file(tmp_path / "f.txt", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(PrefixInterpError, match="No space left"):
        write_file(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["f.txt"]


def test_a_crash_between_the_two_files_loads_as_the_new_object(tmp_path):
    old = save_folder(tmp_path / "old", "x", OLD, {"v": 1})
    new = save_folder(tmp_path / "new", "x", NEW, {"v": 2})
    (old / ".x.json.pending").write_text((new / "x.json").read_text())
    assert load_folder(old, "x")[1] == {"v": 1}, "before the tensors are replaced"
    (old / "x.safetensors").write_bytes((new / "x.safetensors").read_bytes())
    tensors, record = load_folder(old, "x")
    assert record == {"v": 2} and torch.equal(tensors["w"], NEW["w"])
    save_folder(old, "x", OLD, {"v": 3})
    assert load_folder(old, "x")[1] == {"v": 3} and names(old) == ["x.json", "x.safetensors"]


def test_a_failure_takes_its_new_folders_away(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(PrefixInterpError, match="No space left"):
            save_folder(tmp_path / "a" / "b", "x", NEW, {})
    assert names(tmp_path) == []


def test_permissions_are_those_of_ordinary_files(tmp_path):
    assert write_file(tmp_path / "f", b"x").stat().st_mode & 0o777 == 0o644
    assert save_folder(tmp_path / "d", "x", NEW, {}).stat().st_mode & 0o777 == 0o755


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PrefixInterpError, match="file"):
            save_folder(path, "x", NEW, {})
    with pytest.raises(PrefixInterpError, match="cannot be written"):
        write_file(tmp_path / "file" / "below", "x")
    with pytest.raises(PrefixInterpError, match="no folder"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path / "new" / "deep")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(PrefixInterpError, match="directory"):
        write_file(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"]
    with pytest.raises(PrefixInterpError, match=r"cannot be read|directory"):
        read_json(tmp_path / "folder")


def test_records_that_json_cannot_hold_leave_nothing(tmp_path):
    for bad in (float("nan"), float("inf"), torch.ones(1), {1, 2}, Path("x")):
        with pytest.raises(PrefixInterpError, match="JSON"):
            to_json({"x": bad})
        with pytest.raises(PrefixInterpError, match="JSON"):
            save_folder(tmp_path / "f", "x", NEW, {"x": bad})
    assert names(tmp_path) == []


def test_a_tensor_file_of_its_own(tmp_path):
    folder = save_folder(tmp_path / "f", "x", NEW, {})
    tensors, metadata = read_tensors(folder / "x.safetensors")
    assert torch.equal(tensors["w"], NEW["w"]) and metadata == {}
    (tmp_path / "bad").write_bytes(os.urandom(64))
    for path, match in [("bad", "corrupted"), ("none", "does not exist")]:
        with pytest.raises(PrefixInterpError, match=match):
            read_tensors(tmp_path / path)


def test_pieces_that_do_not_belong_together_are_refused(tmp_path):
    one = save_folder(tmp_path / "1", "x", OLD, {})
    two = save_folder(tmp_path / "2", "x", NEW, {})
    (one / "x.safetensors").write_bytes((two / "x.safetensors").read_bytes())
    with pytest.raises(PrefixInterpError, match="SHA-256"):
        load_folder(one, "x")
    record = json.loads((two / "x.json").read_text())
    del record["sha256"]
    (two / "x.json").write_text(json.dumps(record))
    with pytest.raises(PrefixInterpError, match="SHA-256"):
        load_folder(two, "x")
