"""A command replaces a file of its own run, and one of another run only if it is told to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefix_interp.errors import PrefixInterpError
from prefix_interp.words import counted

_SHOWN, _LONGEST = 2, 40


def check_same_run(
    path: str | Path,
    before: Mapping[str, Any] | None,
    now: Mapping[str, Any],
    argument: str = "out",
) -> None:
    """Raise unless the file at `path` is of the run that is about to write it.

    Args:
        path: of the file that would be replaced.
        before: what the file says of its run: settings, seeds and so on; None if it is nothing that
            the command writes.
        now: the same of this run.
        argument: the option that chooses another place.

    Raises:
        PrefixInterpError: they differ; the message names the differences.

    Example:
        >>> check_same_run("prefix", {"seed": 0}, {"seed": 0})
        >>> try:
        ...     check_same_run("prefix", {"seed": 0}, {"seed": 1})
        ... except pi.PrefixInterpError as error:
        ...     print(str(error).partition(";")[0])
        out='prefix' holds another run (seed: 0 there, 1 here)
    """
    if before is None:
        what = "something that is no result of this command"
    elif differences := _differences(_flat(before), _flat(now)):
        what = f"another run ({differences})"
    else:
        return
    raise PrefixInterpError(
        f"{argument}={str(path)!r} holds {what}; choose another --{argument}, or replace it with "
        "--overwrite"
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the keys whose values differ, the first few with both values."""
    missing = object()
    keys = [k for k in {**before, **now} if before.get(k, missing) != now.get(k, missing)]
    shown = []
    for key in keys[:_SHOWN]:
        there, here = (_short(run[key]) if key in run else "nothing" for run in (before, now))
        short = len(there + here) <= _LONGEST
        shown.append(f"{key}: {there} there, {here} here" if short else f"{key} differs")
    if len(keys) > _SHOWN:
        shown.append(f"and {counted(len(keys) - _SHOWN, 'more difference')}")
    return ", ".join(shown)


def _short(value: Any) -> str:
    return json.dumps(value, default=str)


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values by dotted names, as JSON holds them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = json.loads(json.dumps(value, default=str))
    return flat
