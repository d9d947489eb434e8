"""The finished work that a study keeps, and the key that decides whether it may be reused.

The work of one seed has its own folder, named by its key:
``<work>/<study>-<preset>/seed-N/ <digest of the key>``. A different key means a different folder,
so older and newer work never mix, and going back to an earlier key finds its work again.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.util import find_spec
from inspect import isfunction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.toy import read_toy, save_toy
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.records import Schema
from prefix_interp.results import package_versions, plain
from prefix_interp.storage import ANY_NUMBER, read_json, read_tensors, write_json, write_tensors
from prefix_interp.tuning.recipes import PRESETS, preset_settings
from prefix_interp.tuning.train import ModelFit

_PACKAGES = ("prefix_interp", "analyses")
# Code that shows results, and the list of all studies: neither changes a measurement.
_ASIDE = ("prefix_interp.views", "analyses.report", "analyses.registry")
_ROWS = {1: Schema(1, {"rows": list[dict[str, Any]]})}
_CONTEXTS = {f"{kind.STEM}.json": kind for kind in (Prefix, SoftPrompt)}


class Kept:
    """The models and contexts that one seed of a study keeps, by name.

    No other code knows their paths.

    Args:
        folder: folder of the seed's work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Kept({str(self.folder)!r})"

    def save_toy(self, name: str, fit: ModelFit, **metadata: Any) -> Path:
        """Save a trained toy with its recipe; return its folder.

        Args:
            name: name of the toy, e.g. that in the zoo.
            fit: result of its training.
            metadata: further entries to save with the weights, e.g. ``task`` and ``seed``.
        """
        about = {**metadata, "recipe": fit.recipe.to_dict(), "versions": package_versions()}
        return save_toy(fit.model, self.toy_folder(name), about)

    def toy(self, name: str) -> Model:
        """Return a saved toy."""
        return read_toy(self.toy_folder(name))[0]

    def toys(self) -> dict[str, Model]:
        """Return all toys by name, in alphabetical order."""
        return {name: self.toy(name) for name in _names(self.folder / "toys")}

    def export_toy(self, name: str, target: Path) -> Path:
        """Copy a toy and the files beside it, e.g. into a zoo; return the folder."""
        model, metadata = read_toy(self.toy_folder(name))
        return save_toy(model, target, metadata)

    def toy_folder(self, name: str) -> Path:
        """Return the path of a toy (for `load_toy`)."""
        return self.folder / "toys" / name

    def save_context(self, group: str, name: str, context: Context) -> Path:
        """Save a prefix or soft prompt; return its folder.

        Args:
            group: group it belongs to, e.g. ``"starts"``.
            name: unique in its group.
            context: the tuned context.
        """
        return context.save(self._group(group) / name)

    def context(self, group: str, name: str) -> Context:
        """Return one context of a group.

        Raises:
            PrefixInterpError: there is no context of that name.
        """
        folder = self._group(group) / name
        for file, kind in _CONTEXTS.items():
            if (folder / file).exists():
                return kind.load(folder)
        check_choice("name", name, _names(self._group(group)))
        raise PrefixInterpError(f"path={str(folder)!r} holds neither a prefix nor a soft prompt")

    def contexts(self, group: str) -> dict[str, Any]:
        """Return all contexts of a group by name, in alphabetical order."""
        return {name: self.context(group, name) for name in _names(self._group(group))}

    def tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return a finished part of the work; it is made now unless it is already kept.

        Args:
            name: name of the part.
            make: does its work.
        """
        file = self.folder / "parts" / f"{name}.safetensors"
        if not file.exists():
            write_tensors(file, make(), {"format": 1})
        return read_tensors(file, {1: Schema(1, {})}, numbers=ANY_NUMBER)[0]

    def rows(self, name: str) -> list[dict[str, Any]] | None:
        """Return the rows of a part that was finished before; None if it was not."""
        file = self._rows_file(name)
        return read_json(file, _ROWS)["rows"] if file.exists() else None

    def save_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Save the rows of a finished part.

        Args:
            name: name of the part.
            rows: plain values; NaN becomes None, as in a result.
        """
        return write_json(self._rows_file(name), {"format": 1, "rows": plain(rows)}, compact=True)

    def _rows_file(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.json"

    def checksums(self) -> dict[str, str]:
        """Return the SHA-256 of every file of the kept models and contexts."""
        files = [f for top in ("toys", "contexts") for f in (self.folder / top).rglob("*.*")]
        return {
            str(file.relative_to(self.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(files)
            if file.is_file()
        }

    def _group(self, group: str) -> Path:
        return self.folder / "contexts" / group


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


def work_key(
    measure: Callable[..., Any],
    protocol: Any,
    preset: str,
    seed: int,
    *,
    device: str = "cpu",
    precision: str = "float32",
    needs: Mapping[str, Kept] | None = None,
    model: Model | None = None,
) -> dict[str, Any]:
    """Return everything that the outcome of one seed's work depends on, as plain JSON values.

    Only this function decides when kept work may be reused.

    Args:
        measure: does the work; all code that it can run is part of the key, except docstrings and
            comments.
        protocol: a dataclass of sizes.
        preset: name of the preset; its recipes are part of the key.
        seed: seed of the work.
        device: device of the models.
        precision: of the trainings.
        needs: models and contexts of other studies that the work uses.
        model: an external model that the work uses.
    """
    module = getattr(measure, "__module__", "__main__")  # of a script or notebook: not imported
    if not isfunction(measure) or module == "__main__" or _file(module) is None:
        raise PrefixInterpError(
            f"measure={measure!r} is not a function of a module on disk, so its code cannot be "
            "part of the key; put it into a file and import it, or keep nothing (work=None)"
        )
    key = {
        "measure": measure.__qualname__,
        "protocol": asdict(protocol),
        "preset": preset,
        "recipes": preset_settings(preset) if preset in PRESETS else None,
        "seed": seed,
        "device": device,
        "versions": package_versions(),
        "precision": precision,
        "code": code_hash(module),
        "handed_in": {name: kept.checksums() for name, kept in (needs or {}).items()},
        "model": None if model is None else model_checksum(model),
    }
    return json.loads(json.dumps(key, allow_nan=False))


def digest(key: Mapping[str, Any]) -> str:
    """Return a short name for a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def model_checksum(model: Model) -> str:
    """Return the SHA-256 of a model's weights and shape.

    `model_id` ignores the precision, and how a model runs; the outcome of work may depend on both.

    Args:
        model: a supported model.
    """
    about = [model_id(model), host_of(model).settings]
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, x in [*model.named_parameters(), *model.named_buffers()]:  # rotations are buffers
        found.update(name.encode())
        found.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@lru_cache
def code_hash(module: str) -> str:
    """Return the SHA-256 of a module and everything it imports from this repository, transitively.

    Docstrings, comments and layout do not count, so new wording does not require new training.

    Args:
        module: its dotted name; what it imports from its own package counts too.
    """
    found = hashlib.sha256()
    for name, source in sorted(_sources(module).items()):
        found.update(f"{name}\n{_meaning(source)}\n".encode())
    return found.hexdigest()


def _sources(module: str) -> dict[str, str]:
    """Return the source of `module` and of every module that it reaches, by dotted name."""
    packages = {*_PACKAGES, module.partition(".")[0]}
    sources: dict[str, str] = {}
    left = [module]
    while left:
        name = left.pop()
        if name in sources or name.partition(".")[0] not in packages or _is_aside(name):
            continue
        file = _file(name)
        if file is not None:
            sources[name] = file.read_text(encoding="utf-8")
            left += _imports(name, file, sources[name])
            stub = file.with_suffix(".pyi")  # lists what a lazy package contains
            if stub.exists():
                left += _imports(name, file, stub.read_text(encoding="utf-8"))
    return sources


def _is_aside(module: str) -> bool:
    return any(module == aside or module.startswith(f"{aside}.") for aside in _ASIDE)


def _file(module: str) -> Path | None:
    """Return a module's file; None for a name inside a module, or a package without code."""
    try:
        spec = find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return None
    return None if spec is None or not spec.has_location else Path(str(spec.origin))


def _imports(module: str, file: Path, source: str) -> Iterator[str]:
    """Yield every import anywhere in a module, including names inside modules."""
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _meaning(source: str) -> str:
    """Return a module's syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] if isinstance(first.value.value, str) else node.body
    return ast.dump(tree)
