import re
import subprocess
import sys
from pathlib import Path

import prefix_interp as pi

PACKAGE = Path(pi.__file__).parent


def test_importing_loads_no_plotting_library():
    code = "import sys, prefix_interp; print([m for m in sys.modules if m in {!r}])"
    code = code.format({"matplotlib", "circuitsvis", "IPython", "plotly"})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_documented():
    for name in (n for n in vars(pi) if not n.startswith("_") and n[0].islower()):
        thing = getattr(pi, name)
        if callable(thing):
            assert thing.__doc__ and thing.__doc__.strip().endswith("."), name


def test_hook_names_are_spelled_in_sites_alone():
    for file in PACKAGE.rglob("*.py"):
        if file.name != "sites.py":
            strings = re.findall(r"""["'][^"'\n]*hook_[a-z_]+["']""", file.read_text())
            assert not [s for s in strings if "blocks." in s or s[1:-1].startswith("hook_")], file


def test_arrows_run_one_way():
    order = [
        "models", "tasks", "prefixes", "tuning", "theory", "attribution", "views", "experiments",
    ]  # fmt: skip
    allowed = {
        "models": set(),
        "tasks": set(),
        "prefixes": {"models"},
        "tuning": {"models", "tasks", "prefixes"},
        "theory": {"models", "prefixes"},
        "attribution": {"models", "tasks", "prefixes", "theory"},
        "experiments": {"models", "tasks", "prefixes", "tuning", "theory", "attribution"},
        "views": {
            "models",
            "tasks",
            "prefixes",
            "tuning",
            "theory",
            "attribution",
            "experiments",
        },
    }
    assert {p.parent.name for p in PACKAGE.glob("*/__init__.py")} == set(order)
    for package in order:
        for file in (PACKAGE / package).rglob("*.py"):
            used = set(re.findall(r"from prefix_interp\.([a-z0-9_]+)", file.read_text()))
            assert (used & set(order)) - {package} <= allowed[package], file
