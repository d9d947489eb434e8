"""One comparison: two functions that take turns, and the ratio of their times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a peer this package is.

    Attributes:
        work: what both did.
        peer: what the package is compared with.
        seconds: its median time.
        peer_seconds: the peer's.
        ratio: median over rounds of the peer's time by the package's; above 1 is faster.
        low: the lower end of the middle half of the rounds.
        high: its upper end.
        rounds: how many there were.
    """

    work: str
    peer: str
    seconds: float
    peer_seconds: float
    ratio: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.work}: {self.seconds * 1e3:.1f} ms, {self.peer} {self.peer_seconds * 1e3:.1f} "
            f"ms, ratio {self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"
        )


def compare(
    work: str, ours: Callable[[], object], peer: str, theirs: Callable[[], object], *,
    rounds: int = 9,
) -> Ratio:  # fmt: skip
    """Time both in turns, so that noise is shared, after a round that does not count.

    Args:
        work: what both do.
        ours: the package's way.
        peer: name of the other way.
        theirs: the other way.
        rounds: that count; more of them narrow the spread.
    """
    pairs = []
    for i in range(rounds + 1):
        order = (ours, theirs) if i % 2 else (theirs, ours)  # neither always goes first
        seconds = {function: _seconds(function) for function in order}
        pairs.append((seconds[ours], seconds[theirs]))
    return of_pairs(work, peer, pairs[1:])


def of_pairs(work: str, peer: str, pairs: list[tuple[float, float]]) -> Ratio:
    """Return the comparison of rounds that were timed already.

    Args:
        work: what both did.
        peer: name of the other way.
        pairs: seconds of ours and theirs, of each round.
    """
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    low, high = (ratios[(len(ratios) - 1) * part // 4] for part in (1, 3))
    a, b = (median(each) for each in zip(*pairs, strict=True))
    return Ratio(work, peer, a, b, median(ratios), low, high, len(ratios))


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
