"""What a task is called in figures, tables and sentences."""

from __future__ import annotations

_WORDS = {"sort_ascending_add_one": "sort ascending, then add one"}


def task_words(name: str) -> str:
    """Return a task's name as readers see it, the same in every figure, table and sentence.

    Args:
        name: as in code, of a task of the paper or of your own.

    Example:
        >>> from prefix_interp.tasks.words import task_words
        >>> task_words("add_one"), task_words("sort_ascending_add_one")
        ('add one', 'sort ascending, then add one')
    """
    return _WORDS.get(name, name.replace("_", " "))
