"""Trained toys and prefixes that ship with the package."""

from __future__ import annotations

from pathlib import Path

from prefix_interp.errors import PrefixInterpError, nearest
from prefix_interp.files import is_there
from prefix_interp.models.toy import STEM, Toy, read_toy

ZOO = Path(__file__).parent / "trained"


def list_toys() -> list[str]:
    """Return the names of the trained toys that `load_toy` knows.

    Example:
        >>> list_toys()
        ['four-skills-1l4h', 'sort-ascending-1l1h', 'sort-descending-1l1h-fine-tuned']
    """
    return sorted(p.parent.name for p in ZOO.glob(f"*/{STEM}.json"))


def toy_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a trained toy, given its zoo name or a path.

    Raises:
        PrefixInterpError: neither a zoo name (the nearest is named) nor a folder.
    """
    names = list_toys()
    if str(name_or_path) in names:
        return ZOO / str(name_or_path)
    if is_there(Path(name_or_path)) and Path(name_or_path).is_dir():
        return Path(name_or_path)
    raise PrefixInterpError(
        f"name={str(name_or_path)!r} is neither a toy of the zoo"
        f"{nearest(str(name_or_path), names)} nor a folder; the zoo holds "
        f"{', '.join(map(repr, names)) or 'nothing'}"
    )


def load_toy(name_or_path: str | Path) -> Toy:
    """Return a trained toy from the zoo (`list_toys()` returns the names) or from a folder.

    Raises:
        PrefixInterpError: unknown name, or files that are missing, corrupted or foreign.

    Example:
        >>> pi.load_toy("sort-ascending-1l1h").cfg.d_model
        96
    """
    return read_toy(toy_folder(name_or_path))[0]
