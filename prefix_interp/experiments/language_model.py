"""One token of a language model: how many continuations, hard against searched (section 3).

Unlike the toys' experiment this takes hours of one core on a small model, so that every part of
it is kept as soon as it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.errors import check_choice
from prefix_interp.experiments.capacity import length_row
from prefix_interp.experiments.seed_runs import Rows
from prefix_interp.models.host import Model
from prefix_interp.models.model import model_id
from prefix_interp.results import Result, package_versions
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import read_tensors, write_file
from prefix_interp.theory.capacity import (
    count_distinct,
    hard_continuations,
    search_soft_tokens,
    soft_continuations,
)

Tensors = dict[str, Tensor]
_SUBSETS = 1000  # of the hard tokens, as many in each as soft tokens were searched


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_out: tokens of the continuations that are counted (the paper: 10).
        chunk: hard tokens that are kept at a time.
        n_random: random soft tokens, normal with the embeddings' standard deviation.
        n_targets: uniform random targets, a soft token each, for every length.
        lengths: of targets.
        steps: of each search.
        lr: of each search.
    """

    n_out: int = 10
    chunk: int = 4096
    n_random: int = 1024
    n_targets: int = 32
    lengths: tuple[int, ...] = (10, 1, 2, 4)
    steps: int = 250
    lr: float = 0.1


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(n_out=3, chunk=16, n_random=5, n_targets=3, lengths=(3, 1), steps=4),
}


def language_model(
    model: Model,
    name: str,
    preset: str = "fast",
    seed: int = 0,
    *,
    work: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Return how many continuations one token calls up in a language model.

    Nothing but the token stands in the context, no beginning-of-sequence token either, as in the
    paper. Records are those of `capacity` without depth and training: ``part="distinct"`` with
    ``kind`` ``hard`` (the whole vocabulary), ``hard, as many`` (the mean over random subsets as
    large as the searched tokens are many), ``random`` and ``searched`` (targets of ``n_out``
    tokens), and ``part="length"``.

    Args:
        model: a supported HookedTransformer, see `hook_llama`.
        name: what it is called, for the record.
        preset: ``"fast"`` or ``"smoke"``.
        seed: of targets, starts and random tokens.
        work: folder in which finished parts are kept, to resume after an interruption.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown preset, an unsupported model.
    """
    check_choice("preset", preset, PROTOCOLS)
    protocol, began = PROTOCOLS[preset], time.perf_counter()
    parts = dict(_parts(model, protocol, seed))
    key = {"model": model_id(model), "seed": seed, "versions": package_versions()}
    # `model_id` sees the weights alone; the same ones with other rotations are another model.
    shape = {name: str(value) for name, value in vars(model.cfg).items() if name != "device"}
    key |= {"shape": shape, "protocol": asdict(protocol)}
    kept: dict[str, Tensors] = {}
    bar = tqdm(parts.items(), desc=f"one token, {name}", disable=not progress)
    for part, make in bar:
        file = None if work is None else Path(work) / f"{part}.safetensors"
        kept[part] = _kept(file, key, make)
    # Of the HookedTransformer, whose unembedding and zero biases are its own.
    settings = {"model": name, "n_params": sum(p.numel() for p in model.parameters())}
    settings |= {"d_vocab": model.cfg.d_vocab, "dtype": str(model.W_E.dtype), **asdict(protocol)}
    records = _rows(kept, protocol, seed)
    timing = {"wall_s": round(time.perf_counter() - began, 1)}
    return Result("language-model", preset, [seed], settings, records, timing=timing)


def _parts(
    model: Model, protocol: Protocol, seed: int
) -> Iterator[tuple[str, Callable[[], Tensors]]]:
    """Yield each part's name and what makes its tensors."""
    cfg, n_out = model.cfg, protocol.n_out

    def searched(length: int) -> Tensors:
        rng = derive_generator(seed, "targets", length)
        targets = torch.randint(cfg.d_vocab, (protocol.n_targets, length), generator=rng)
        found = search_soft_tokens(
            model, targets, steps=protocol.steps, lr=protocol.lr,
            init_std=float(model.W_E.detach().std()), seed=seed, progress=False,
        )  # fmt: skip
        return {"targets": targets, "emitted": found.emitted, "losses": found.losses}

    def random() -> Tensors:
        rng = derive_generator(seed, "random-soft-tokens")
        noise = torch.randn(protocol.n_random, 1, cfg.d_model, generator=rng)
        emitted = soft_continuations(model, noise * float(model.W_E.detach().std()), n_out)
        return {"emitted": emitted}

    for length in protocol.lengths:
        yield f"searched-{length}", lambda length=length: searched(length)
    yield "random", random
    for tokens in torch.arange(cfg.d_vocab).split(protocol.chunk):
        part = f"hard-{int(tokens[0])}"
        yield part, lambda own=tokens: {"emitted": hard_continuations(model, n_out, own)}


def _kept(file: Path | None, key: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
    """Return what `file` holds if it was made with the same `key`, else make and keep it."""
    header = {"key": json.dumps(key, sort_keys=True)}
    if file is not None and file.exists():
        tensors, found = read_tensors(file)
        if found == header:
            return tensors
    made = {name: tensor.contiguous() for name, tensor in make().items()}
    if file is not None:
        write_file(file, to_bytes(made, metadata=header))
    return made


def _rows(kept: Mapping[str, Tensors], protocol: Protocol, seed: int) -> Rows:
    n_out = protocol.n_out
    chunks = [part["emitted"] for name, part in kept.items() if name.startswith("hard-")]
    hard, searched = torch.cat(chunks), kept[f"searched-{n_out}"]["emitted"]

    def distinct(kind: str, tried: int, found: int | float) -> dict[str, Any]:
        return {"part": "distinct", "seed": seed, "kind": kind, "n_out": n_out, "tried": tried,
                "distinct": found}  # fmt: skip

    rows = [
        distinct("hard", len(hard), count_distinct(hard)),
        distinct("hard, as many", len(searched), _mean_distinct(hard, len(searched), seed)),
        distinct("random", protocol.n_random, count_distinct(kept["random"]["emitted"])),
        distinct("searched", len(searched), count_distinct(searched)),
    ]
    for length in sorted(protocol.lengths):
        part = kept[f"searched-{length}"]
        row = length_row(part["targets"], part["emitted"], part["losses"])
        rows.append({"seed": seed, **row})
    return rows


def _mean_distinct(continuations: Int[Tensor, "prompt n_out"], n: int, seed: int) -> float:
    """Return how many of `n` prompts drawn without replacement differ, on average."""
    _, which = torch.unique(continuations, dim=0, return_inverse=True)
    rng = derive_generator(seed, "subsets")
    counts: Sequence[int] = [
        len(which[torch.randperm(len(which), generator=rng)[:n]].unique()) for _ in range(_SUBSETS)
    ]
    return sum(counts) / _SUBSETS
