"""The report in a browser: nothing is asked for, all is drawn, read, reached and printed."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing")

_OPEN = "document.querySelectorAll('details').forEach(d => { d.open = true; })"


@contextmanager
def opened(report, scripts=True, width=1280, dark=False):
    """Open the page without a network; nothing may be asked for, and no script may fail."""
    sync_api = pytest.importorskip("playwright.sync_api")
    requests, errors = [], []
    uri = (report.folder / "report.html").as_uri()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(
            offline=True, java_script_enabled=scripts, viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
        )  # fmt: skip
        page = context.new_page()
        page.on("request", lambda r: requests.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(uri)
        yield page
        browser.close()
    assert [url for url in requests if not url.startswith("data:")] == [uri]
    assert errors == []


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_and_nothing_is_wider_than_the_screen(report, width):
    with opened(report, width=width) as page:
        widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        assert len(widths) > 30 and min(widths) > 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(_OPEN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        side, drop = page.locator(".side"), page.locator(".drop")
        assert (side.is_visible(), drop.is_visible()) == (width > 1000, width < 1000)


def test_the_cards_are_on_the_first_screen(report):
    with opened(report) as page:
        for i in range(4):
            box = page.locator(".card").nth(i).bounding_box()
            assert box["y"] + box["height"] < 900


def test_without_scripts_every_picture_is_there(report):
    with opened(report, scripts=False) as page:
        shown = page.locator("figure img:visible")
        assert shown.count() >= 20
        assert page.locator("#explorer .still img").is_visible()
        assert not page.locator("[data-explorer]").is_visible()


def test_the_explorer_shows_what_is_chosen_and_is_moved_by_keys(report):
    with opened(report) as page:
        box = page.locator("[data-explorer=yes]")
        assert box.is_visible() and not page.locator("#explorer .still img").is_visible()
        said = box.locator("output")
        values = re.findall(r"\d\.\d{3}", said.inner_text())
        assert len(values) == 3 and values[0] == values[1]  # equation 6
        panel = box.locator("[role=group]").nth(1)
        panel.focus()
        page.keyboard.press("ArrowRight")
        assert "to content 1 " in said.inner_text()
        page.keyboard.press("ArrowUp")
        assert said.inner_text().startswith("Query 8 ")
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        assert "to slot P1 " in said.inner_text()
        # No row is empty: as many as content positions, and only keys that may be attended to.
        rows = """() => new Set([...document.querySelectorAll(
            '[data-explorer] .panel:first-child .cell')].map(c => c.dataset.q)).size"""
        n = page.evaluate(rows)
        cells = box.locator(".panel").first.locator(".cell").count()
        assert cells == n * (n + 1) // 2
        box.locator("#explorer-model").select_option("sorting, one head")
        box.locator("#explorer-prefix").select_option(label="no prefix, fine-tuned weights")
        values = re.findall(r"\d\.\d{3}", said.inner_text())
        assert len(values) == 2 and values[0] != values[1]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("folded", [True, False], ids=["closed", "open"])
def test_axe_finds_nothing(report, width, dark, folded):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(report, width=width, dark=dark) as page:
        if not folded:
            page.evaluate(_OPEN)
        found = axe.Axe().run(page).response["violations"]
        told = [(v["id"], [n["target"] for n in v["nodes"]][:5]) for v in found]
        assert told == []


def test_it_prints_on_fifteen_pages_with_nothing_cut_off(report, tmp_path):
    with opened(report) as page:
        page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
        pages = re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "report.pdf").read_bytes())
        assert 5 < len(pages) <= 15
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 688, "height": 1000})  # A4 less its margins
        assert page.evaluate("document.documentElement.scrollWidth") <= 688
        wide = """() => [...document.querySelectorAll('main *')].filter(e =>
            e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > 690).length"""
        assert page.evaluate(wide) == 0
        assert page.locator("#explorer .still img").is_visible()
        assert not page.locator("details").first.is_visible()
