"""The site: code on its pages runs and says what they say, and its links lead somewhere."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.page_code import blocks_of
from tests.structure import ROOT
from tests.test_surface import NAMES

DOCS = ROOT / "docs"
ERRORS = sorted(DOCS / "errors" / path.name for path in (DOCS / "errors").glob("[!i]*.md"))
HOW_TO = sorted(path for path in (DOCS / "howto").glob("*.md") if path.stem != "index")


def python(*arguments):
    """What a new interpreter prints, without warnings."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)], cwd=ROOT, capture_output=True,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def said():
    """What each block of each page says."""
    return json.loads(python("-m", "tests.page_code", *ERRORS, *HOW_TO).splitlines()[-1])


def matches(text, shown):
    """Whether a page shows this text; … stands for anything on one line."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("…"))
    return text is not None and re.fullmatch(pattern, text) is not None


@pytest.mark.slow
@pytest.mark.parametrize("page", ERRORS, ids=lambda path: path.stem)
def test_an_error_page_quotes_what_the_library_says(page, said):
    blocks = blocks_of(page)
    assert blocks[0][1] and any(not shown for _, shown in blocks), "an error, and a remedy"
    for (_, shown), (_, error) in zip(blocks, said[str(page)], strict=True):
        assert matches(error, shown) if shown else error is None, error


@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TO, ids=lambda path: path.stem)
def test_code_of_a_how_to_page_prints_what_the_page_says(page, said):
    blocks = blocks_of(page)
    assert any(shown for _, shown in blocks)
    for (_, shown), (printed, error) in zip(blocks, said[str(page)], strict=True):
        assert error is None and (not shown or matches(printed, shown)), error or printed


def test_matching_is_strict_but_for_dots():
    assert matches("a='1f' is b", "a='…' is b\n") and matches("(a)", "(a)")
    assert not matches("a='1f' is c", "a='…' is b") and not matches("ab\nc", "a…c")


@pytest.mark.parametrize("page", ERRORS, ids=lambda path: path.stem)
def test_an_error_page_has_its_three_parts_and_a_place(page):
    parts = re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.M)
    assert parts == ["Symptom", "Cause", "Remedy"]
    index = (DOCS / "errors" / "index.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^{page.stem}$", index, re.M)) == 1
