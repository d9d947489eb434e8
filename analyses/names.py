"""The one name that each task has in every figure, table and sentence."""

from __future__ import annotations

_LONG = {"sort_ascending_add_one": "sort ascending, then add one"}


def task_words(task: str) -> str:
    """Return the name of a task in words, e.g. ``add one`` for ``add_one``.

    Args:
        task: its name in the library.
    """
    return _LONG.get(task, task.replace("_", " "))


def task_lines(task: str) -> str:
    """Return the name of a task in short lines, for the ticks of a figure.

    Args:
        task: its name in the library.
    """
    return task_words(task).replace(", ", ",\n").replace(" ", "\n", 1)
