"""How many continuations hard, random and searched tokens call up, and how long these can be.

Measured on the toys of the ladder, by depth, and on toys of the same shape without training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from analyses.one_token import distinct_row, length_row
from analyses.study import Job, Rows, Tables
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.toy import build_toy, toy_config
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.capacity import (
    count_distinct,
    hard_continuations,
    search_soft_tokens,
    soft_continuations,
)


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_out: tokens of the continuations that are counted (the paper: 10).
        n_targets: random targets per length, with one soft token per target.
        lengths: lengths of targets.
        steps: steps of each search.
        lr: learning rate of each search.
        n_random: random soft tokens per standard deviation.
        random_stds: their standard deviations.
    """

    n_out: int = 10
    n_targets: int = 64
    lengths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10, 14)
    steps: int = 400
    lr: float = 0.1
    n_random: int = 1000
    random_stds: tuple[float, ...] = (0.1, 1.0, 10.0)


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(
        n_targets=3, lengths=(1, 10), steps=2, n_random=5, random_stds=(1.0,), n_out=10
    ),
}


def measure(job: Job) -> Tables:
    """Return how many continuations one token calls up on the toys of the ladder.

    The context contains only the token; the model's own outputs are fed back. There are two tables,
    both with ``seed``, ``depth`` and ``trained`` (False: the same shape with its initial weights):

    - ``"distinct"``: ``kind`` (``hard``: all tokens of the vocabulary; ``random``: normal soft
      tokens of ``std``; ``searched``: one soft token per random target), ``tried`` tokens and
      ``distinct`` continuations of ``n_out`` tokens.
    - ``"length"``: soft tokens searched for random targets of ``length`` tokens: ``tried``,
      ``reached`` (emitted exactly by greedy decoding), ``tokens_right`` (share of positions), and
      ``loss`` (mean over tokens, in nats).

    Args:
        job: one seed of the study, with the toys that the ladder keeps for it.
    """
    tables: dict[str, Rows] = {}
    toys = job.needs["ladder"].toys()
    for trained in tqdm(toys.values(), desc="toys", disable=not job.progress):
        for model in (trained, build_toy(toy_config(trained), job.seed)):
            about = {
                "seed": job.seed,
                "depth": host_of(model).n_layers,
                "trained": model is trained,
            }
            part = f"{about['depth']}-layers-{'trained' if about['trained'] else 'untrained'}"
            found = job.tables(part, partial(token_rows, model, job.protocol, job.seed))
            for name, rows in found.items():
                tables.setdefault(name, []).extend(about | row for row in rows)
    return tables


def token_rows(model: Model, protocol: Protocol, seed: int) -> dict[str, Rows]:
    """Return both tables of one model (see `measure`).

    Args:
        model: a supported model.
        protocol: the sizes.
        seed: decides targets and random soft tokens.
    """
    n_out, d_vocab = protocol.n_out, host_of(model).d_vocab

    def distinct(kind: str, emitted: Tensor, std: float | None = None) -> dict[str, Any]:
        return distinct_row(kind, len(emitted), count_distinct(emitted), n_out, std=std)

    counts, lengths = [distinct("hard", hard_continuations(model, n_out))], []
    for std in protocol.random_stds:
        rng = derive_generator(seed, "random-soft-tokens")
        noise = torch.randn(protocol.n_random, 1, host_of(model).d_model, generator=rng) * std
        counts.append(distinct("random", soft_continuations(model, noise, n_out), std))
    for length in protocol.lengths:
        rng = derive_generator(seed, "targets", length)
        targets = torch.randint(d_vocab, (protocol.n_targets, length), generator=rng)
        found = search_soft_tokens(
            model, targets, steps=protocol.steps, lr=protocol.lr, seed=seed, progress=False
        )
        lengths.append(length_row(targets, found.emitted, found.losses))
        if length == n_out:
            counts.append(distinct("searched", found.emitted))
    return {"distinct": counts, "length": lengths}
