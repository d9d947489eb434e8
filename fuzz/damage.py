"""Files as a bad disk, a bad wire or another program leaves them."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz.objects import Reader

Change = dict[Path, "bytes | Callable[[Path], None]"]  # new content, or what makes something else
Input = tuple[str, Change]


def flips(reader: Reader, rng: random.Random, n: int) -> Iterator[Input]:
    """Yield every file with one bit flipped: all bits if there are at most `n`, else `n` of them.

    Every file has its share; within a file the bits are spread evenly, from a random start.
    """
    share = n // len(reader.files)
    for file, data in reader.files.items():
        size = 8 * len(data)
        if size <= share:
            places = range(size)
        else:
            start = rng.random()
            places = [int((i + start) * size / share) % size for i in range(share)]
        for place in places:
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            yield f"bit {place} of {file.name}", {file: bytes(changed)}


def damage(reader: Reader, rng: random.Random, n: int) -> Iterator[Input]:
    """Yield files that are cut short or with bytes inserted, doubled, zeroed, moved or replaced."""
    for i in range(n):
        file, data = rng.choice(list(reader.files.items()))
        a, b = sorted(rng.choices(range(len(data) + 1), k=2))
        if rng.random() < 0.5:
            b = min(len(data), a + rng.choice([1, 2, 8, 64]))
        piece, noise = data[a:b], rng.randbytes(rng.choice([1, 2, 8, 200]))
        other = rng.choice(list(reader.files.values()))
        changed = {
            "cut": data[:a],
            "beginning lost": data[a:],
            "inserted": data[:a] + noise + data[a:],
            "white space": data[:a] + rng.choice([b" ", b"\n", b"\t"]) + data[a:],
            "appended": data + rng.choice([noise, b" ", b"\n", b"\0", data]),
            "removed": data[:a] + data[b:],
            "doubled": data[:b] + piece + data[b:],
            "zeroed": data[:a] + bytes(len(piece)) + data[b:],
            "replaced": data[:a] + rng.randbytes(len(piece)) + data[b:],
            "reversed": data[:a] + piece[::-1] + data[b:],
            "other file": other,
            "random": rng.randbytes(rng.randrange(300)),
            "random header": len(noise).to_bytes(8, "little") + b"{" + noise,
        }
        how = rng.choice(list(changed))
        if changed[how] != data:
            yield f"{how} {a}:{b} of {file.name}, {i}", {file: changed[how]}


def places(reader: Reader, rng: random.Random, n: int) -> Iterator[Input]:
    """Put a pipe, a device, a folder or the like in place of each file, in turn."""
    for file in reader.files:
        for name, make in PLACES.items():
            yield f"{name} in place of {file.name}", {file: make}


def _sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


PLACES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    "a file that is longer than it says": lambda path: path.symlink_to("/proc/self/pagemap"),
    "a sparse file of 30 GB": _sparse(30 * 10**9),
    "a sparse file of 1 TB": _sparse(2**40),
    "a file that may not be read": _unreadable,
}
if os.getuid() == 0:  # who may read everything
    del PLACES["a file that may not be read"]
