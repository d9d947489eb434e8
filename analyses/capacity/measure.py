"""How many continuations single tokens call up, hard, random and searched; and how long ones.

On the toys of the ladder, by depth, beside toys of the same shape that were never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import check_choice
from prefix_interp.experiments.ladder import ladder_toys
from prefix_interp.experiments.seed_runs import Rows, finished_seed, measure_seeds, seed_folder
from prefix_interp.models.host import Model
from prefix_interp.models.toy import build_toy, toy_config
from prefix_interp.models.zoo import load_toy
from prefix_interp.results import Result
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import read_json
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
        n_targets: random targets, a soft token each, for every length.
        lengths: of targets.
        steps: of each search.
        lr: of each search.
        n_random: random soft tokens for each standard deviation.
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


def capacity(
    preset: str = "fast",
    seeds: Sequence[int] = range(3),
    *,
    work: str | Path | None = None,
    ladder_work: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return how many continuations one token calls up on the toys of the ladder.

    Nothing but the token stands in the context; the model's own outputs are fed back. Records are
    of two kinds, each with ``seed``, ``depth`` and ``trained`` (False: the same shape with its
    initial weights):

    - ``part="distinct"``: ``kind`` (``hard``: all tokens of the vocabulary; ``random``: normal
      soft tokens of ``std``; ``searched``: a soft token for each random target), ``tried``
      tokens and ``distinct`` continuations of ``n_out`` tokens.
    - ``part="length"``: soft tokens searched for random targets of ``length`` tokens: ``tried``,
      ``reached`` (emitted exactly by greedy decoding), ``tokens_right`` (share of positions), and
      ``loss`` (mean, nats a token).

    Args:
        preset: ``"fast"`` or ``"smoke"``.
        seeds: those of the ladder.
        work: folder for finished seeds; None keeps nothing.
        ladder_work: what `ladder` was given as `work`; by default ``work/ladder-<preset>``.
        n_jobs: processes; by default one a core.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown preset, or a seed that the ladder has not finished.
    """
    check_choice("preset", preset, PROTOCOLS)
    for seed in seeds:
        ladder_toys(seed, preset, ladder_work)
    run_seed = partial(capacity_seed, preset=preset, work=work, ladder_work=ladder_work)
    return measure_seeds(
        "capacity", preset, seeds, run_seed, _settings(preset), n_jobs=n_jobs, progress=progress
    )


def _settings(preset: str) -> dict[str, Any]:
    sizes = asdict(PROTOCOLS[preset])
    return {k: list(v) if isinstance(v, tuple) else v for k, v in sizes.items()}


def capacity_seed(
    seed: int,
    preset: str = "fast",
    work: str | Path | None = None,
    ladder_work: str | Path | None = None,
) -> dict[str, Any]:
    """Return one seed's records and its seconds; finished work in `work` is taken from there."""
    toys, protocol = ladder_toys(seed, preset, ladder_work), PROTOCOLS[preset]
    sums = {str(d): read_json(toy / "model.json")["sha256"] for d, toy in toys.items()}

    def run() -> Rows:
        rows: Rows = []
        for depth, folder in toys.items():
            trained = load_toy(folder)
            for model in (trained, build_toy(toy_config(trained), seed)):
                about = {"seed": seed, "depth": depth, "trained": model is trained}
                rows += [about | row for row in capacity_rows(model, protocol, seed)]
        return rows

    return finished_seed(seed_folder(work, seed), _settings(preset) | {"models": sums}, run)


def capacity_rows(model: Model, protocol: Protocol, seed: int) -> Rows:
    """Return the records of one model (see `capacity`).

    Args:
        model: a supported HookedTransformer.
        protocol: sizes.
        seed: of targets and random soft tokens.
    """
    n_out, d_vocab = protocol.n_out, model.cfg.d_vocab

    def distinct(kind: str, emitted: Tensor, std: float | None = None) -> dict[str, Any]:
        return {"part": "distinct", "kind": kind, "std": std, "n_out": n_out,
                "tried": len(emitted), "distinct": count_distinct(emitted)}  # fmt: skip

    rows = [distinct("hard", hard_continuations(model, n_out))]
    for std in protocol.random_stds:
        rng = derive_generator(seed, "random-soft-tokens")
        noise = torch.randn(protocol.n_random, 1, model.cfg.d_model, generator=rng) * std
        rows.append(distinct("random", soft_continuations(model, noise, n_out), std))
    for length in protocol.lengths:
        rng = derive_generator(seed, "targets", length)
        targets = torch.randint(d_vocab, (protocol.n_targets, length), generator=rng)
        found = search_soft_tokens(
            model, targets, steps=protocol.steps, lr=protocol.lr, seed=seed, progress=False
        )
        rows.append(length_row(targets, found.emitted, found.losses))
        if length == n_out:
            rows.append(distinct("searched", found.emitted))
    return rows


def length_row(
    targets: Int[Tensor, "target n_out"],
    emitted: Int[Tensor, "target n_out"],
    losses: Float[Tensor, " target"],
) -> dict[str, Any]:
    """Return what one length's searches came to (see `capacity`).

    Args:
        targets: what the soft tokens were searched for.
        emitted: what they make the model emit.
        losses: of each search, nats a token.
    """
    right = emitted == targets
    return {
        "part": "length", "length": targets.shape[1], "tried": len(targets),
        "reached": int(right.all(dim=1).sum()),
        "tokens_right": float(right.double().mean()),
        "loss": float(losses.mean()),
    }  # fmt: skip
