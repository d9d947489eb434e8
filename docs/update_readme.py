"""Rewrite the README's output block and its tables: `make readme`."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from analyses import registry
from analyses.report.evidence import Evidence
from prefix_interp.errors import PrefixInterpError

README = Path(__file__).parent.parent / "README.md"


def printed(code: str) -> str:
    """Return what the example prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue()


def with_output(text: str) -> str:
    """Return the README with the present output of its example.

    Raises:
        PrefixInterpError: the example or its output block is missing.
    """
    code = re.search(r"```python\n(.*?)```", text, re.S)
    if code is None or "```text" not in text:
        raise PrefixInterpError("text has no example (```python) or no output (```text) behind it")
    output = "```text\n" + printed(code[1]).rstrip() + "\n```"
    return re.sub(r"```text\n.*?```", lambda _: output, text, flags=re.S)


def with_blocks(text: str, evidence: Evidence) -> str:
    """Return the README with the present blocks of all studies (`Study.readme`).

    A block stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``.

    Args:
        text: the README.
        evidence: results.

    Raises:
        PrefixInterpError: a block is missing in the text.
    """
    for study in registry.STUDIES:
        for name, make in study.readme.items():
            block = f"<!-- {name} -->\n{make(evidence)}\n<!-- end {name} -->"
            pattern = f"<!-- {name} -->.*?<!-- end {name} -->"
            text, found = re.subn(pattern, lambda _, block=block: block, text, flags=re.S)
            if not found:
                raise PrefixInterpError(
                    f"text has no block {name!r} of the study {study.name}; put the lines "
                    f"'<!-- {name} -->' and '<!-- end {name} -->' where it should stand"
                )
    return text


def main() -> None:
    """Replace all blocks in place."""
    text = with_output(README.read_text(encoding="utf-8"))
    README.write_text(with_blocks(text, registry.evidence_of()), encoding="utf-8")


if __name__ == "__main__":
    main()
