"""The API reference from the list of public names, so that no name can be missing.

``{public-names} attribution`` documents what `prefix_interp/__init__.pyi` takes from that folder;
``{public-names} errors`` does so for a module beside the folders.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import prefix_interp

STUB = Path(prefix_interp.__file__).parent / "__init__.pyi"


def public_names() -> dict[str, list[str]]:
    """Return the public names by the folder, or the module beside the folders, that holds them."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names]
            found.setdefault(node.module.partition(".")[0], []).extend(names)
    return found


class PublicNames(SphinxDirective):
    """One entry for each public name of the folders that are given."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the entries, made by autodoc."""
        self.env.note_dependency(STUB)
        lines = ["````{eval-rst}"]
        for folder in self.arguments[0].split():
            for name in public_names()[folder]:
                kind = "class" if inspect.isclass(getattr(prefix_interp, name)) else "function"
                lines += [f".. auto{kind}:: prefix_interp.{name}", ""]
        parent = nodes.container()
        where = f"{STUB.name}: {self.arguments[0]}"
        self.state.nested_parse(StringList([*lines, "````"], where), self.content_offset, parent)
        return parent.children


def find_elsewhere(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Lead a name to the place where it is documented: annotations tell where it is defined."""
    target = node.get("reftarget", "")
    name = target.rpartition(".")[2]
    if node.get("refdomain") != "py" or not target:
        return None
    if target.startswith("prefix_interp.") or "." not in target:
        for names in public_names().values():
            if name in names and target != (full := f"prefix_interp.{name}"):
                python = env.get_domain("py")
                return python.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", full, node, contnode
                )
    return contnode if is_outside(target) else None


def is_outside(target: str) -> bool:
    """Tell whether a name is of another library, or not public: it has no page here."""
    return not target.startswith("prefix_interp.") or target.count(".") > 1


def escape_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep a star in an axis string, as in ``"*axes batch"``, from starting italics."""
    for i, line in enumerate(lines):
        if line.startswith(":vartype "):
            lines[i] = line.replace("*", r"\*")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive, and the way from a definition to its page."""
    app.add_directive("public-names", PublicNames)
    app.connect("missing-reference", find_elsewhere)
    app.connect("autodoc-process-docstring", escape_types, priority=900)  # after napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
