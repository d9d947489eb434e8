"""A page in a browser without a network: nothing may be asked for, and no script may fail."""

from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
needs_browser = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing"
)
OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.open = true; })"


@contextmanager
def opened(file, scripts=True, width=1280, dark=False):
    """Open an HTML file; on leaving, nothing else was asked for and no error was told."""
    sync_api = pytest.importorskip("playwright.sync_api")
    requests, errors = [], []
    uri = file.as_uri()
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


def violations(page):
    """What axe-core finds, with the first places of each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [(v["id"], [n["target"] for n in v["nodes"]][:5]) for v in found]
