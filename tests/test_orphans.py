"""Workers end with their parent at whatever moment it is killed: also while they start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are in /proc"),
]
ROOT = Path(__file__).parents[1]
PARENT = """
import sys, time
from pathlib import Path
from prefix_interp.tuning.parallel import run_parallel

def child(name):
    Path(sys.argv[1], name).touch()
    time.sleep(60)

print("ready", flush=True)
run_parallel(child, ["a", "b"], n_jobs=2, progress=False)
"""


def workers(mark):
    """The living processes that were started with this mark, joblib's own helper aside."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark.encode() in (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if ours and state != "Z" and b"resource_tracker" not in command:
            found.add(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 1.0])
def test_a_worker_that_is_still_starting_does_not_work_alone(delay, tmp_path):
    mark = f"orphans-{os.getpid()}-{delay}"
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"MARK": mark, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,  # joblib's helper tidies up, and says so
    )  # fmt: skip
    try:
        assert parent.stdout.readline() == b"ready\n"
        while len(workers(mark)) < 2:
            time.sleep(0.02)
        time.sleep(delay)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 15  # loading joblib takes its time on a busy machine
    while workers(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = workers(mark)
    for pid in left:
        os.kill(pid, 9)
    assert not left
