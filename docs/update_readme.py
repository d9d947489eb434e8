"""Rewrite what is made by code in the README and the findings: `make readme`.

Outputs of the README's examples, its table of claims and its picture; the tables of the findings.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from analyses import registry
from analyses.report.evidence import Evidence
from docs.claims_table import claims_table
from docs.picture import PICTURE, draw
from prefix_interp.errors import PrefixInterpError

ROOT = Path(__file__).parent.parent
README, FINDINGS = ROOT / "README.md", ROOT / "docs" / "findings.md"
# An example and the output that follows it, perhaps behind a line of words.
EXAMPLE = re.compile(r"```python\n(.*?)```(\n[^`]*)```text\n.*?```", re.S)


def printed(code: str) -> str:
    """Return what the example prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue()


def with_output(text: str) -> str:
    """Return the README with the present output of its examples.

    Raises:
        PrefixInterpError: there is no example with an output block behind it.
    """
    if not EXAMPLE.search(text):
        raise PrefixInterpError("text has no example (```python) with its output (```text) behind")
    return EXAMPLE.sub(
        lambda m: f"```python\n{m[1]}```{m[2]}```text\n{printed(m[1]).rstrip()}\n```", text
    )


def with_block(text: str, name: str, block: str, owner: str) -> str:
    """Return the text with `block` between ``<!-- NAME -->`` and ``<!-- end NAME -->``.

    Args:
        text: the README or the findings.
        name: of the block.
        block: Markdown.
        owner: what makes it, for the message.

    Raises:
        PrefixInterpError: there is no such block in the text.
    """
    pattern = f"<!-- {name} -->.*?<!-- end {name} -->"
    whole = f"<!-- {name} -->\n{block}\n<!-- end {name} -->"
    text, found = re.subn(pattern, lambda _: whole, text, flags=re.S)
    if not found:
        raise PrefixInterpError(
            f"text has no block {name!r} of {owner}; put the lines '<!-- {name} -->' and "
            f"'<!-- end {name} -->' where it should stand"
        )
    return text


def with_blocks(text: str, evidence: Evidence) -> str:
    """Return the findings with the present blocks of all studies (`Study.findings`).

    Args:
        text: the findings.
        evidence: results.

    Raises:
        PrefixInterpError: a block is missing in the text.
    """
    for study in registry.STUDIES:
        for name, make in study.findings.items():
            text = with_block(text, name, make(evidence), f"the study {study.name}")
    return text


def with_claims(text: str, evidence: Evidence) -> str:
    """Return the README with its present table of claims."""
    return with_block(text, "claims", claims_table(evidence), "docs/claims_table.py")


def main() -> None:
    """Replace all blocks in place, and draw the picture."""
    evidence = registry.evidence_of()
    text = with_output(README.read_text(encoding="utf-8"))
    README.write_text(with_claims(text, evidence), encoding="utf-8")
    FINDINGS.write_text(with_blocks(FINDINGS.read_text(encoding="utf-8"), evidence), "utf-8")
    PICTURE.parent.mkdir(exist_ok=True)
    draw().savefig(PICTURE, dpi=130, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
