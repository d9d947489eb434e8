"""Kills, full disks and rivals, in numbers: python -m tests.faults.attack --n 50

Everything is imported once; each victim is a fork of this process. One line per attack says how
many were made and how many were not survived; the exit code is 1 if any was not.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from prefix_interp import PrefixInterpError
from tests.faults.shim import Disk
from tests.faults.work import WORK, study

DEAD, REFUSED, WRONG = -signal.SIGKILL, 2, 1


def start(function, *, disk=None, out=None):
    """Run `function` in a fork; it ends with 0, or with 2 and one line if it was refused."""
    pid = os.fork()
    if pid:
        return pid
    code = WRONG
    try:
        if disk is not None:
            disk.install()
        warnings.simplefilter("ignore")  # "of another save" is what a kill leaves
        with contextlib.redirect_stdout(io.StringIO()):
            result = function()
        if out is not None:
            (out / "bytes").write_bytes(result)
            (out / "calls").write_text(str(disk.calls if disk else 0))
        code = 0
    except PrefixInterpError as error:
        if out is not None:
            (out / "refused").write_text(str(error))
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def end(pid):
    """Return how a fork ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(function, **options):
    return end(start(function, **options))


def whole(work, out):
    """Return what uninterrupted work gives, and how many calls changed the disk."""
    with tempfile.TemporaryDirectory() as folder:
        assert run(lambda: work(Path(folder)), disk=Disk(), out=out) == 0
    return (out / "bytes").read_bytes(), int((out / "calls").read_text())


def survives(work, folder, out, expected):
    """Whether work that was cut off is finished as if nothing had happened, and leaves nothing."""
    ended = run(lambda: work(folder), out=out)
    left = [p for p in folder.rglob(".*.tmp")]
    return ended == 0 and (out / "bytes").read_bytes() == expected and not left


def at_every_call(work, full, step=1):
    """Cut the work off at every call that changes the disk; return how many, and failures."""
    failed, points = [], 0
    with tempfile.TemporaryDirectory() as out:
        expected, calls = whole(work, Path(out))
        for n in range(1, calls + 1, step):
            with tempfile.TemporaryDirectory() as folder:
                ended = run(lambda n=n: work(Path(folder)), disk=Disk(n, full))
                wanted = {REFUSED, 0} if full else {DEAD}  # a folder that is not synced is no error
                points += 1
                if ended not in wanted or not survives(work, Path(folder), Path(out), expected):
                    failed.append(n)
    return points, failed


def at_random_moments(work, n, seed):
    """Kill work again and again until it is done; return how many kills, and failures."""
    rng, failed, kills = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        expected, _ = whole(work, Path(out))
        duration = time.monotonic() - began
        while kills < n:
            with tempfile.TemporaryDirectory() as folder:
                for _ in range(rng.randint(1, 8)):
                    victim = start(lambda: work(Path(folder)))
                    time.sleep(rng.uniform(0, duration))
                    os.kill(victim, signal.SIGKILL)
                    ended = end(victim)
                    kills += ended == DEAD
                    if ended not in (DEAD, 0):
                        failed.append(kills)
                if not survives(work, Path(folder), Path(out), expected):
                    failed.append(kills)
    return kills, failed


def rivals(n, seed):
    """Start two runs of one study in one folder at once; return how many pairs, and failures."""
    rng, failed, refused = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as out:
        expected, _ = whole(study, Path(out))
        for i in range(n):
            with tempfile.TemporaryDirectory() as folder:
                outs = [Path(folder, name) for name in ("a", "b")]
                pids = []
                for each in outs:
                    each.mkdir()
                    pids.append(start(lambda: study(Path(folder)), out=each))
                    time.sleep(rng.choice([0, 0, rng.uniform(0, 0.3)]))
                codes = [end(pid) for pid in pids]
                for each, code, rival in zip(outs, codes, pids[::-1], strict=True):
                    if code == 0 and (each / "bytes").read_bytes() == expected:
                        continue
                    said = (each / "refused").read_text() if code == REFUSED else ""
                    refused += 1
                    if f"in use by process {rival}" not in said and "another process" not in said:
                        failed.append(i)
                if 0 not in codes:
                    failed.append(i)
    return n, refused, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50, help="kills of each kind of work, and pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", choices=sorted(WORK), nargs="*", default=sorted(WORK))
    parser.add_argument("--step", type=int, default=1, help="of the calls, each how many-th")
    parser.add_argument("--only", choices=["points", "full", "random", "rivals"])
    arguments = parser.parse_args()
    bad, step = 0, arguments.step

    def say(what, made, failed):
        nonlocal bad
        bad += bool(failed)
        print(f"{what:45s} {made:5d}  not survived: {len(failed)} {failed[:5] or ''}", flush=True)

    for name in arguments.work:
        work = WORK[name]
        if arguments.only in (None, "points"):
            say(f"{name}: killed at each call to the disk", *at_every_call(work, False, step))
        if arguments.only in (None, "full"):
            say(f"{name}: disk full at each call", *at_every_call(work, True, step))
        if arguments.only in (None, "random"):
            say(f"{name}: killed at random", *at_random_moments(work, arguments.n, arguments.seed))
    if arguments.only in (None, "rivals"):
        pairs, refused, failed = rivals(arguments.n, arguments.seed)
        say(f"pairs in one folder ({refused} refused)", pairs, failed)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
