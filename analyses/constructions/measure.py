"""One seed of `constructions`: how many behaviours of each construction come out right.

Also how sharp the derived temperatures are, and how large a vocabulary each dtype allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from analyses.study import Job, Rows, Tables
from prefix_interp.models.host import host_of
from prefix_interp.models.model import to_dtype
from prefix_interp.theory.constructions import (
    Construction,
    any_map,
    any_map_of_pairs,
    any_map_to_sequences,
    any_sequence,
    largest_vocabulary,
)
from prefix_interp.theory.constructions.behaviours import all_behaviours, random_behaviours
from prefix_interp.theory.constructions.precision import DTYPES

BUILDERS: dict[str, Callable[..., Construction]] = {
    "any_sequence": any_sequence,
    "any_map": any_map,
    "any_map_to_sequences": any_map_to_sequences,
    "any_map_of_pairs": any_map_of_pairs,
}


@dataclass(frozen=True)
class Check:
    """One check, which becomes one row.

    Attributes:
        construction: a key of `BUILDERS`.
        n_tokens: V.
        n_out: output tokens, for the two constructions that take them (N in Theorem 1).
        n: number of random behaviours (in checks of precision, of codes); None takes all.
        greedy: generate token by token; otherwise one forward pass (see `Construction.right`).
        offset: T minus the smallest T; None takes the default.
        dtype: of the model, converted from float64.
        decoder: ``"parabola"`` or ``"distance"``.
        seed: decides random behaviours.
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
        right: checks of behaviours; those with `n` are drawn once per seed.
        sharp: checks just above and below the smallest temperature; those without `n` work at any T
            and are checked at 0.
        offsets: distances from the smallest temperature.
        multiples: vocabularies, relative to the largest that is allowed in each dtype.
        most: largest vocabulary; above it a decoder would be slow, not imprecise.
        codes: number of codes to try for precision, half from each end of the vocabulary.
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


def measure(job: Job) -> Tables:
    """Return what the constructions get right, one table per part.

    - ``"right"``: of how many ``behaviours`` on how many ``inputs`` each (all there are) every
      output is right: ``right`` of ``checked``, and the share ``exact``.
    - ``"sharp"``: the same for random behaviours at ``temperature`` = ``smallest_temperature`` +
      ``offset``, and whether the ``hardest`` behaviour is right.
    - ``"precision"``: how many of the tried codes come out right at V = ``n_tokens`` in ``dtype``,
      and the ``largest`` V that is allowed there.

    ``seed`` is None in rows without random draws, which are the same for every seed.

    Args:
        job: one seed of the study.
    """
    checks = checks_of(job.protocol, job.seed)
    n = sum(map(len, checks.values()))
    found: dict[str, Rows] = {}
    with tqdm(total=n, desc="constructions", disable=not job.progress) as bar:
        for part, own in checks.items():
            for i, check in enumerate(own):
                make = partial(_one_check, part, check)
                found.setdefault(part, []).extend(job.tables(f"{part}-{i}", make)[part])
                bar.update()
    return found


def _one_check(part: str, check: Check) -> Tables:
    return {part: [check_row(part, check)]}


def checks_of(protocol: Protocol, seed: int) -> dict[str, list[Check]]:
    """Return one seed's checks by part.

    Args:
        protocol: sizes.
        seed: decides the random behaviours.
    """
    sharp = []
    for check in protocol.sharp:
        offsets = (0.0,) if check.n is None else protocol.offsets
        sharp += [replace(_seeded(check, seed), offset=offset) for offset in offsets]
    return {
        "right": [_seeded(check, seed) for check in protocol.right],
        "sharp": sharp,
        "precision": _precision_checks(protocol),
    }


def check_row(part: str, check: Check) -> dict[str, Any]:
    """Return one row (see `measure`).

    Args:
        part: ``"right"``, ``"sharp"`` or ``"precision"``.
        check: what to build and how many behaviours to try.
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
    row = asdict(check) | {
        "n_in": built.n_in,
        "n_out": built.n_out,
        "n_slots": built.n_slots,
        "n_layers": host_of(built.model).n_layers,
        "d_model": host_of(built.model).d_model,
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
        row["hardest"] = bool(built.right(built.hardest[None]).all())
    if part == "precision":
        row["largest"] = largest_vocabulary(DTYPES[check.dtype], check.decoder)
    return row


def _seeded(check: Check, seed: int) -> Check:
    return check if check.n is None else replace(check, seed=seed)


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
