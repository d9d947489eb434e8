"""One input for one reader: what came of it."""

from __future__ import annotations

import re
import shutil
import signal
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz.damage import Change
from fuzz.objects import Reader, bits
from prefix_interp import PrefixInterpError

SECONDS, WALL_SECONDS, BYTES = 5, 30, 10**9  # of computing; of waiting, e.g. for a pipe
EXPECTED = re.compile(r"older version, without a checksum|is of another save than")


class Hang(BaseException):
    """A read took longer than `SECONDS`."""


@dataclass
class Tally:
    """What came of all inputs so far.

    Attributes:
        counts: inputs by outcome: ``refused`` (one line says why), ``whole`` (the object that was
            saved), ``other`` (another object) and the findings ``SILENT`` (another object although
            the file was damaged), ``FOREIGN`` (another exception or warning, or a message of
            several lines), ``HANG`` and ``MEMORY``.
        findings: the first example of each finding.
        peak: memory that one read took, in bytes, at most.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)
    peak: int = 0

    @property
    def bad(self) -> int:
        """Return how many inputs are findings."""
        return sum(n for name, n in self.counts.items() if name.isupper())

    def add(self, outcome: str, what: str, detail: str, taken: int) -> None:
        """Count one input."""
        self.peak = max(self.peak, taken)
        self.counts[outcome] += 1
        if outcome.isupper():
            self.findings.setdefault(f"{outcome}: {detail[:200]!r}", what)


def attack(reader: Reader, change: Change, *, damaged: bool) -> tuple[str, str, int]:
    """Change the files, read, put them back; return outcome, detail and memory taken in bytes.

    Args:
        reader: what reads.
        change: new content by file.
        damaged: no other object may be read than the one that was saved.
    """
    for file, new in change.items():
        if isinstance(new, bytes):
            file.write_bytes(new)
        else:
            file.unlink()
            new(file)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory("VmRSS")
    try:
        outcome, detail = _read(reader, damaged)
        taken = memory("VmHWM") - before
    except Hang:
        outcome, detail, taken = "HANG", "", 0
    finally:
        for file, new in change.items():
            if not isinstance(new, bytes):
                _remove(file)
            file.write_bytes(reader.files[file])
    if taken > BYTES:
        return "MEMORY", f"{taken / 1e9:.1f} GB ({outcome})", taken
    return outcome, detail, taken


def _read(reader: Reader, damaged: bool) -> tuple[str, str]:
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        _watch(True)
        try:
            found: Any = reader.read()
        except PrefixInterpError as error:
            _watch(False)
            message = str(error)
            if not message.isprintable():
                return "FOREIGN", f"a message that is not one line: {message}"
            outcome = "refused", ""
        except MemoryError:
            return "MEMORY", "MemoryError"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            own = next((x for x in reversed(where) if "prefix_interp" in x.filename), where[-1])
            place = f"{Path(own.filename).name}:{own.lineno}"
            return "FOREIGN", f"{place} {type(error).__name__}: {str(error)[:100]}"
        else:
            _watch(False)
            try:
                same = bits(found) == reader.whole
            except RecursionError:
                return "FOREIGN", "an object that is nested too deep to be looked at"
            outcome = "whole" if same else "SILENT" if damaged else "other", ""
        finally:
            _watch(False)
    for each in noted:
        if not EXPECTED.search(str(each.message)) or "\n" in str(each.message):
            return "FOREIGN", f"{each.category.__name__}: {str(each.message)[:100]}"
    return outcome


def _watch(on: bool) -> None:
    for clock, number, seconds in [
        (signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, WALL_SECONDS),
    ]:
        signal.signal(number, _stop if on else signal.SIG_IGN)
        signal.setitimer(clock, seconds if on else 0)


def _stop(number: int, frame: FrameType | None) -> None:
    _watch(False)  # both clocks may have run out during one call
    raise Hang


def memory(name: str) -> int:
    """Return a number of bytes that Linux knows of this process, e.g. ``"VmRSS"``."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
