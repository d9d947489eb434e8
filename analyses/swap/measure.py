"""Prefixes of Table 2 with each other's keys and values, and side by side, one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import torch
from einops import reduce

from analyses.scores import score_rows
from analyses.study import Job, Rows, Tables
from analyses.table2.models import NAME, PREFIXES, variant
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import to_dtype
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import FOUR_SKILLS, get_task

RANDOM = "norm-matched"


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_test: test sequences of each score.
        n_shares: sequences on which shares of attention are compared.
    """

    n_test: int = 3200
    n_shares: int = 64


PROTOCOLS = {"fast": Protocol(), "smoke": Protocol(n_test=100, n_shares=8)}


def measure(job: Job) -> Tables:
    """Return what swapped and mixed prefixes of one seed do.

    - ``swapped``: kv prefixes with the keys of the one for ``keys_of`` and the values of the one
      for ``values_of``, scored on every ``task``; ``values_of`` and ``keys_of`` may also be
      ``norm-matched``: random directions of the same norms, the control.
    - ``mixed``: two prefixes side by side (``first``, ``second``), scored on both their tasks.
    - ``shares``: the largest difference, over heads, positions and sequences, of the share of
      attention that each of the two takes in the first layer from what their gates alone predict.

    Args:
        job: one seed's work, with the models that Table 2 keeps for this seed.
    """
    kept, tables = job.needs["table2"], {"swapped": [], "mixed": [], "shares": []}
    model = kept.toy(NAME)
    model.to(job.device, print_details=False)
    for kind in ("kv", "residual"):
        own = {t: kept.context(PREFIXES, variant(t, kind)).to(model) for t in FOUR_SKILLS}
        if kind == "kv":
            job.part("swapped", tables["swapped"], partial(_swapped, job, model, own, tables))
        job.part(f"mixed-{kind}", tables["mixed"], partial(_mixed, job, model, own, tables))
        job.part(f"shares-{kind}", tables["shares"], partial(_shares, job, model, own, tables))
    return tables


def with_values_of(keys: Prefix, values: Prefix) -> Prefix:
    """Return a kv prefix with the keys of one and the values of another.

    Args:
        keys: whose keys.
        values: of the same shape; whose values.

    Raises:
        PrefixInterpError: a residual prefix, or two of different shapes or forms.
    """
    if keys.parameterization != "kv" or values.parameterization != "kv":
        raise PrefixInterpError(
            "keys and values can be swapped between kv prefixes alone; tune with "
            "parameterization='kv'"
        )
    _check_alike(keys, values)
    return replace(keys, values=values.values, metadata={})


def side_by_side(first: Prefix, second: Prefix) -> Prefix:
    """Return one prefix with the slots of both.

    Args:
        first: its slots come first.
        second: of the same parameterization, for the same model.

    Raises:
        PrefixInterpError: different parameterizations or shapes.
    """
    if first.parameterization != second.parameterization:
        raise PrefixInterpError(
            f"second is {second.parameterization}, first is {first.parameterization}; give two of "
            "one kind"
        )
    _check_alike(first, second)
    both = second.tensors
    joined = {name: torch.cat([x, both[name]], dim=1) for name, x in first.tensors.items()}
    return replace(first, **joined, metadata={})


def _check_alike(first: Prefix, second: Prefix) -> None:
    shapes = [{name: tuple(x.shape) for name, x in p.tensors.items()} for p in (first, second)]
    if shapes[0] != shapes[1] or first.key_form != second.key_form:
        raise PrefixInterpError(
            f"second has shapes {shapes[1]}, first {shapes[0]}; give two of one shape and key form"
        )


def predicted_shares(
    first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which share of attention each of two prefixes takes when they stand side by side.

    A prefix alone with gate g has g / (1 - g) of the softmax's weight for each unit of the
    content's. These odds add up.

    Args:
        first: odds of a prefix alone: its attention over that of the content.
        second: likewise.
    """
    whole = 1 + first + second
    return first / whole, second / whole


def _random(prefix: Prefix, job: Job, name: str) -> Prefix:
    return norm_matched(prefix, derive_generator(job.seed, "swap", name))


def _swapped(job: Job, model: Model, own: Mapping[str, Prefix], tables: dict[str, Rows]) -> None:
    for keys_of in (*FOUR_SKILLS, RANDOM):
        for values_of in (*FOUR_SKILLS, RANDOM):
            real = [name for name in (keys_of, values_of) if name != RANDOM]
            if not real:
                continue
            keys, values = (
                own[name] if name in own else _random(own[real[0]], job, f"{part} {real[0]}")
                for part, name in (("keys", keys_of), ("values", values_of))
            )
            tables["swapped"] += _scores(
                job, model, with_values_of(keys, values), FOUR_SKILLS,
                keys_of=keys_of, values_of=values_of,
            )  # fmt: skip


def _mixed(job: Job, model: Model, own: Mapping[str, Prefix], tables: dict[str, Rows]) -> None:
    for first, second in combinations(FOUR_SKILLS, 2):
        both = side_by_side(own[first], own[second])
        tables["mixed"] += _scores(job, model, both, (first, second), first=first, second=second)
    for first in FOUR_SKILLS:
        both = side_by_side(own[first], _random(own[first], job, f"mixed {first}"))
        names = {"first": first, "second": RANDOM}
        tables["mixed"] += _scores(job, model, both, (first,), **names)


def _scores(job: Job, model: Model, prefix: Prefix, tasks: Sequence[str], **about: str) -> Rows:
    return score_rows(
        {"seed": job.seed, **about}, model, tasks, prefix, baseline="masked",
        n=job.protocol.n_test,
    )  # fmt: skip


def _shares(job: Job, model: Model, own: Mapping[str, Prefix], tables: dict[str, Rows]) -> None:
    exact = to_dtype(model, torch.float64)
    for first, second in combinations(FOUR_SKILLS, 2):
        pair = [own[name].for_any_model().to(exact) for name in (first, second)]
        tokens = get_task(first).sample(job.protocol.n_shares, "test", job.seed).tokens
        odds = []
        for each in pair:
            taken, left = _taken(exact, each, tokens, [each.n_slots])
            odds.append(taken / left)  # not 1 - taken, which rounds to 0 where a gate is all but 1
        want = predicted_shares(*odds)
        *found, _ = _taken(exact, side_by_side(*pair), tokens, [each.n_slots for each in pair])
        error = max(float((a - b).abs().max()) for a, b in zip(want, found, strict=True))
        tables["shares"].append({
            "seed": job.seed, "parameterization": pair[0].parameterization, "first": first,
            "second": second, "error": error,
            **{f"share_{i}": float(x.mean()) for i, x in enumerate(found)},
        })  # fmt: skip


def _taken(
    model: Model, prefix: Prefix, tokens: torch.Tensor, sizes: Sequence[int]
) -> list[torch.Tensor]:
    """Return the first layer's attention to each group of slots, and to the content behind them."""
    pair = run_pair(model, prefix, tokens.to(host_of(model).device))
    n_pos = tokens.shape[1]
    groups = pair.on[Site.PATTERN.at(0)][..., -n_pos:, :].split([*sizes, n_pos], dim=-1)
    return [reduce(x, "batch head query key -> batch head query", "sum") for x in groups]
