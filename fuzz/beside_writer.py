"""Read beside a writer: ``python -m fuzz.beside_writer --seconds 60`` (see --help).

Processes save two objects in turn as fast as they can while this one reads. Every read must be one
of the two objects, whole; the exit code is 1 if one is not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import prefix_interp as pi
from fuzz.objects import Stop, bits, train
from prefix_interp.storage import write_file  # type: ignore[attr-defined]

OBJECTS = {
    i: pi.Prefix(
        "residual", vectors=torch.full((2, 3, 64), float(i)), metadata={"which": i, "note": "x" * i}
    )
    for i in (1, 2)
}


def saver(kind: str, folder: Path) -> Callable[[int], Any]:
    """Return a function that saves one of two objects.

    Args:
        kind: ``"folder"`` (a prefix) or ``"checkpoint"`` (half-way and finished).
        folder: where to.
    """
    if kind == "folder":
        return lambda which: OBJECTS[which].save(folder / "object")
    states = [_checkpoint(folder / f"{stop}-{os.getpid()}", stop) for stop in (True, False)]

    return lambda which: write_file(folder / "c.safetensors", states[which - 1])


def _checkpoint(file: Path, stop: bool) -> bytes:
    with suppress(Stop):
        train(file, stop=stop)
    return file.read_bytes()


def _save_until(stop: Any, told: Any, kind: str, folder: Path) -> None:
    """Save in turn until `stop` is set; tell how often, and how often that was refused."""
    save, saves, refused = saver(kind, folder), 0, 0
    told.put("ready")
    while not stop.is_set():
        try:
            save(saves % 2 + 1)
        except pi.PrefixInterpError:
            refused += 1
        saves += 1
    told.put((saves, refused))


def beside(kind: str, seconds: float, writers: int = 1) -> Counter[str]:
    """Read beside writers; return counts of saves, of refused saves, and of reads by outcome.

    Args:
        kind: see `saver`.
        seconds: how long.
        writers: how many processes save.
    """
    counts: Counter[str] = Counter()
    processes = multiprocessing.get_context("fork")  # which need not import everything again
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saver(kind, folder)(1)
        read, whole = _reading(kind, folder)
        stop, told = processes.Event(), processes.Queue()
        arguments = (stop, told, kind, folder)
        started = [processes.Process(target=_save_until, args=arguments) for _ in range(writers)]
        for each in started:
            each.start()
        try:
            for _ in started:
                assert told.get(timeout=60) == "ready"
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                counts[_outcome(read, whole)] += 1
        finally:
            stop.set()
        for _ in started:
            saves, refused = told.get(timeout=60)
            counts += Counter({"saves": saves, "saves REFUSED": refused})
        for each in started:
            each.join(timeout=60)
        counts[f"at the end {_outcome(read, whole)}"] += 1
    return +counts


def _reading(kind: str, folder: Path) -> tuple[Callable[[], Any], list[Any]]:
    """Return what reads, and the bits of the objects that it may find."""
    if kind == "folder":
        return lambda: pi.Prefix.load(folder / "object"), [bits(x) for x in OBJECTS.values()]

    def resume() -> Any:  # which saves there, too
        return train(folder / "c.safetensors")

    return resume, [bits(train(folder / "anew"))]


def _outcome(read: Callable[[], Any], whole: list[Any]) -> str:
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        try:
            found = bits(read())
        except Exception as error:
            return f"FAILED ({type(error).__name__}: {str(error).rpartition('/')[2][:80]})"
    if found not in whole:
        return "a MIXTURE"
    return "whole, with a warning" if noted else "whole"


def main(argv: Sequence[str] | None = None) -> int:
    """Read beside one and two writers; return 1 if something was refused or no whole object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each part (10)")
    arguments = parser.parse_args(argv)
    bad = False
    for kind, writers in [("folder", 1), ("folder", 2), ("checkpoint", 1), ("checkpoint", 2)]:
        counts = beside(kind, arguments.seconds, writers)
        said = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items()))
        print(f"{kind}, {writers} writing: {said}", flush=True)
        bad |= any(word in said for word in ("REFUSED", "MIXTURE", "FAILED"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
