"""Many independent runs at once, one single-threaded process per core."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from prefix_interp.errors import check_positive
from prefix_interp.orphans import Parent, call

Item = TypeVar("Item")
Out = TypeVar("Out")
_LOCK = threading.Lock()
_blocks, _threads = 0, 1  # of `one_thread`: how many run now, and what was set before them


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: the matrices are too small for more, and sums keep their order.

    Blocks may overlap in several Python threads; the last one to end restores the number.
    """
    global _blocks, _threads
    with _LOCK:
        _blocks += 1
        if _blocks == 1:
            _threads = torch.get_num_threads()
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _blocks -= 1
            if _blocks == 0:
                torch.set_num_threads(_threads)


def run_parallel(
    function: Callable[..., Out],
    items: Sequence[Item],
    *,
    n_jobs: int | None = None,
    progress: bool = True,
    description: str = "runs",
    **arguments: Any,
) -> list[Out]:
    """Return ``[function(item, **arguments) for item in items]``, computed side by side.

    The backend is joblib's: processes of this machine, or whatever the caller's
    ``joblib.parallel_config(backend=...)`` names. Training functions always use one thread each, so
    the number of jobs does not change a result. Processes end when the one that started them does.

    Args:
        function: importable (not a lambda), called with each item.
        items: e.g. seeds.
        n_jobs: number of processes; by default the cores this process may use.
        progress: show a bar.
        description: text of the bar.
        arguments: passed to every call.
    """
    if n_jobs is None:
        n_jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    check_positive("n_jobs", n_jobs)
    parent = Parent()
    calls = (delayed(call)(parent, function, item, arguments) for item in items)
    results = Parallel(n_jobs=min(n_jobs, max(1, len(items))), return_as="generator")(calls)
    bar = tqdm(results, total=len(items), desc=description, disable=not progress)
    return list(bar)  # type: ignore[arg-type]
