"""How many tokens of a given text one searched vector makes a language model emit, exactly.

Every target is searched for token by token: the vector found for its first n tokens is the start
for n + 1. A search from noise for the whole target reaches far less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from analyses import models
from analyses.study import Job, Rows, Tables
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks.encoding import encoder_of
from prefix_interp.theory.capacity import search_soft_tokens

Tensors = dict[str, Tensor]
KINDS = ("text", "uniform")


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_targets: targets of each kind.
        max_length: longest target; a search ends there even if more would be possible.
        steps: most steps of each stage; it ends with the last target that is reached.
        lr: learning rate at the start of each stage.
        from_noise: lengths that are also searched for from noise, all at once, as a control.
    """

    n_targets: int = 8
    max_length: int = 48
    steps: int = 500
    lr: float = 0.1
    from_noise: tuple[int, ...] = (4, 8)


PROTOCOLS = {
    "paper": Protocol(n_targets=32, max_length=96, from_noise=(1, 2, 4, 8, 16)),
    "fast": Protocol(),
    "smoke": Protocol(n_targets=2, max_length=3, steps=3, from_noise=(2,)),
}


def measure(job: Job) -> Tables:
    """Return how many tokens one vector holds: exact under greedy decoding, in tokens and bits.

    Every stage of the search is kept as soon as it is done.

    - ``stages``: per kind of target and length how many were ``tried`` (those whose shorter target
      was reached) and ``reached``.
    - ``targets``: per target the longest ``length`` reached, and its ``bits``: the sum of the
      surprisals of its tokens in the bare model, what a perfect code with the model would need.
    - ``from_noise``: the same lengths searched for without warm starts, with ``steps`` steps for
      each token.
    - ``attention``: per layer the mean attention to the vector (``crammed``) of the tokens that it
      makes the model emit, and to an ordinary token in its place (``ordinary``).

    Args:
        job: one seed of the study, with the language model.
    """
    assert job.model is not None
    model, size = job.model, job.protocol
    tables: dict[str, Rows] = {"stages": [], "targets": [], "from_noise": [], "attention": []}
    bar = tqdm(total=len(KINDS) * size.max_length, desc="cramming", disable=not job.progress)
    with bar:
        for kind in KINDS:
            targets = make_targets(model, kind, size, job.seed)
            about = {"seed": job.seed, "kind": kind}
            vectors, lengths = _crammed(job, model, kind, targets, tables["stages"], bar)
            bits = cumulated_bits(model, targets)
            tables["targets"] += [
                {**about, "target": i, "length": n, "bits": float(bits[i, n - 1]) if n else 0.0}
                for i, n in enumerate(lengths)
            ]
            for length in size.from_noise:
                work = partial(_from_noise, job, model, targets[:, :length], about, tables)
                job.part(f"{kind}-noise-{length}", tables["from_noise"], work)
            work = partial(_attention, model, targets, vectors, lengths, about, tables)
            job.part(f"{kind}-attention", tables["attention"], work)
    return tables


def make_targets(
    model: Model, kind: str, size: Protocol, seed: int
) -> Int[Tensor, "target max_length"]:
    """Return what is to be emitted.

    Args:
        model: with a tokenizer.
        kind: ``"text"``, the beginnings of long movie reviews, or ``"uniform"``, random tokens.
        size: how many, and how long.
        seed: which.

    Raises:
        PrefixInterpError: too few reviews are long enough.
    """
    rng = derive_generator(seed, "cramming", kind)
    shape = (size.n_targets, size.max_length)
    if kind == "uniform":
        return torch.randint(host_of(model).d_vocab, shape, generator=rng)
    reviews, encoder = models.movie_reviews("imdb"), encoder_of(model)
    found: list[list[int]] = []
    for i in torch.randperm(len(reviews), generator=rng).tolist():
        (ids,) = encoder.ids("texts", [reviews[i].text])
        if len(ids) >= size.max_length:
            found.append(ids[: size.max_length])
        if len(found) == size.n_targets:
            return torch.tensor(found)
    raise PrefixInterpError(
        f"max_length={size.max_length} leaves {len(found)} of {size.n_targets} reviews; give less"
    )


def _crammed(
    job: Job, model: Model, kind: str, targets: Tensor, rows: Rows, bar: tqdm
) -> tuple[Float[Tensor, "target slot d_model"], list[int]]:
    """Return the vector of each target's longest front that is reached, and its length."""
    vectors = torch.zeros(len(targets), 1, host_of(model).d_model)
    lengths = [0] * len(targets)
    for length in range(1, targets.shape[1] + 1):
        tried = [i for i, n in enumerate(lengths) if n == length - 1]
        if not tried:
            break
        name, start = f"{kind}-{length}", None if length == 1 else vectors[tried]
        own = partial(_stage, job, model, targets[tried, :length], start)
        found = own() if job.keeps is None else job.keeps.tensors(name, own)
        for row, i in enumerate(tried):
            if bool(found["reached"][row]):
                vectors[i], lengths[i] = found["vectors"][row], length
        n_reached = int(found["reached"].sum())
        rows.append({
            "seed": job.seed, "kind": kind, "length": length, "tried": len(tried),
            "reached": n_reached,
        })  # fmt: skip
        bar.update()
    return vectors, lengths


def _stage(job: Job, model: Model, targets: Tensor, starts: Tensor | None) -> Tensors:
    """Search for one length from the vectors of the length before."""
    found = search_soft_tokens(
        model, targets, steps=job.protocol.steps, lr=job.protocol.lr, init_std=_spread(model),
        starts=starts, until_reached=True, seed=job.seed, progress=False,
    )  # fmt: skip
    # Greedy decoding decides, not the teacher.
    return {"vectors": found.vectors, "reached": found.is_reached.cpu()}


def _from_noise(job: Job, model: Model, targets: Tensor, about: dict, tables: dict) -> None:
    n, length = targets.shape
    found = search_soft_tokens(
        model, targets, steps=job.protocol.steps * length, lr=job.protocol.lr,
        init_std=_spread(model), until_reached=True, seed=job.seed, progress=job.progress,
    )  # fmt: skip
    tables["from_noise"].append({**about, "length": length, "tried": n, "reached": found.reached})


def cumulated_bits(
    model: Model, targets: Int[Tensor, "target length"]
) -> Float[Tensor, "target length"]:
    """Return the surprisal in bits of the first 1, 2, ... tokens of each target.

    The first token is predicted from the beginning-of-text token, or, without one, costs as much as
    one of the vocabulary.

    Args:
        model: with a tokenizer.
        targets: tokens.
    """
    host = host_of(model)
    first = getattr(getattr(model, "tokenizer", None), "bos_token_id", None)
    fed = (
        targets if first is None else torch.cat([torch.full((len(targets), 1), first), targets], 1)
    )
    with torch.no_grad():
        logits = torch.cat([model(row[None, :-1].to(host.device)) for row in fed]).cpu()
    answers = fed[:, 1:, None]
    bits = -logits.double().log_softmax(-1).gather(-1, answers)[..., 0] / math.log(2)
    if first is None:
        alone = torch.full((len(targets), 1), math.log2(host.d_vocab), dtype=bits.dtype)
        bits = torch.cat([alone, bits], 1)
    return bits.cumsum(1)


def _attention(
    model: Model, targets: Tensor, vectors: Tensor, lengths: list[int], about: dict, tables: dict
) -> None:
    """Add the mean attention to what stands in front of the emitted tokens, layer by layer."""
    host = host_of(model)
    token = getattr(getattr(model, "tokenizer", None), "bos_token_id", None) or 0
    with torch.no_grad():
        ordinary = host.embed(torch.tensor([[token]]))
    long = [(i, n) for i, n in enumerate(lengths) if n]
    sums = {"crammed": torch.zeros(host.n_layers), "ordinary": torch.zeros(host.n_layers)}
    for i, n in long:
        for what, vector in (("crammed", vectors[i : i + 1]), ("ordinary", ordinary)):
            sums[what] += front_attention(model, vector, targets[i, :n]) / len(long)
    tables["attention"] += [
        {**about, "layer": layer, "n": len(long), **{k: float(x[layer]) for k, x in sums.items()}}
        for layer in range(host.n_layers if long else 0)
    ]


def front_attention(
    model: Model, vector: Float[Tensor, "1 slot d_model"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, " layer"]:
    """Return the mean attention of tokens to an embedding in front of them, over heads.

    Args:
        model: a language model.
        vector: in the place of a first token.
        tokens: that follow.
    """
    host = host_of(model)
    names = [Site.PATTERN.at(i) for i in range(host.n_layers)]
    with torch.no_grad(), attach(model, SoftPrompt(host.cast(vector))):
        _, cache = host.run_with_cache(tokens[None].to(host.device), names)
    return torch.stack([cache[name][0, :, 1:, 0].mean().cpu() for name in names])


def _spread(model: Model) -> float:
    """Return the standard deviation of the model's embeddings."""
    return float(host_of(model).W_E.detach().std())
