"""Run the code on pages of the site as a reader would: `python -m tests.page_code PAGE.md ...`.

Another process than pytest's, because there types of arguments are checked, and a reader's are not.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import prefix_interp as pi

# A block of Python, and what it says if a block of text follows at once.
BLOCKS = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.S | re.M)


def blocks_of(page):
    """The blocks of a page: code, and the text behind it or ""."""
    return BLOCKS.findall(page.read_text(encoding="utf-8"))


def run(code, given):
    """What the code prints, and the message of the library that it ends in, if there is one."""
    out, error = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(code, "page", "exec"), given)
        except pi.PrefixInterpError as caught:
            error = str(caught)
    return out.getvalue().strip(), error


def run_page(page):
    """What each block says; all blocks of a page share their names, and an empty folder."""
    given = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = [run(code, given) for code, _ in blocks_of(page)]
        os.chdir(page.parent)
    return found


if __name__ == "__main__":
    found = {name: run_page(Path(name)) for name in map(os.path.abspath, sys.argv[1:])}
    print(json.dumps(found))
