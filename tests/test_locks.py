import os
import subprocess
import sys

import pytest

from prefix_interp import PrefixInterpError
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
