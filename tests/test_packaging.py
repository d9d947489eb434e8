"""Dependencies declared are dependencies imported, and the versions agree."""

import re
from importlib.metadata import packages_distributions

import pytest

from tests.structure import ANALYSES, PACKAGE, ROOT, files, imports

tomllib = pytest.importorskip("tomllib")  # Python 3.11
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    """The normalised names of requirements such as "Jinja2>=3.1"."""
    found = (re.match(r"[\w.-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_what_is_imported_is_declared_and_the_other_way_round():
    import sys

    tops = {
        found.module.partition(".")[0]
        for folder in (PACKAGE, ANALYSES)
        for file in files(folder)
        for found in imports(file)
    }
    tops -= set(sys.stdlib_module_names) | {"prefix_interp", "analyses"}
    distributions = packages_distributions()
    imported = names(distributions.get(top, [top])[0] for top in tops)  # extras may be missing
    extras = PROJECT["optional-dependencies"]
    optional = names([x for name in ("peft", "lm") for x in extras.get(name, [])])
    assert imported - optional == names(PROJECT["dependencies"])


def test_every_dependency_has_its_exact_version_in_the_constraints():
    pinned = names((ROOT / "constraints.txt").read_text().splitlines())
    extras = PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"] + extras["dev"] + extras["docs"]) <= pinned


def test_the_version_is_the_same_everywhere():
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation and newest
    assert PROJECT["version"] == citation[1] == newest[1]
