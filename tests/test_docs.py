"""The site: code on its pages runs and says what they say, and its links lead somewhere."""

import json
import os
import re
import shutil
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


def test_external_pictures_and_scripts_are_not_asked_for_in_sources():
    for page in DOCS.rglob("*.md"):
        if "_build" not in page.parts:
            assert not re.search(r"!\[[^\]]*\]\(https?:", page.read_text(encoding="utf-8")), page


class Links(HTMLParser):
    """The targets of a page's links, the files it loads, and the anchors it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag != "a":
            self.loads += [found[key] for key in ("href", "src") if found.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, with the outputs that the notebooks have; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    python("-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html",
           "-d", folder / "doctrees", DOCS, folder / "html")  # fmt: skip
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {p: Links(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_links_inside_the_site_lead_somewhere(pages):
    broken, outside = [], set()
    for page, found in pages.items():
        for target in found.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                outside.add(target)
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchors = pages[file].anchors if file in pages else set()
            missing = parts.fragment and unquote(parts.fragment) not in anchors
            if missing or not file.exists():
                broken.append((page.name, target))
    assert not broken
    assert len(pages) > 40
    # Listed, not visited: there may be no network.
    print("\n".join(sorted(outside)))  # noqa: T201
    assert all(target.startswith("https://") for target in outside), outside


@pytest.mark.slow
def test_a_page_loads_nothing_from_elsewhere(pages):
    loads = {target for found in pages.values() for target in found.loads}
    assert loads and not [target for target in loads if re.match(r"(https?:)?//", target)]


@pytest.mark.slow
def test_every_public_name_has_its_entry_and_formulas_are_mathml(site, pages):
    anchors = set().union(*(found.anchors for found in pages.values()))
    assert {f"prefix_interp.{name}" for name in NAMES} <= anchors
    theory = (site / "theory.html").read_text(encoding="utf-8")
    assert theory.count("<math") > 20 and "$" not in theory


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_site_in_a_browser_asks_nobody_and_finds_what_is_searched(site, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(offline=True, color_scheme=scheme,
                                      viewport={"width": 390, "height": 800})  # fmt: skip
        page, asked, wrong = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
        page.goto((site / "search.html").as_uri() + "?q=covers+slots")
        page.wait_for_selector("#search-results li a")
        hits = page.locator("#search-results li a").all_inner_texts()
        assert "have no summaries" in page.locator("#search-note").inner_text()
        browser.close()
    assert any("mask" in hit for hit in hits), hits
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    assert not wrong
