"""One token of a language model: how many continuations hard and searched tokens call up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from analyses.one_token import distinct_row, length_row
from analyses.study import Job, Rows, Tables
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.llama import hook_llama
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.capacity import (
    count_distinct,
    hard_continuations,
    search_soft_tokens,
    soft_continuations,
)

Tensors = dict[str, Tensor]
_SUBSETS = 1000  # of the hard tokens, each as large as the set of searched tokens


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_out: tokens of the continuations that are counted (the paper: 10).
        chunk: number of hard tokens whose results are kept at a time.
        n_random: random soft tokens, normal with the embeddings' standard deviation.
        n_targets: uniform random targets per length, with one soft token per target.
        lengths: lengths of targets.
        steps: steps of each search.
        lr: learning rate of each search.
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


def load_model(path: str) -> Model:
    """Return a Hugging Face model of the Llama architecture with hooks.

    Args:
        path: path of a folder or a GGUF file.

    Raises:
        PrefixInterpError: the path does not exist, or the model is not supported.
    """
    file = Path(path)
    if not file.exists():
        raise PrefixInterpError(f"model={path!r} does not exist; name a folder or a GGUF file")
    folder, gguf = (file.parent, file.name) if file.suffix == ".gguf" else (file, None)
    hf_model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.float32, local_files_only=True
    )
    return hook_llama(hf_model)


def about_model(model: Model, name: str) -> dict[str, Any]:
    """Return what a result records about the model.

    Args:
        model: the measured model; its unembedding and zero biases count as parameters.
        name: its name.
    """
    return {
        "model": name,
        "n_params": sum(p.numel() for p in model.parameters()),
        "d_vocab": host_of(model).d_vocab,
        "dtype": str(host_of(model).dtype),
    }


def measure(job: Job) -> Tables:
    """Return how many continuations one token calls up in a language model.

    The context contains only the token, without a beginning-of-sequence token, as in the paper. The
    tables are those of the study ``capacity`` without depth and training: ``"distinct"`` with the
    ``kind`` ``hard`` (the whole vocabulary), ``hard, as many`` (the mean over random subsets of the
    size of the searched set), ``random`` and ``searched`` (targets of ``n_out`` tokens), and
    ``"length"``.

    This takes hours on one core for a small model, so every part is kept as soon as it is done.

    Args:
        job: one seed of the study, with the external model.
    """
    assert job.model is not None
    parts: dict[str, Tensors] = {}
    work = dict(_parts(job.model, job.protocol, job.seed))
    for name, make in tqdm(work.items(), desc="one token", disable=not job.progress):
        parts[name] = make() if job.keeps is None else job.keeps.tensors(name, make)
    return _tables(parts, job.protocol, job.seed)


def _parts(
    model: Model, protocol: Protocol, seed: int
) -> Iterator[tuple[str, Callable[[], Tensors]]]:
    """Yield each part's name and the function that makes its tensors."""
    host, n_out = host_of(model), protocol.n_out

    def searched(length: int) -> Tensors:
        rng = derive_generator(seed, "targets", length)
        targets = torch.randint(host.d_vocab, (protocol.n_targets, length), generator=rng)
        found = search_soft_tokens(
            model, targets, steps=protocol.steps, lr=protocol.lr,
            init_std=float(host_of(model).W_E.detach().std()), seed=seed, progress=False,
        )  # fmt: skip
        return {"targets": targets, "emitted": found.emitted, "losses": found.losses}

    def random() -> Tensors:
        rng = derive_generator(seed, "random-soft-tokens")
        noise = torch.randn(protocol.n_random, 1, host.d_model, generator=rng)
        emitted = soft_continuations(model, noise * float(host_of(model).W_E.detach().std()), n_out)
        return {"emitted": emitted}

    for length in protocol.lengths:
        yield f"searched-{length}", lambda length=length: searched(length)
    yield "random", random
    for tokens in torch.arange(host.d_vocab).split(protocol.chunk):
        part = f"hard-{int(tokens[0])}"
        yield part, lambda own=tokens: {"emitted": hard_continuations(model, n_out, own)}


def _tables(parts: Mapping[str, Tensors], protocol: Protocol, seed: int) -> dict[str, Rows]:
    n_out = protocol.n_out
    chunks = [part["emitted"] for name, part in parts.items() if name.startswith("hard-")]
    hard, searched = torch.cat(chunks), parts[f"searched-{n_out}"]["emitted"]
    counts = {
        "hard": (len(hard), count_distinct(hard)),
        "hard, as many": (len(searched), _mean_distinct(hard, len(searched), seed)),
        "random": (protocol.n_random, count_distinct(parts["random"]["emitted"])),
        "searched": (len(searched), count_distinct(searched)),
    }
    found = [parts[f"searched-{length}"] for length in sorted(protocol.lengths)]
    return {
        "distinct": [
            {"seed": seed} | distinct_row(kind, *own, n_out) for kind, own in counts.items()
        ],
        "length": [
            {"seed": seed} | length_row(part["targets"], part["emitted"], part["losses"])
            for part in found
        ],
    }


def _mean_distinct(continuations: Int[Tensor, "prompt n_out"], n: int, seed: int) -> float:
    """Return how many of `n` prompts drawn without replacement differ, on average."""
    _, which = torch.unique(continuations, dim=0, return_inverse=True)
    rng = derive_generator(seed, "subsets")
    counts: Sequence[int] = [
        len(which[torch.randperm(len(which), generator=rng)[:n]].unique()) for _ in range(_SUBSETS)
    ]
    return sum(counts) / _SUBSETS
