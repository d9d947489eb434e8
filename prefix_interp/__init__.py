"""Mechanistic interpretability of context tuning.

The public names are listed in ``__init__.pyi``; each is imported when it is first asked for, so
that ``import prefix_interp`` itself loads neither torch nor a plotting library.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version

from lazy_loader import attach_stub as _attach_stub

_public, __dir__, __all__ = _attach_stub(__name__, __file__)
_FOLDERS = ("attribution", "models", "prefixes", "tasks", "theory", "tuning", "views")

__version__ = _version("prefix-interp")


def __getattr__(name: str) -> object:
    if name in _FOLDERS:
        return _import_module(f"{__name__}.{name}")
    return _public(name)
