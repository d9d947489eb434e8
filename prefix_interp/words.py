"""Pieces of text that several messages and captions need."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, e.g. ``1 slot`` and ``10 slots``.

    Args:
        n: how many; thousands get a comma.
        noun: in the singular; its plural has an ``s``.

    Example:
        >>> counted(1, "slot"), counted(2000, "step")
        ('1 slot', '2,000 steps')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
