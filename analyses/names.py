"""The name of a task on the ticks of a figure."""

from __future__ import annotations

from prefix_interp.tasks.words import task_words


def task_lines(task: str) -> str:
    """Return the name of a task in short lines.

    Args:
        task: its name in the library.
    """
    return task_words(task).replace(", ", ",\n").replace(" ", "\n", 1)
