"""Capacity: one virtual token makes a fixed transformer do anything (the paper's section 3).

Counts on the constructions of `prefix_interp.theory.constructions`: how many behaviours come out
right, how sharp the derived temperatures are, and how large a vocabulary each dtype holds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prefix_interp.errors import check_choice, check_positive
from prefix_interp.models.model import to_dtype
from prefix_interp.results import Result
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.constructions import (
    Construction,
    any_map,
    any_map_of_pairs,
    any_map_to_sequences,
    any_sequence,
    largest_vocabulary,
)
from prefix_interp.theory.constructions.precision import DTYPES
from prefix_interp.tuning.parallel import run_parallel

Rows = list[dict[str, Any]]
BUILDERS: dict[str, Callable[..., Construction]] = {
    "any_sequence": any_sequence,
    "any_map": any_map,
    "any_map_to_sequences": any_map_to_sequences,
    "any_map_of_pairs": any_map_of_pairs,
}


@dataclass(frozen=True)
class Check:
    """One line of the table to come.

    Attributes:
        construction: a key of `BUILDERS`.
        n_tokens: V.
        n_out: output tokens, for the two that take it (Theorem 1's N).
        n: random behaviours, for precision codes; None takes all.
        greedy: generate token by token; otherwise one forward pass (see `Construction.right`).
        offset: T less the smallest T; None takes the default.
        dtype: of the model, converted from float64.
        decoder: ``"parabola"`` or ``"distance"``.
        seed: of random behaviours.
    """

    construction: str
    n_tokens: int
    n_out: int | None = None
    n: int | None = None
    greedy: bool = True
    offset: float | None = None
    dtype: str = "float64"
    decoder: str = "parabola"
    seed: int | None = None

    def build(self, temperature: float | None = None) -> Construction:
        """Return the construction, in float64."""
        sizes = (self.n_tokens,) if self.n_out is None else (self.n_tokens, self.n_out)
        return BUILDERS[self.construction](*sizes, temperature=temperature, decoder=self.decoder)


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        right: checks of behaviours; those with `n` are drawn once a seed.
        sharp: checks just above and below the smallest temperature; those without `n` have no T
            too small and are checked at 0.
        offsets: distances from the smallest temperature.
        multiples: vocabularies, relative to the largest each dtype is built for.
        most: vocabulary above which a decoder would be slow, not imprecise.
        codes: of a vocabulary that are tried for precision, half from each end.
    """

    right: tuple[Check, ...]
    sharp: tuple[Check, ...]
    offsets: tuple[float, ...] = (-1.0, -0.1, -1e-6, 1e-6, 0.1)
    multiples: tuple[float, ...] = (0.5, 1.0, 1.7, 2.9, 4.3)
    most: tuple[tuple[str, int], ...] = (("parabola", 100_000), ("distance", 2000))
    codes: int = 4096


PROTOCOLS = {
    "fast": Protocol(
        right=(
            Check("any_sequence", 4, 6),
            Check("any_sequence", 94, 20, n=10_000),
            Check("any_map", 4),
            Check("any_map", 94, n=1000),
            Check("any_map_to_sequences", 3, 2),
            Check("any_map_to_sequences", 94, 10, n=20),
            Check("any_map_to_sequences", 94, 10, n=1000, greedy=False),
            Check("any_map_of_pairs", 3),
            *(Check("any_map_of_pairs", v, n=200) for v in range(3, 14)),
        ),
        sharp=(
            Check("any_sequence", 4, 6, n=1000),
            Check("any_sequence", 94, 20, n=1000),
            Check("any_map", 4),
            Check("any_map_to_sequences", 4, 3, n=1000),
            Check("any_map_to_sequences", 94, 10, n=3),
            *(Check("any_map_of_pairs", v, n=100) for v in range(3, 14)),
        ),
    ),
    "smoke": Protocol(
        right=(
            Check("any_sequence", 3, 3),
            Check("any_sequence", 9, 4, n=10),
            Check("any_map", 3),
            Check("any_map_to_sequences", 5, 3, n=10, greedy=False),
            Check("any_map_of_pairs", 4, n=10),
        ),
        sharp=(
            Check("any_sequence", 3, 3, n=10),
            Check("any_map", 3),
            Check("any_map_of_pairs", 3, n=10),
        ),
        offsets=(-1e-6, 1e-6),
        multiples=(1.0, 4.3),
        most=(("parabola", 3000), ("distance", 700)),
    ),
}


def constructions(
    preset: str = "fast",
    seeds: Sequence[int] = (0,),
    *,
    work: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return what the constructions get right.

    ``part`` tells three kinds of records apart. ``"right"``: of how many ``behaviours`` on how
    many ``inputs`` each (all there are) every output is right: ``right`` of ``checked``, and the
    share ``exact``. ``"sharp"``: the same of random behaviours at ``temperature`` =
    ``smallest_temperature`` + ``offset``, and whether the ``hardest`` behaviour is right.
    ``"precision"``: at V = ``n_tokens`` in ``dtype``, given the ``largest`` it is built for, how
    many codes come out right of those tried.

    Args:
        preset: ``"fast"`` or ``"smoke"``.
        seeds: of the random behaviours; each takes the preset's number.
        work: taken for the shared command line; nothing is kept, there is little to resume.
        n_jobs: processes; by default one a core.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown preset, or no seeds.
    """
    check_choice("preset", preset, PROTOCOLS)
    check_positive("number of seeds", len(seeds))
    protocol, began = PROTOCOLS[preset], time.perf_counter()
    jobs: list[tuple[str, Check]] = []
    for check in protocol.right:
        jobs += [("right", one) for one in _seeded(check, seeds)]
    for check in protocol.sharp:
        offsets = (0.0,) if check.n is None else protocol.offsets
        jobs += [
            ("sharp", replace(one, offset=offset))
            for one in _seeded(check, seeds)
            for offset in offsets
        ]
    jobs += [("precision", check) for check in _precision_checks(protocol)]
    measured = run_parallel(
        _timed, jobs, n_jobs=n_jobs, progress=progress, description=f"constructions, {preset}"
    )
    timing = {
        "wall_s": round(time.perf_counter() - began, 1),
        "core_s": round(sum(seconds for _, seconds in measured), 1),
    }
    settings = {"protocol": asdict(protocol)}
    records = [row for row, _ in measured]
    return Result("constructions", preset, list(seeds), settings, records, timing=timing)


def measure(part: str, check: Check) -> dict[str, Any]:
    """Return one record (see `constructions`).

    Args:
        part: ``"right"``, ``"sharp"`` or ``"precision"``.
        check: what to build and how much to try.
    """
    built = check.build()
    if check.offset is not None:
        built = check.build(built.smallest_temperature + check.offset)
    to_dtype(built.model, DTYPES[check.dtype])
    if part == "precision":
        behaviours = _ends_of_vocabulary(built, check.n or built.n_tokens)
    elif check.n is None:
        behaviours = all_behaviours(built)
    else:
        behaviours = random_behaviours(built, check.n, check.seed or 0)
    if check.greedy:
        right = (built.run(behaviours) == built.wanted(behaviours)).all(-1)
    else:
        right = built.right(behaviours)
    record = {"part": part} | asdict(check)
    record |= {
        "n_in": built.n_in,
        "n_out": built.n_out,
        "n_slots": built.n_slots,
        "n_layers": built.model.cfg.n_layers,
        "d_model": built.model.cfg.d_model,
        "log10_behaviours": built.hardest.numel() * math.log10(built.n_tokens),
        "temperature": built.temperature,
        "smallest_temperature": built.smallest_temperature,
        "behaviours": right.shape[0],
        "inputs": right.shape[1],
        "checked": right.numel(),
        "right": int(right.sum()),
        "exact": float(right.double().mean()),
    }
    if part == "sharp":
        record["hardest"] = bool(built.right(built.hardest[None]).all())
    if part == "precision":
        record["largest"] = largest_vocabulary(DTYPES[check.dtype], check.decoder)
    return record


def all_behaviours(built: Construction) -> Int[Tensor, "stack *behaviour"]:
    """Return every behaviour of a small construction."""
    size = built.hardest.numel()
    codes = torch.arange(built.n_tokens**size)
    digits = [codes // built.n_tokens**i % built.n_tokens for i in range(size)]
    return torch.stack(digits, dim=1).reshape(-1, *built.hardest.shape)


def random_behaviours(built: Construction, n: int, seed: int) -> Int[Tensor, "stack *behaviour"]:
    """Return uniform behaviours; for pairs, every second row of a map ends in code 0.

    The authors' digit extraction fails on rows that do.

    Args:
        built: gives shape and vocabulary.
        n: how many.
        seed: any integer.
    """
    rng = derive_generator(seed, "constructions", built.name, built.n_tokens, built.n_out)
    drawn = torch.randint(built.n_tokens, (n, *built.hardest.shape), generator=rng)
    if built.n_in == 2:
        drawn[:, ::2, -1] = 0
    return drawn


def _seeded(check: Check, seeds: Sequence[int]) -> list[Check]:
    return [check] if check.n is None else [replace(check, seed=seed) for seed in seeds]


def _precision_checks(protocol: Protocol) -> list[Check]:
    checks = []
    for dtype in DTYPES:
        for decoder, most in protocol.most:
            largest = largest_vocabulary(DTYPES[dtype], decoder)
            sizes = {round(multiple * largest) for multiple in protocol.multiples}
            checks += [
                Check(
                    "any_sequence",
                    size,
                    2,
                    n=protocol.codes,
                    greedy=False,
                    dtype=dtype,
                    decoder=decoder,
                )
                for size in sorted({min(size, most) for size in sizes})
            ]
    return checks


def _ends_of_vocabulary(built: Construction, n: int) -> Int[Tensor, "stack length"]:
    codes = torch.arange(built.n_tokens)
    if len(codes) > n:
        codes = torch.cat([codes[: n // 2], codes[-(n // 2) :]])
    return codes[:, None].repeat(1, built.n_out)


def _timed(job: tuple[str, Check]) -> tuple[dict[str, Any], float]:
    began, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # so that the number of jobs does not change a rounding
    try:
        return measure(*job), time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
