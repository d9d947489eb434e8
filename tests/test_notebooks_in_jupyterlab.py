"""Notebooks in a live JupyterLab: opened in a browser without a network, run, and looked at.

Two are run from top to bottom: one with attention drawn by circuitsvis, and one with drawings in
SVG. The others are opened as they are stored; `test_notebooks.py` runs them.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from notebooks.make import sources
from tests.structure import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TOKEN = "for-this-test-alone"
RUN = ("01", "05")
NAMES = [source.stem for source in sources()]
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {
        "windowingMode": "none",
        "autoStartDefaultKernel": True,
    },
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
# Whether all cells have run, as the notebook's model says.
STATE = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = Array.from(panel.content.widgets).map((cell) => cell.model.sharedModel);
  const code = cells.filter((cell) => cell.cell_type === "code");
  const kernel = panel.sessionContext.session && panel.sessionContext.session.kernel;
  return { ran: code.every((cell) => cell.execution_count !== null), n: code.length,
           idle: Boolean(kernel) && kernel.status === "idle" };
}"""
SHOWN = """() => {
  const area = window.jupyterapp.shell.currentWidget.content.node;
  const all = (what) => Array.from(area.querySelectorAll(".jp-OutputArea-output " + what));
  const visible = (image) => image.offsetParent !== null;
  return {
    images: all("img").length,
    broken: all("img").filter((x) => visible(x) && !(x.complete && x.naturalWidth > 20)).length,
    attention: all(".pi-attention").length,
    drawn: all(".pi-attention[data-drawn=yes] canvas").length,
    errors: ["error", "stderr"].map((kind) => area.querySelectorAll(
      `[data-mime-type='application/vnd.jupyter.${kind}']`).length).reduce((a, b) => a + b),
  };
}"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks, which ends with the tests."""
    if find_spec("jupyterlab") is None:
        pytest.skip("no JupyterLab")
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "work" / "notebooks")
    shutil.copytree(ROOT / "results", home / "work" / "results")
    for name, values in SETTINGS.items():
        package, _, plugin = name.partition(":")
        file = home / "settings" / package / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    port = free_port()
    options = [
        "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={home / 'work'}", "--ServerApp.allow_root=True",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=",
    ]  # fmt: skip
    log = home / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=env, stdout=out, stderr=out
        )
        try:
            base = f"http://127.0.0.1:{port}"
            wait_for(process, f"{base}/api/status?token={TOKEN}", log)
            yield base
        finally:
            process.terminate()  # the server ends its kernels
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(process, address, log):
    """Return when the server answers."""
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def expected(name):
    """How many outputs of a stored notebook are pictures: JupyterLab shows each in an <img>."""
    book = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    data = [o.get("data", {}) for c in book["cells"] for o in c.get("outputs", [])]
    pictures = {"image/png", "image/svg+xml"}
    return sum(bool(pictures & set(d)) or "<img" in "".join(d.get("text/html", "")) for d in data)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_drawn_and_no_error_shown(name, server, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{server}/lab/tree/notebooks/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
    run = name.startswith(RUN)
    if run:
        page.wait_for_function(f"() => ({STATE})().idle", timeout=90_000)
        page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        assert not page.evaluate(f"({STATE})().ran")
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(
            f"() => {{ const s = ({STATE})(); return s.idle && s.ran; }}", timeout=240_000
        )
    page.wait_for_timeout(1500)  # outputs are drawn after the kernel is done
    shown = page.evaluate(SHOWN)
    if folder := os.environ.get("LAB_PICTURES"):  # to be looked at
        height = page.evaluate("document.querySelector('.jp-NotebookPanel-notebook').scrollHeight")
        page.set_viewport_size({"width": 1280, "height": int(min(height + 200, 9000))})
        page.wait_for_timeout(800)
        page.screenshot(path=Path(folder) / f"{name}.png")
    page.close()
    assert shown["images"] >= expected(name) > 0, shown
    assert shown["broken"] == shown["errors"] == 0, shown
    if run and shown["attention"]:
        assert shown["drawn"] >= shown["attention"], shown
    assert not wrong
    assert not [x for x in asked if not x.startswith((server, "data:", "blob:", "ws://127.0.0.1"))]
