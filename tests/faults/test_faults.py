"""Kills, full disks and rivals: a small sample of `tests.faults.attack`, run in its own process.

The attack forks, which a process of pytest with its threads had better not do.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the victims are forks"),
]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def attack(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.attack", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("not survived: 0") >= 1
    return done.stdout


@pytest.mark.parametrize("only", ["points", "full"])
def test_what_is_saved_survives_every_call_to_the_disk(only):
    attack("--only", only, "--work", "page", "saving", "inspection")


@pytest.mark.parametrize(("work", "step"), [("training", 9), ("study", 41)])
def test_long_work_survives_calls_to_the_disk(work, step):
    attack("--only", "points", "--work", work, "--step", step)


def test_long_work_survives_kills_at_random():
    attack("--only", "random", "--work", "training", "study", "--n", 5)


def test_one_of_two_runs_in_a_folder_is_refused():
    attack("--only", "rivals", "--n", 6)


PARENT = """
import os, sys, time
from prefix_interp.tuning.parallel import run_parallel
def child(i):
    with open(f"{sys.argv[1]}/{os.getpid()}", "w"):
        pass
    time.sleep(60)
run_parallel(child, [0, 1], n_jobs=2, progress=False)
"""


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_end_with_their_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    pids = tmp_path / "pids"
    pids.mkdir()
    parent = subprocess.Popen([sys.executable, script, pids], cwd=ROOT, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while len(list(pids.iterdir())) < 2:
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
        workers = [int(file.name) for file in pids.iterdir()]
        assert all(map(alive, workers))
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 2
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers)), "two seconds after their parent"
