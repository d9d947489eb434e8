"""Eq. 6 and 7 for every head of a real language model, and what a prefix does to its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from analyses.sentiment.data import PROMPT, Sentences, sentiment_tasks, short_reviews, to_tune_on
from analyses.sentiment.methods import start_prefix
from analyses.study import Job, Rows, Tables
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks.text import texts_batch
from prefix_interp.theory.decompose import decompose_attention
from prefix_interp.tuning.contexts import sweep
from prefix_interp.tuning.recipes import Recipe

Tensors = dict[str, Tensor]
# A chunk of sentences gives these: of the largest the largest is kept, of the sums the sum.
LARGEST = ("eq6", "eq7", "largest")
SUMS = ("gate", "sink_on", "sink_off", "moved")


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        sentences: what the tuned prefix is tuned on.
        n_sentences: sentences that are measured, of at most ``sentences.max_tokens`` tokens.
        chunk: sentences per pass and part: 5 of them take about 1 GB with SmolLM2.
        n_slots: of every prefix (the paper's appendix B: 10).
        init_std: standard deviation of the random prefix.
        steps: of the tuned prefix, which starts from an instruction; 0 for none.
        lr: of the tuning.
        batch_size: of the tuning.
    """

    sentences: Sentences = field(default_factory=lambda: Sentences(max_tokens=32))
    n_sentences: int = 100
    chunk: int = 5
    n_slots: int = 10
    init_std: float = 1.0
    steps: int = 40
    lr: float = 3e-2
    batch_size: int = 8


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(
        Sentences(n_validation=8), n_sentences=4, chunk=2, n_slots=3, steps=1, batch_size=2
    ),
}


def measure(job: Job) -> Tables:
    """Return how exact eq. 6 and 7 are in every layer and head, and what the prefixes attend to.

    Prefixes: ``random`` (keys and values from N(0, 1)), ``zero``, ``text`` (what the model computes
    from an instruction) and ``tuned``, the last after tuning for sentiment. Every chunk of
    sentences is kept.

    - ``layers``: the largest violation of eq. 6, of eq. 7 relative to the largest output of a head
      in the layer, the mean ``gate``, the mean attention to the first token without the prefix
      (``sink_off``) and with it (``sink_on``), and how far relative attention ``moved`` (total
      variation from the run without the prefix; 0 in the first layer).
    - ``heads``: the same per head, with the paper's range of attention over slots (``slot_range``)
      and the mean of the largest share (``top_slot``) at the last token of each sentence.

    Means are over all tokens of the sentences but the first, which has nothing else to attend to.

    Args:
        job: one seed of the study, with the language model.
    """
    assert job.model is not None
    model, size = job.model, job.protocol
    reviews = short_reviews(model, size.sentences.max_tokens, seed=1)[: size.n_sentences]
    texts = sorted((PROMPT.format(each.text) for each in reviews), key=len)  # little padding
    chunks = [texts[i : i + size.chunk] for i in range(0, len(texts), size.chunk)]
    layers: Rows = []
    heads: Rows = []
    prefixes = _prefixes(job, model)
    with tqdm(total=len(prefixes) * len(chunks), desc="heads", disable=not job.progress) as bar:
        for name, make in prefixes.items():
            parts = []
            for i, own in enumerate(chunks):
                parts.append(
                    _kept(job, f"{name}-{i}", lambda own=own, make=make: _chunk(model, make(), own))
                )
                bar.update()
            about = {"seed": job.seed, "prefix": name}
            found = joined(parts)
            layers += [about | row for row in layer_rows(found)]
            heads += [about | row for row in head_rows(found)]
    return {"layers": layers, "heads": heads}


def _prefixes(job: Job, model: Model) -> dict[str, Callable[[], Prefix]]:
    """Return what makes each prefix; the tuned one is tuned when it is asked for, and kept."""
    size = job.protocol

    def start(kind: str) -> Prefix:
        return start_prefix(model, "kv", size.n_slots, kind, job.seed, size.init_std)

    def tuned() -> Prefix:
        return Prefix("kv", key_form=host_of(model).key_form, **_kept(job, "tuned", tune))

    def tune() -> Tensors:
        task = to_tune_on(sentiment_tasks(model, size.sentences)[0])
        recipe = Recipe(size.steps, size.lr, size.batch_size, weight_decay=0.0)
        (fit,) = sweep(
            model, task, [start("text")], [size.lr], recipe=recipe, seed=job.seed,
            checkpoint=job.checkpoint("tuned"), progress=job.progress,
        )  # fmt: skip
        return dict(fit.prefix.tensors)

    found = {kind: (lambda kind=kind: start(kind)) for kind in ("random", "zero", "text")}
    return found | ({"tuned": tuned} if size.steps else {})


def _kept(job: Job, name: str, make: Callable[[], Tensors]) -> Tensors:
    return make() if job.keeps is None else job.keeps.tensors(name, make)


def _chunk(model: Model, prefix: Prefix, texts: list[str]) -> Tensors:
    """Return the measures of some sentences, per layer and head (see `LARGEST` and `SUMS`)."""
    batch = texts_batch(model, texts)
    pair = run_pair(model, prefix, batch.tokens.to(host_of(model).device))
    parts, n = decompose_attention(pair), prefix.n_slots
    real = batch.given.sum(-1) + 1  # tokens of each sentence
    place = torch.arange(batch.tokens.shape[1])
    counts = ((place > 0) & (place < real[:, None])).to(parts.gate)[None, :, None]

    def summed(x: Float[Tensor, "layer batch head query"]) -> Float[Tensor, "layer head"]:
        return (x * counts).sum((1, 3)).double()

    n_content = len(place)
    layers = range(host_of(model).n_layers)
    on, off = (
        torch.stack([cache[Site.PATTERN.at(i)] for i in layers]) for cache in (pair.on, pair.off)
    )
    plain = off[..., -n_content:]
    shares = last_shares(on[..., :n], real)
    return {
        "eq6": parts.pattern_residual.abs().amax((1, 3, 4)),
        "eq7": parts.residual.abs().amax((1, 3, 4)),
        "largest": parts.output.abs().amax((1, 3, 4)),
        "gate": summed(parts.gate),
        "sink_on": summed(on[..., n]),
        "sink_off": summed(plain[..., 0]),
        "moved": summed((parts.content_pattern - plain).abs().sum(-1) / 2),
        "n": counts.sum().double()[None],
        "shares": shares,
    }


def last_shares(
    mass: Float[Tensor, "layer batch head query slot"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch layer head slot"]:
    """Return each sentence's attention to the slots at its last token, renormalised to sum to 1.

    Args:
        mass: attention to the slots.
        lengths: tokens of each sentence.
    """
    rows = torch.stack([mass[:, i, :, end - 1] for i, end in enumerate(lengths.tolist())])
    return rows / rows.sum(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def joined(parts: list[Tensors]) -> Tensors:
    """Return the measures of all sentences: maxima, means per token, and shares by sentence.

    Args:
        parts: of each chunk.
    """
    found = {name: torch.stack([part[name] for part in parts]).amax(0) for name in LARGEST}
    n = sum(float(part["n"]) for part in parts)
    found |= {name: torch.stack([part[name] for part in parts]).sum(0) / n for name in SUMS}
    return found | {"shares": torch.cat([part["shares"] for part in parts])}


def layer_rows(found: Tensors) -> Rows:
    """Return one row per layer (see `measure`).

    Args:
        found: from `joined`.
    """
    largest = found["largest"].amax(-1)
    return [
        {
            "layer": layer,
            "eq6": float(found["eq6"][layer].max()),
            "eq7": float(found["eq7"][layer].max() / largest[layer]),
            **{name: float(found[name][layer].mean()) for name in SUMS},
        }
        for layer in range(len(largest))
    ]


def head_rows(found: Tensors) -> Rows:
    """Return one row per head (see `measure`).

    Args:
        found: from `joined`.
    """
    largest = found["largest"].amax(-1)
    ends = torch.tensor([0.01, 0.99], dtype=found["shares"].dtype)
    low, high = found["shares"].quantile(ends, dim=0)
    ranges, tops = (high - low).mean(-1), found["shares"].amax(-1).mean(0)
    return [
        {
            "layer": layer,
            "head": head,
            "eq6": float(found["eq6"][layer, head]),
            "eq7": float(found["eq7"][layer, head] / largest[layer]),
            **{name: float(found[name][layer, head]) for name in SUMS},
            "slot_range": float(ranges[layer, head]),
            "top_slot": float(tops[layer, head]),
        }
        for layer in range(found["gate"].shape[0])
        for head in range(found["gate"].shape[1])
    ]
