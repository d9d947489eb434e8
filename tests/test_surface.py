"""The public names: complete, documented with an example, and without weight until used."""

import ast
import os
import pickle
import subprocess
import sys
import time

import pytest

import prefix_interp as pi
from tests.structure import PACKAGE, ROOT

STUB = ast.parse((PACKAGE / "__init__.pyi").read_text())
IMPORTS = [node for node in STUB.body if isinstance(node, ast.ImportFrom)]
NAMES = {alias.name: node.module for node in IMPORTS for alias in node.names}


def fresh(code, **environment):
    """What a new interpreter prints that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | environment,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_stub_lists_at_most_45_names_and_nothing_else_is_public():
    assert len(NAMES) <= 45
    assert sorted(NAMES) == dir(pi) == sorted(pi.__all__)
    for node in IMPORTS:
        assert node.level == 1, f"{node.module}: a stub's imports are relative"
        assert all(alias.asname == alias.name for alias in node.names), node.module


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_shows_an_example(name):
    thing = getattr(pi, name)
    assert thing is getattr(sys.modules[f"prefix_interp.{NAMES[name]}"], name)
    if getattr(thing, "__module__", "").startswith("prefix_interp"):
        assert thing.__module__ == f"prefix_interp.{NAMES[name]}", "import it where it is defined"
    assert ">>> " in (thing.__doc__ or ""), f"{name} has no example in its docstring"


def test_pickle_finds_classes_and_functions():
    for thing in (pi.ToyConfig(n_layers=2), pi.Site.Z, pi.attach, pi.Prefix):
        assert pickle.loads(pickle.dumps(thing)) == thing


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="prefx"):
        pi.prefx  # noqa: B018
    assert not hasattr(pi, "__wrapped__")
    with pytest.raises(ImportError, match="prefx"):
        exec("from prefix_interp import prefx")


def test_folders_are_attributes_too():
    code = "import prefix_interp as pi; print(pi.tasks.__name__, pi.views.__path__ is not None)"
    assert fresh(code) == "prefix_interp.tasks True"
    assert not callable(pi.tasks)


def test_importing_loads_nothing_heavy():
    heavy = {"torch", "numpy", "pandas", "transformer_lens", "transformers", "jaxtyping"}
    heavy |= {"matplotlib", "circuitsvis", "IPython", "jinja2", "joblib", "tqdm"}
    loaded = fresh(
        "import sys, prefix_interp, prefix_interp.cli\n"
        f"print(sorted({heavy} & set(sys.modules)), len(sys.modules))"
    )
    assert loaded.startswith("[] "), loaded


def test_using_the_library_loads_no_plotting_library():
    heavy = {"matplotlib", "circuitsvis", "IPython", "plotly"}
    assert fresh(
        "import sys, prefix_interp as pi\n"
        "[getattr(pi, name) for name in dir(pi)]\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    ) == "[]"  # fmt: skip


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(3):  # the best of three: other processes may be at work
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "prefix_interp.cli", "--help"], capture_output=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
