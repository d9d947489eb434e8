"""How Sphinx builds the site: `make docs`. Nothing is fetched, when it is built or when read."""

from __future__ import annotations

import builtins
import json
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# jaxtyping then prints types as they are written.
setattr(builtins, "GENERATING_DOCUMENTATION", True)  # noqa: B010

project = "prefix_interp"
author = "The prefix_interp authors"
copyright = author
version = release = installed("prefix-interp")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "_ext.mathml", "_ext.surface"]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]
suppress_warnings = ["config.cache"]

# Pages
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
default_role = "code"  # docstrings write `name` as Markdown does

# The API, from docstrings
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
nitpicky = True

# The tutorials, with the outputs that `make notebooks` stored in them.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}

# The look
html_theme = "furo"
html_title = "prefix_interp"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
# Summaries are fetched, which browsers refuse to pages that were opened from a folder; the page
# of the search says so (_templates/search.html).
html_show_search_summary = False
html_theme_options = {"navigation_with_keys": True}


KERNEL = {"name": "python3", "language": "python", "display_name": "Python 3"}


def setup(app: object) -> None:
    """Bring the notebooks in: Sphinx reads only what lies in its own folder."""
    folder = HERE / "tutorials"
    for copy in folder.glob("*.ipynb"):
        if not (HERE.parent / "notebooks" / copy.name).exists():
            copy.unlink()
    for notebook in (HERE.parent / "notebooks").glob("*.ipynb"):
        book = json.loads(notebook.read_text(encoding="utf-8"))
        book["metadata"].setdefault("kernelspec", KERNEL)
        text, copy = json.dumps(book), folder / notebook.name
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")
