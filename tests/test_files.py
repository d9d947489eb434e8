"""Bytes on disk: regular files alone, whole or not at all, and nothing left lying about."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prefix_interp import PrefixInterpError, files
from prefix_interp.files import (
    check_target,
    check_writable,
    is_there,
    read_file,
    sweep,
    write_file,
    write_together,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_pipes_devices_and_links_to_them_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "link to pipe").symlink_to("pipe")
    for name in names(tmp_path):
        with pytest.raises(PrefixInterpError, match="is a pipe or a device"):
            read_file(tmp_path / name)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"x"


@pytest.mark.parametrize(
    ("name", "match"), [("none", "not exist"), (".", "directory"), ("a\0b", "null")]
)
def test_what_is_no_file_is_refused(tmp_path, name, match):
    with pytest.raises(PrefixInterpError, match=match):
        read_file(tmp_path / name)
    if name != "none":
        with pytest.raises(PrefixInterpError, match="cannot be written"):
            write_file(tmp_path / name, "x")
    assert names(tmp_path) == []


def test_a_file_that_claims_a_terabyte_is_not_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(PrefixInterpError, match="more than the"):
        read_file(tmp_path / "sparse")


def test_a_file_of_the_kernel_that_has_no_size_is_not_read():
    with pytest.raises(PrefixInterpError, match=r"the size that it claims|cannot be read"):
        read_file("/proc/self/pagemap")  # 256 GB


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_names_that_nothing_can_have_are_refused(tmp_path, name):
    with pytest.raises(PrefixInterpError, match=r"cannot be used: .*choose another name"):
        check_writable(tmp_path / name)
    assert is_there(tmp_path) and not is_there(tmp_path / "none")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that lies to root")
def test_a_folder_that_takes_no_files_is_found_before_any_work(tmp_path):
    # To root every folder seems writable; only making a file tells.
    for folder in ("/proc", "/proc/x/y"):
        with pytest.raises(PrefixInterpError, match="'/proc' is not writable"):
            check_writable(folder)
    check_writable(tmp_path / "new" / "newer")
    assert names(tmp_path) == []


def test_a_link_to_nothing_and_a_folder_of_the_files_name_are_in_the_way(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(PrefixInterpError, match="link' is no folder"):
        check_writable(tmp_path / "link" / "below")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(PrefixInterpError, match=r"x\.json' is a folder; name a file in it"):
        check_target(tmp_path / "x.json")
    check_target(tmp_path / "y.json")


def test_temporary_files_of_ended_processes_go_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "deep").mkdir()
    mine = f".x.{files._HOST}-{os.getpid()}-0123abcd.tmp"
    other = f".x.elsewhere-{ended.pid}-0123abcd.tmp"
    for name in (f".x.{files._HOST}-{ended.pid}-0123abcd.tmp", mine, other, ".mine.tmp", "x.tmp"):
        (tmp_path / name).write_text("")
        (tmp_path / "deep" / name).write_text("")
    write_file(tmp_path / "y", "y")  # the first write to a folder looks for leftovers
    assert names(tmp_path) == sorted([mine, other, ".mine.tmp", "deep", "x.tmp", "y"])
    assert len(names(tmp_path / "deep")) == 5
    sweep(tmp_path, recursive=True)
    assert names(tmp_path / "deep") == sorted([mine, other, ".mine.tmp", "x.tmp"])
    monkeypatch.setattr(files.time, "time", lambda: (tmp_path / other).stat().st_mtime + 90_000)
    sweep(tmp_path)
    assert other not in names(tmp_path), "a day is long enough for any machine"


@pytest.mark.parametrize("failing", range(1, 5))
def test_files_written_together_are_never_of_two_writes(tmp_path, monkeypatch, failing):
    """Cut off at any rename or removal: the second file, if it is there, fits the first."""
    page, numbers = tmp_path / "page", tmp_path / "numbers"
    write_together({page: "old", numbers: "old"})
    calls = []

    class Killed(BaseException):
        pass

    def stop_at(real):
        def call(*args, **kwargs):
            calls.append(real)
            if len(calls) == failing:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "replace", stop_at(files.Path.replace))
        patch.setattr(files.Path, "unlink", stop_at(files.Path.unlink))
        try:
            write_together({page: "new", numbers: "new"})
        except Killed:
            pass
        else:
            assert failing == 4
    assert not numbers.exists() or numbers.read_text() == page.read_text()


def test_a_full_disk_leaves_all_old_files(tmp_path, monkeypatch):
    page, numbers = tmp_path / "page", tmp_path / "numbers"
    write_together({page: "old", numbers: "old"})
    count = []

    def full(handle):
        count.append(handle)
        if len(count) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PrefixInterpError, match="No space left"):
        write_together({page: "new", numbers: "new"})
    assert page.read_text() == numbers.read_text() == "old" and len(names(tmp_path)) == 2


def test_renames_are_made_to_last(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    write_file(tmp_path / "x", "x")
    assert synced[-1] == str(tmp_path), "the folder, after the file"


def test_many_writers_of_one_file_all_succeed(tmp_path):
    failed = []

    def write(i):
        try:
            for _ in range(40):
                write_file(tmp_path / "x", str(i) * 1000)
        except PrefixInterpError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed and len(set((tmp_path / "x").read_text())) == 1 and names(tmp_path) == ["x"]
