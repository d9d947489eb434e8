import os
import subprocess
import sys
import threading

import pytest
from filelock import FileLock

from prefix_interp import PrefixInterpError, locks
from prefix_interp.locks import locked

HOLDER = """
import sys
from prefix_interp.locks import locked
with locked(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"in\n"
    return process


def test_another_process_is_refused_by_name_until_this_one_leaves_or_dies(tmp_path):
    folder = tmp_path / "new" / "folder"
    first = holder(folder)
    with pytest.raises(PrefixInterpError, match=f"work=.* is in use by process {first.pid}; wait"):
        with locked(folder):
            pass
    first.kill()
    first.communicate()
    assert (folder / ".owner").exists(), "killed, it cannot tidy up"
    with locked(folder):
        assert (folder / ".owner").read_text() == str(os.getpid())
    second = holder(folder)
    second.communicate()
    with locked(folder), pytest.raises(PrefixInterpError, match=f"process {os.getpid()}"):
        with locked(folder):
            pass


def test_what_fails_inside_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PrefixInterpError, match="cannot be locked"),
        locked(tmp_path / "file" / "x"),
    ):
        pass


@pytest.fixture
def dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


def test_a_dead_owner_is_not_named_while_the_next_one_comes_in(tmp_path, dead):
    owner = tmp_path / ".owner"
    owner.write_text(dead)  # it was killed
    with FileLock(tmp_path / ".lock"):
        coming = threading.Timer(0.2, owner.write_text, [str(os.getpid())])
        coming.start()
        with pytest.raises(PrefixInterpError, match=f"in use by process {os.getpid()};"):
            with locked(tmp_path):
                pass
        coming.join()


@pytest.mark.parametrize("content", [None, "", "x", "dead"])
def test_an_owner_that_stays_unknown_is_another_process(tmp_path, monkeypatch, content, dead):
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
    if content is not None:
        (tmp_path / ".owner").write_text(dead if content == "dead" else content)
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(PrefixInterpError, match="in use by another process; wait"):
            with locked(tmp_path):
                pass


def test_who_comes_while_the_owner_leaves_gets_in(tmp_path):
    lock = FileLock(tmp_path / ".lock", thread_local=False)
    lock.acquire()  # its .owner is gone already
    leaving = threading.Timer(0.2, lock.release)
    leaving.start()
    with locked(tmp_path):
        assert (tmp_path / ".owner").read_text() == str(os.getpid())
    leaving.join()
