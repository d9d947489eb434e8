"""The report in a browser: nothing is asked for, all is drawn, read, reached and printed."""

import re

import pytest

from tests.browser import OPEN_ALL, needs_browser, opened, violations

pytestmark = needs_browser


@pytest.fixture
def file(report):
    """The page of the report."""
    return report.folder / "report.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_and_nothing_is_wider_than_the_screen(file, width):
    with opened(file, width=width) as page:
        widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        assert len(widths) > 30 and min(widths) > 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(OPEN_ALL)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        side, drop = page.locator(".side"), page.locator(".drop")
        assert (side.is_visible(), drop.is_visible()) == (width > 1000, width < 1000)


def test_the_cards_are_on_the_first_screen(file):
    with opened(file) as page:
        for i in range(4):
            box = page.locator(".card").nth(i).bounding_box()
            assert box["y"] + box["height"] < 900


def test_without_scripts_every_picture_is_there(file):
    with opened(file, scripts=False) as page:
        shown = page.locator("figure img:visible")
        assert shown.count() >= 20
        assert page.locator("#explorer .still img").is_visible()
        assert not page.locator("[data-explorer]").is_visible()


def test_the_explorer_shows_what_is_chosen_and_is_moved_by_keys(file):
    with opened(file) as page:
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
def test_axe_finds_nothing(file, width, dark, folded):
    with opened(file, width=width, dark=dark) as page:
        if not folded:
            page.evaluate(OPEN_ALL)
        assert violations(page) == []


def test_it_prints_on_fifteen_pages_with_nothing_cut_off(file, tmp_path):
    with opened(file) as page:
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
