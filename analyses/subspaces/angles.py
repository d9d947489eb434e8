"""Principal angles between the biases of prefixes, and between random subspaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.study import Rows
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.projection import through_output
from prefix_interp.theory.subspace import BiasSubspace


class Measured(NamedTuple):
    """The subspaces of one prefix.

    Attributes:
        prefix: the prefix.
        task: the task it was tuned for.
        layers: for each layer, its heads' subspaces and, last, its own.
        content: for every head, equally many of the strongest directions of (1 - g) t.
    """

    prefix: Prefix
    task: str
    layers: list[list[BiasSubspace]]
    content: list[BiasSubspace]

    @property
    def all(self) -> list[BiasSubspace]:
        """Return the subspaces of all heads and layers."""
        return [space for layer in self.layers for space in layer]

    @property
    def about(self) -> dict[str, Any]:
        """Return the keys that describe the prefix in a record."""
        kind, n_slots = str(self.prefix.parameterization), self.prefix.n_slots
        return {"task": self.task, "parameterization": kind, "n_slots": n_slots}


def angle_rows(
    model: Model, best: Sequence[Measured], starts: Sequence[Measured], draws: int
) -> Rows:
    """Return one row per pair of subspaces that differ in one thing (see `measure`).

    Args:
        model: its W_O maps heads to d_model.
        best: one prefix per task and variant.
        starts: prefixes of one tuning from several starts, with the start in the metadata.
        draws: number of random pairs.
    """
    rows: Rows = []
    for a, b in combinations(best, 2):
        same_kind = a.about | {"task": None} == b.about | {"task": None}
        if same_kind and a.task != b.task:
            about = a.about | {"comparison": "tasks", "task": None, "a": a.task, "b": b.task}
            rows += _between(a, b, about, draws)
        elif a.task == b.task and a.prefix.n_slots == b.prefix.n_slots:
            names = {which: x.prefix.parameterization for which, x in (("a", a), ("b", b))}
            about = a.about | {"comparison": "parameterizations", "parameterization": None}
            rows += _between(a, b, about | names, draws)
    for a, b in combinations(starts, 2):
        if a.about == b.about:
            names = {which: x.prefix.metadata.get("start") for which, x in (("a", a), ("b", b))}
            rows += _between(a, b, a.about | {"comparison": "starts"} | names, draws)
    chances: dict[tuple[int, ...], dict[str, Any]] = {}
    for own in best:
        rows += list(_between_heads(model, own, draws, chances))
    return rows


def _between(a: Measured, b: Measured, about: dict[str, Any], draws: int) -> Rows:
    """Return one row per head, and one per layer, for two prefixes of one model."""
    rows = []
    for one, two in zip(a.all, b.all, strict=True):
        if not one.rank or not two.rank:
            continue  # nothing is written, so there is no direction
        ranks, dim = sorted((one.rank, two.rank)), one.directions.shape[1]
        chance = _isotropic_chance(ranks[0], ranks[1], dim, draws)
        place = {"level": one.level, "layer": one.layer, "head": one.head, "dim": dim}
        rows.append({**about, **place, **_angles(one, two), **chance})
    return rows


def _between_heads(
    model: Model, own: Measured, draws: int, chances: dict[tuple[int, ...], Any]
) -> Iterator[dict[str, Any]]:
    """Yield one row per pair of heads of one layer, compared in the residual stream."""
    for layer, spaces in enumerate(own.layers):
        w_o = host_of(model).attention(layer).W_O.detach().double()
        for one, two in combinations([s for s in spaces[:-1] if s.rank], 2):
            key = (layer, int(one.head or 0), int(two.head or 0), one.rank, two.rank)
            if key not in chances:
                rng = derive_generator(0, "chance-heads", *key)
                drawn = [
                    _noise(rng, draws, s.rank, s.directions.shape[1]) @ w_o[s.head].cpu()
                    for s in (one, two)
                ]
                chances[key] = _chance(drawn[0], drawn[1])
            yield {
                **own.about,
                "comparison": "heads",
                "a": one.head,
                "b": two.head,
                "level": "written",
                "layer": layer,
                "head": None,
                "dim": w_o.shape[-1],
                **_angles(through_output(model, one), through_output(model, two)),
                **chances[key],
            }


def _angles(one: BiasSubspace, two: BiasSubspace) -> dict[str, Any]:
    angles = one.principal_angles(two).double()
    return {
        "angles": angles.tolist(),
        "mean_angle": float(angles.mean()),
        "overlap": float(angles.cos().square().mean()),
    }


@lru_cache
def _isotropic_chance(low_rank: int, rank: int, dim: int, draws: int) -> dict[str, Any]:
    """Return the same values for random subspaces, with their mean overlap in closed form."""
    rng = derive_generator(0, "chance", low_rank, rank, dim)
    found = _chance(_noise(rng, draws, low_rank, dim), _noise(rng, draws, rank, dim))
    # The mean squared cosine of a direction with a random subspace of rank r is r / dim.
    return found | {"chance_overlap": rank / dim}


def _noise(rng: torch.Generator, draws: int, rank: int, dim: int) -> Tensor:
    return torch.randn(draws, rank, dim, generator=rng, dtype=torch.float64)


def _chance(
    a: Float[Tensor, "draw direction_a dim"], b: Float[Tensor, "draw direction_b dim"]
) -> dict[str, Any]:
    one, two = (torch.linalg.qr(x.mT)[0] for x in (a, b))
    cosines = torch.linalg.svdvals(one.mT @ two).clamp(0, 1)
    mean = cosines.acos().mean(dim=-1)
    ends = mean.quantile(torch.tensor([0.025, 0.975], dtype=mean.dtype)).tolist()
    angle = {"value": float(mean.mean()), "low": ends[0], "high": ends[1]}
    return {"chance_angle": angle, "chance_overlap": float(cosines.square().mean())}
