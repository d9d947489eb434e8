import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefix_interp import PrefixInterpError, files
from prefix_interp.files import check_writable, write_file
from prefix_interp.records import Schema, to_json
from prefix_interp.storage import (
    ANY_NUMBER,
    load_folder,
    read_json,
    read_tensors,
    save_folder,
    write_json,
    write_tensors,
)

OLD, NEW = {"w": torch.arange(3.0)}, {"w": torch.arange(4.0)}
V1, V2, V3 = ({"format": 2, "v": number} for number in (1, 2, 3))
SCHEMAS = {number: Schema(number, {"v": int}) for number in (1, 2)}


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
    record = {"format": 1, "text": "ü", "list": [1, None, 0.1]}
    schemas = {1: Schema(1, {"text": str, "list": list[float | None]})}
    path = save_folder(tmp_path / "a" / "b", "thing", tensors, record)
    loaded, found = load_folder(path, "thing", schemas, numbers=ANY_NUMBER)
    assert found == record and loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
    assert load_file(path / "thing.safetensors").keys() == tensors.keys()  # safetensors' own reader
    assert names(path) == ["thing.json", "thing.safetensors"] and names(tmp_path / "a") == ["b"]


def test_other_files_in_the_folder_stay(tmp_path):
    folder = save_folder(tmp_path / "f", "one", OLD, V1)
    (folder / "sub").mkdir()
    (folder / "sub" / "note").write_text("mine")
    (folder / "link").symlink_to("sub/note")
    save_folder(folder, "two", NEW, V1)
    save_folder(folder, "one", NEW, V2)
    assert names(folder) == ["link", "one.json", "one.safetensors", "sub",
                             "two.json", "two.safetensors"]  # fmt: skip
    assert (folder / "sub" / "note").read_text() == "mine" and (folder / "link").is_symlink()
    assert torch.equal(load_folder(folder, "one", SCHEMAS)[0]["w"], NEW["w"])


@pytest.mark.parametrize("failing", range(1, 3))
def test_a_failing_step_leaves_the_old_object(tmp_path, monkeypatch, failing):
    """The disk refuses the nth rename: the folder still holds the old object, and nothing else."""
    folder = save_folder(tmp_path / "f", "x", OLD, V1)
    calls, real = [], Path.replace

    def replace(self, target):
        calls.append(self)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(PrefixInterpError, match="No space left"):
            save_folder(folder, "x", NEW, V2)
    tensors, record = load_folder(folder, "x", SCHEMAS)
    assert record == V1 and torch.equal(tensors["w"], OLD["w"])
    assert names(tmp_path) == ["f"] and names(folder) == ["x.json", "x.safetensors"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_file(tmp_path / "f.txt", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(PrefixInterpError, match="No space left"):
        write_file(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["f.txt"]


def test_a_crash_between_the_two_files_loads_as_the_new_object(tmp_path):
    old = save_folder(tmp_path / "old", "x", OLD, V1)
    new = save_folder(tmp_path / "new", "x", NEW, V2)
    (old / "x.safetensors").write_bytes((new / "x.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="of another save"):
        tensors, record = load_folder(old, "x", SCHEMAS)
    assert record == V2 and torch.equal(tensors["w"], NEW["w"])
    save_folder(old, "x", OLD, V3)
    assert load_folder(old, "x", SCHEMAS)[1] == V3 and names(old) == ["x.json", "x.safetensors"]


def test_a_failure_takes_its_new_folders_away(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(PrefixInterpError, match="No space left"):
            save_folder(tmp_path / "a" / "b", "x", NEW, V1)
    assert names(tmp_path) == []


def test_permissions_are_those_of_ordinary_files(tmp_path):
    assert write_file(tmp_path / "f", b"x").stat().st_mode & 0o777 == 0o644
    assert save_folder(tmp_path / "d", "x", NEW, V1).stat().st_mode & 0o777 == 0o755


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(PrefixInterpError, match="file"):
            save_folder(path, "x", NEW, V1)
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
    with pytest.raises(PrefixInterpError, match="cannot be read: Is a directory"):
        read_json(tmp_path / "folder", SCHEMAS)


def test_records_that_json_cannot_hold_leave_nothing(tmp_path):
    for bad in (float("nan"), float("inf"), torch.ones(1), {1, 2}, Path("x")):
        with pytest.raises(PrefixInterpError, match="JSON"):
            to_json({"x": bad})
        with pytest.raises(PrefixInterpError, match="JSON"):
            save_folder(tmp_path / "f", "x", NEW, {"x": bad})
    assert names(tmp_path) == []


def test_a_tensor_file_of_its_own(tmp_path):
    one, two = (write_tensors(tmp_path / name, NEW, V1) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes(), "equal content, equal bytes"
    tensors, record = read_tensors(one, SCHEMAS, lambda _: {"w": (4,)})
    assert torch.equal(tensors["w"], NEW["w"]) and record == V1
    with pytest.raises(PrefixInterpError, match=r"'w' has shape \(4,\), not \(3,\)"):
        read_tensors(one, SCHEMAS, lambda _: {"w": (3,)})
    (tmp_path / "bad").write_bytes(os.urandom(64))
    save_file(NEW, tmp_path / "foreign")
    write_tensors(tmp_path / "whole", {"w": torch.arange(3)}, V1)
    for path, match in [("bad", "corrupted"), ("none", "does not exist"),
                        ("foreign", "has no checksum"), ("whole", "as I64; allowed")]:  # fmt: skip
        with pytest.raises(PrefixInterpError, match=match):
            read_tensors(tmp_path / path, SCHEMAS)


def test_pieces_that_do_not_belong_together_are_refused(tmp_path):
    one = save_folder(tmp_path / "1", "x", OLD, V1)
    data = (one / "x.safetensors").read_bytes()
    save_file(NEW, one / "x.safetensors")  # of another program: it says nothing of its own
    with pytest.raises(PrefixInterpError, match="SHA-256"):
        load_folder(one, "x", SCHEMAS)
    (one / "x.safetensors").write_bytes(data)
    write_json(one / "x.json", {**V2, "sha256": hashlib.sha256(data).hexdigest()})
    with pytest.raises(PrefixInterpError, match="does not say what"):
        load_folder(one, "x", SCHEMAS)


def test_files_without_a_checksum_are_read_with_a_note_if_they_are_old(tmp_path):
    save_file(OLD, tmp_path / "x.safetensors")
    digest = hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    for number in (1, 2):
        (tmp_path / "x.json").write_text(json.dumps({"format": number, "v": 1, "sha256": digest}))
        if number == 1:
            with pytest.warns(UserWarning, match="older version, without a checksum"):
                assert load_folder(tmp_path, "x", SCHEMAS)[1] == {"format": 1, "v": 1}
        else:
            with pytest.raises(PrefixInterpError, match="its checksum is not where"):
                load_folder(tmp_path, "x", SCHEMAS)


def test_a_tensors_file_that_is_longer_than_its_header_says_is_not_read(tmp_path):
    write_tensors(tmp_path / "long", NEW, V1)
    for size in (30 * 10**9, None):
        with (tmp_path / "long").open("r+b") as file:
            file.truncate(size if size else 4)
        with pytest.raises(PrefixInterpError, match=r"truncated or corrupted .its header is cut"):
            read_tensors(tmp_path / "long", SCHEMAS)
    (tmp_path / "zeros").write_bytes(b"")
    with (tmp_path / "zeros").open("r+b") as file:
        file.truncate(30 * 10**9)
    with pytest.raises(PrefixInterpError, match="truncated or corrupted"):
        read_tensors(tmp_path / "zeros", SCHEMAS)


def test_one_tensor_under_two_names_is_saved_twice(tmp_path):
    x = torch.arange(3.0)
    found, _ = read_tensors(write_tensors(tmp_path / "x", {"a": x, "b": x}, V1), SCHEMAS)
    assert torch.equal(found["a"], x) and torch.equal(found["b"], x)


def test_a_record_larger_than_a_header_may_be_is_refused(tmp_path):
    with pytest.raises(PrefixInterpError, match="bytes, more than 33,554,432"):
        save_folder(tmp_path / "f", "x", NEW, {**V1, "more": "x" * 2**25})
    write_tensors(tmp_path / "x", NEW, {**V1, "v": 1})
    assert names(tmp_path) == ["x"]
