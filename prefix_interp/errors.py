"""The package's error class, and the checks that raise it.

Every message names the argument, the given value, what is allowed and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class PrefixInterpError(ValueError):
    """Bad input to prefix_interp; the message is one line that says how to fix it.

    Example:
        >>> try:
        ...     pi.get_task("sort_descendin")
        ... except pi.PrefixInterpError as error:
        ...     print(str(error).partition(";")[0])
        task='sort_descendin' is unknown (did you mean 'sort_descending'?)
    """


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.4)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raise unless `value` is one of `allowed`, naming the nearest one."""
    names = list(allowed)
    if value not in names:
        hint = nearest(str(value), names)
        raise PrefixInterpError(
            f"{argument}={value!r} is unknown{hint}; choose one of {', '.join(map(repr, names))}"
        )


def check_positive(argument: str, value: object) -> None:
    """Raise unless `value` is an integer of at least 1 (booleans are refused)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PrefixInterpError(f"{argument}={value!r} must be a whole number of at least 1")


def check_index(argument: str, value: object, size: int) -> None:
    """Raise unless `value` is an integer from 0 to `size` - 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
        raise PrefixInterpError(f"{argument}={value!r} must be between 0 and {size - 1}")


def check_number(
    argument: str,
    value: object,
    low: float = 0.0,
    high: float = float("inf"),
    *,
    low_open: bool = False,
) -> None:
    """Raise unless `value` is a finite number between `low` and `high`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # `value == value` is false only for NaN.
    inside = number and value == value and low <= value <= high  # type: ignore[operator]
    if not inside or value == float("inf") or (low_open and value == low):
        bracket = "(" if low_open else "["
        raise PrefixInterpError(f"{argument}={value!r} must be a number in {bracket}{low}, {high}]")


def check_keys(what: str, found: Mapping[str, object], allowed: Iterable[str]) -> None:
    """Raise if `found` has a key that is not in `allowed`, naming the nearest one."""
    names = list(allowed)
    for key in found:
        if key not in names:
            raise PrefixInterpError(
                f"{what} has the unknown key {key!r}{nearest(key, names)}; "
                f"allowed are {', '.join(map(repr, names))}"
            )
