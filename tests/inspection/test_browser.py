"""The page in a browser: nothing is asked for, all is drawn, read, reached and moved by keys."""

import re

import pytest

import prefix_interp as pi
from prefix_interp.inspection.run import inspect
from tests.browser import OPEN_ALL, needs_browser, opened, violations
from tests.inspection.tiny import TEXTS, tiny

pytestmark = needs_browser


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of a two-layer model on three texts."""
    file = tmp_path_factory.mktemp("page") / "page.html"
    model, prefix = tiny()
    inspect(model, prefix, TEXTS, file, progress=False)
    return file


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(file, width, dark):
    with opened(file, width=width, dark=dark) as page:
        for _ in ("closed", "open"):
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.evaluate(OPEN_ALL)
        widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        assert len(widths) == 8 and min(widths) > 0


def test_a_toy_without_words_is_as_clean(tmp_path):
    model = pi.load_toy("sort-ascending-1l1h")
    prefix = pi.load_prefixes("sort-ascending-1l1h")["sort_descending-kv-10"]
    file = tmp_path / "page.html"
    inspect(model, prefix, "sort_descending", file, n=8, progress=False)
    with opened(file, width=390) as page:
        page.evaluate(OPEN_ALL)
        assert violations(page) == []


def test_without_scripts_every_picture_is_there(file):
    with opened(file, scripts=False) as page:
        assert page.locator("#explorer .still img").is_visible()
        assert not page.locator(".pi-live").is_visible()
        assert page.locator("figure img:visible").count() == 8


def test_paper_gets_the_still_picture(file):
    with opened(file) as page:
        page.emulate_media(media="print")
        assert page.locator("#explorer .still img").is_visible()
        assert not page.locator(".pi-live").is_visible()


def test_the_explorer_is_moved_by_keys_alone(file):
    with opened(file) as page:
        box = page.locator(".pi-explorer")
        assert box.get_attribute("data-drawn") == "yes"
        # One stop for Tab in the whole grid; arrows move, Enter opens.
        assert box.locator("td[tabindex='0']").count() == 1
        start = box.locator("td[tabindex='0']").get_attribute("aria-label")
        layer, head = map(int, re.search(r"head (\d)\.(\d)", start).groups())
        box.locator("td[tabindex='0']").focus()
        page.keyboard.press("Home")
        for _ in range(2):
            page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowRight")
        on = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert on.startswith("head 0.1, gate 0.")
        assert box.locator(".pi-title").inner_text() == f"Layer {layer}, head {head}"
        page.keyboard.press("Enter")
        assert box.locator(".pi-title").inner_text() == "Layer 0, head 1"
        assert box.locator("[aria-selected=true]").count() == 1
        assert box.locator("td[tabindex='0']").count() == 1


def test_the_colours_are_gate_bias_or_effect(file):
    with opened(file) as page:
        box, labels = page.locator(".pi-explorer"), set()
        for name in ("gate", "bias", "effect"):
            box.get_by_label(name, exact=True).check()
            cell = box.locator("td[role=gridcell]").first
            labels.add(cell.get_attribute("aria-label"))
            assert name in cell.get_attribute("aria-label")
        assert len(labels) == 3


def test_the_slider_fades_the_prefix_at_the_head_that_is_open(file):
    with opened(file) as page:
        box = page.locator(".pi-explorer")
        pad, told = box.locator(".pi-pad"), box.locator("output")

        def mass():
            return float(re.search(r"The prefix takes (\d\.\d+)", told.inner_text()).group(1))

        before, content = mass(), told.inner_text().split(":")[1].split("of what")[0]
        said = box.locator(".pi-deep p[aria-live]").inner_text()
        slider = box.locator("input[type=range]")
        slider.focus()
        assert slider.get_attribute("aria-valuetext") == "100 %"
        page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == "75 %" and 0 < mass() < before
        page.keyboard.press("Home")
        assert slider.get_attribute("aria-valuetext") == "0 %" and mass() == 0
        # Attention within the content stays; the answers' chances do not.
        assert told.inner_text().split(":")[1].split("of what")[0] == content
        assert box.locator(".pi-deep p[aria-live]").inner_text() != said
        pad.focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert "to slot P2 " in told.inner_text()


def test_the_explorer_stands_alone_in_a_notebook(tmp_path):
    model, prefix = tiny()
    found = inspect(model, prefix, TEXTS, out=None, progress=False)
    file = tmp_path / "cell.html"
    both = found._repr_html_() + found.explorer()._repr_html_()
    page = f"<!doctype html><html lang=en><title>x</title><main><h1>x</h1>{both}</main></html>"
    file.write_text(page, encoding="utf-8")
    with opened(file) as page:
        assert page.locator(".pi-explorer[data-drawn=yes]").count() == 2
        assert page.locator(".pi-live:visible").count() == 2
        names = page.evaluate(
            "new Set([...document.querySelectorAll('[type=radio]')].map(x => x.name)).size"
        )
        assert names == 2
