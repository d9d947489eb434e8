"""Attack every reader: ``python -m fuzz.readers --n 1000`` (see --help).

Each line says what came of the inputs for one reader; the exit code is 1 if anything is a finding.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from fuzz.attack import Tally, attack
from fuzz.damage import Input, damage, flips, places
from fuzz.objects import Reader, make_readers

Attack = Callable[[Reader, random.Random, int], Iterator[Input]]


def attacks() -> dict[str, tuple[Attack, bool]]:
    """Return all attacks by name, and whether another object than the saved one is a finding."""
    found: dict[str, tuple[Attack, bool]] = {
        "flips": (flips, True), "damage": (damage, True), "places": (places, False),
    }  # fmt: skip
    try:
        from fuzz.bombs import bombs
        from fuzz.chance import chance
        from fuzz.forgeries import records, unsealed
    except ImportError:  # versions before 0.3 have no seal
        return found
    return found | {
        "records": (records, False), "unsealed": (unsealed, False), "chance": (chance, False),
        "bombs": (bombs, False),
    }  # fmt: skip


def run(reader: Reader, name: str, n: int, seed: int, tally: Tally) -> Iterator[str]:
    """Run one attack on one reader; yield the outcome of each input.

    Args:
        reader: what reads.
        name: of the attack.
        n: inputs, at most.
        seed: decides the inputs.
        tally: counts them.
    """
    make, damaged = attacks()[name]
    for what, change in make(reader, random.Random(f"{seed} {reader.name} {name}"), n):
        outcome, detail, taken = attack(reader, change, damaged=damaged)
        tally.add(outcome, f"{name}, {what}", detail, taken)
        yield outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run the attacks; return 1 if there are findings."""
    known = attacks()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="inputs of each attack, by reader (200)")
    parser.add_argument("--seed", type=int, default=0, help="decides the inputs (0)")
    parser.add_argument("--reader", action="append", help="only this one; may be repeated (all)")
    parser.add_argument("--attack", action="append", choices=known, help="likewise (all)")
    arguments = parser.parse_args(argv)
    started, bad, total = time.monotonic(), 0, 0
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # faster than a disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        readers = make_readers(Path(folder))
        names = arguments.reader or list(readers)
        chosen = arguments.attack or list(known)
        bar = tqdm(total=len(names) * len(chosen) * arguments.n, unit=" inputs", smoothing=0.05)
        for name in names:
            tally, began = Tally(), time.monotonic()
            for each in chosen:
                bar.set_postfix_str(f"{name} {each}")
                count = 0
                for _ in run(readers[name], each, arguments.n, arguments.seed, tally):
                    count += 1
                    bar.update()
                bar.total += count - arguments.n
            inputs, seconds = sum(tally.counts.values()), time.monotonic() - began
            counts = ", ".join(f"{n:,} {k}" for k, n in sorted(tally.counts.items()))
            tqdm.write(f"{name}: {inputs:,} inputs: {counts}; "
                       f"at most {tally.peak / 1e6:,.0f} MB, "
                       f"{inputs / seconds:,.0f} a second", file=sys.stdout)  # fmt: skip
            for finding, what in tally.findings.items():
                tqdm.write(f"    {finding}\n        first by {what[:300]!r}", file=sys.stdout)
            bad, total = bad + tally.bad, total + inputs
        bar.close()
    seconds = time.monotonic() - started
    print(f"{total:,} inputs in {seconds:,.0f} s, {bad:,} findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
