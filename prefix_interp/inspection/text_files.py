"""Texts from a file: one a line, plain or as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import read_file

MAX_TEXT_BYTES = 10**7


def read_texts(path: str | Path) -> list[str]:
    r"""Return the texts of a file, in order; empty lines are left out.

    Args:
        path: ``.txt`` with a text a line, or ``.jsonl`` with a line ``{"text": ...}`` or a string
            for each.

    Raises:
        PrefixInterpError: another ending, a file that is missing or too large, a line that holds
            no text, or no text at all.

    Example:
        >>> from pathlib import Path
        >>> from prefix_interp.inspection.text_files import read_texts
        >>> _ = Path("few.txt").write_text("One text.\n\nAnother.\n")
        >>> read_texts("few.txt")
        ['One text.', 'Another.']
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".txt", ".jsonl"):
        raise PrefixInterpError(f"text={str(path)!r} must end in .txt or .jsonl; name such a file")
    data = read_file(path, MAX_TEXT_BYTES)
    try:
        # Not splitlines: a text may hold other signs that end lines.
        lines = re.split(r"\r\n|\n|\r", data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise PrefixInterpError(f"text={str(path)!r} is not UTF-8 text; save it as that") from None
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    texts = [line if kind == ".txt" else _text_of(path, i, line) for i, line in numbered]
    if not texts:
        raise PrefixInterpError(f"text={str(path)!r} holds no text; give at least one line")
    return texts


def _text_of(path: Path, number: int, line: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    found = found.get("text") if isinstance(found, dict) else found
    if not isinstance(found, str) or not found.strip():
        raise PrefixInterpError(
            f'text={str(path)!r} holds no text in line {number}; write {{"text": "..."}}'
        )
    return found
