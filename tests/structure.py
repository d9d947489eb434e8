"""What the sources say, read without running them: files, imports, strings."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "prefix_interp"
ANALYSES = ROOT / "analyses"


def files(folder):
    return sorted(folder.rglob("*.py"))


def module_name(file):
    """The dotted name of a source file; a folder's for its __init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Import:
    """One imported name: `module` is ``a.b`` in ``from a.b import c`` and in ``import a.b``."""

    module: str
    name: str | None
    when_loaded: bool  # False inside functions and behind TYPE_CHECKING


def imports(file):
    """Every import of a file, also by name: find_spec("x"), import_module("x"), files("x")."""
    return list(_imports(tree(file), True))


def _imports(node, when_loaded):
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, None, when_loaded) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (Import(node.module, alias.name, when_loaded) for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in {"find_spec", "import_module", "files"}:
        if node.args and isinstance(node.args[0], ast.Constant):
            yield Import(node.args[0].value, None, False)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        when_loaded = False
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        when_loaded = False
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, when_loaded)


def _called(node):
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def strings(file):
    """Every piece of text in a file's code, docstrings aside."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
    return [
        node.value
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]
