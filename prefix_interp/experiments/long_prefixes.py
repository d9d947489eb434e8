"""How many directions a longer prefix uses (the paper's appendix B, on the models of Table 2).

A prefix of n_s slots can bias a head in n_s directions. The paper's sign that it does not: over
inputs, the attention shared out among the slots hardly moves. Beside that statistic stands the
bias itself: its rank, its effective rank and how many directions carry most of its norm.
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
from prefix_interp.experiments.seed_runs import Rows, finished_seed, measure_seeds, seed_folder
from prefix_interp.experiments.table2 import NAME, table2_toy
from prefix_interp.models.host import Model
from prefix_interp.models.model import clone, to_dtype
from prefix_interp.models.sites import Site
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.inject import attach
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.results import Result
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import read_json
from prefix_interp.tasks import FOUR_SKILLS, get_task
from prefix_interp.theory.subspace import BiasSubspace, bias_subspaces
from prefix_interp.tuning.prefixes import sweep_prefixes
from prefix_interp.tuning.presets import get_preset

CARRIED = (0.95, 0.99)  # shares of the squared norm that directions are counted for


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_prefixes: slots.
        steps: of each tuning.
        lr: of each tuning.
        init_std: of each start.
        n_space: test sequences that the bias is measured on.
        n_items: test sequences that the attention over slots is measured on.
        n_shares: leading singular values that are recorded.
    """

    n_prefixes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    steps: int = 500
    lr: float = 3e-2
    init_std: float = 0.1
    n_space: int = 64
    n_items: int = 1000
    n_shares: int = 8


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(n_prefixes=(1, 3), steps=3, n_space=8, n_items=20),
}


def long_prefixes(
    preset: str = "fast",
    seeds: Sequence[int] = range(3),
    *,
    work: str | Path | None = None,
    table2_work: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return how many directions prefixes of 1 to 32 slots use, tuned for each skill of Table 2.

    ``part`` tells two kinds of records apart. ``"tuning"``: ``train_loss`` and ``evaluation`` of
    a prefix on the ``task`` it was tuned for. ``"bias"``: of a prefix at a ``level``, ``layer``
    and ``head`` the ``bound``, ``rank``, ``effective_rank``, the ``shares`` of the squared norm
    that the leading directions carry, how many carry 95 and 99% of it (``n_95``, ``n_99``), and
    of a head's attention to the slots at the last input position, renormalised to sum to 1:
    ``slot_range``, the paper's statistic (99th less 1st percentile over inputs, mean over slots),
    and ``top_slot``, the mean of the largest share. ``method`` is ``prefix``, or one of the
    controls: ``random prefix``, the start that was tuned, and ``norm-matched prefix``, random
    directions with the tuned prefix's norms.

    Args:
        preset: ``"fast"`` or ``"smoke"``; also which Table 2 to take the models from.
        seeds: each a model of its own; all must be in the work folder of Table 2.
        work: folder for checkpoints, tuned prefixes and finished seeds, to resume after an
            interruption; None keeps nothing.
        table2_work: what `table2` was given as `work`; by default ``work/table2-<preset>``.
        n_jobs: processes; by default one a core.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown preset, or a seed that Table 2 has not finished.
    """
    check_choice("preset", preset, PROTOCOLS)
    for seed in seeds:
        table2_toy(seed, preset, table2_work)
    run_seed = partial(long_prefixes_seed, preset=preset, work=work, table2_work=table2_work)
    return measure_seeds(
        "long-prefixes",
        preset,
        seeds,
        run_seed,
        _settings(preset),
        n_jobs=n_jobs,
        progress=progress,
    )


def _settings(preset: str) -> dict[str, Any]:
    protocol = asdict(PROTOCOLS[preset])
    protocol["n_prefixes"] = list(protocol["n_prefixes"])
    return {"toy": NAME, "preset": asdict(get_preset(preset)), "protocol": protocol}


def long_prefixes_seed(
    seed: int,
    preset: str = "fast",
    work: str | Path | None = None,
    table2_work: str | Path | None = None,
) -> dict[str, Any]:
    """Return one seed's records and its seconds; finished work in `work` is taken from there."""
    toy = table2_toy(seed, preset, table2_work)
    folder = seed_folder(work, seed)
    key = _settings(preset) | {"model": read_json(toy / "model.json")["sha256"]}
    return finished_seed(folder, key, _Seed(seed, preset, folder, load_toy(toy)).run)


class _Seed:
    """One seed's tunings in order, and the rows they give."""

    def __init__(self, seed: int, preset: str, folder: Path | None, model: Model) -> None:
        self.seed, self.preset, self.folder, self.model = seed, preset, folder, model
        self.protocol = PROTOCOLS[preset]
        self.exact = to_dtype(clone(model), torch.float64)  # small directions drown in float32
        self.rows: Rows = []

    def run(self) -> Rows:
        for n_slots in self.protocol.n_prefixes:
            for kind in ("residual", "kv"):
                for task in FOUR_SKILLS:
                    self._tune(task, kind, n_slots)
        return self.rows

    def _tune(self, task: str, kind: str, n_slots: int) -> None:
        name, size, folder = f"{task}-{kind}-{n_slots}", self.protocol, self.folder
        (fit,) = sweep_prefixes(
            self.model, task, n_slots, (size.lr,), parameterization=kind, preset=self.preset,
            seed=self.seed, steps=size.steps, init_std=size.init_std, progress=False,
            checkpoint=None if folder is None else folder / "checkpoints" / f"{name}.safetensors",
        )  # fmt: skip
        if folder is not None:
            fit.prefix.save(folder / "prefixes" / name)
        about = {"seed": self.seed, "task": task, "parameterization": kind, "n_slots": n_slots}
        score = {"train_loss": fit.train_loss, "evaluation": fit.evaluation.to_dict()}
        self.rows.append({**about, "part": "tuning", **score})
        rng = derive_generator(self.seed, "norm-matched", name)
        prefixes = {
            "prefix": fit.prefix,
            "random prefix": Prefix.random(self.model, n_slots, self.seed, kind, size.init_std),
            "norm-matched prefix": norm_matched(fit.prefix, rng),
        }
        for method, prefix in prefixes.items():
            prefix = prefix.for_any_model()
            mass = slot_attention(self.model, prefix, self._tokens(task, size.n_items, "inputs"))
            tokens = self._tokens(task, size.n_space, "all")
            found = bias_rows(self.exact, prefix.to(self.exact), tokens, mass, size.n_shares)
            self.rows += [{**about, "part": "bias", "method": method, **row} for row in found]

    def _tokens(self, task: str, n: int, part: str) -> Int[Tensor, "batch pos"]:
        chosen = get_task(task)
        tokens = chosen.sample(n, split="test", seed=0).tokens
        return tokens[:, : chosen.length] if part == "inputs" else tokens


def bias_rows(
    model: Model,
    prefix: Prefix,
    tokens: Int[Tensor, "batch pos"],
    mass: Float[Tensor, "layer item head slot"],
    n_shares: int,
) -> Rows:
    """Return a row a head, and one for the layer, of each layer (see `long_prefixes`).

    Args:
        model: a supported HookedTransformer, best in float64.
        prefix: a prefix that fits it.
        tokens: what the bias is measured on.
        mass: from `slot_attention`.
        n_shares: how many leading shares are recorded.
    """
    rows: Rows = []
    for layer in range(model.cfg.n_layers):
        ranges, tops = slot_range(mass[layer]), mass[layer].amax(dim=-1).mean(dim=0)
        for space in bias_subspaces(model, prefix, tokens, layer):
            head = space.head
            rows.append(
                {
                    "level": space.level,
                    "layer": layer,
                    "head": head,
                    "bound": space.bound,
                    "rank": space.rank,
                    "effective_rank": space.effective_rank,
                    **_carried(space, n_shares),
                    "slot_range": None if head is None else float(ranges[head]),
                    "top_slot": None if head is None else float(tops[head]),
                }
            )
    return rows


def slot_attention(
    model: Model, prefix: Prefix, inputs: Int[Tensor, "batch pos"]
) -> Float[Tensor, "layer batch head slot"]:
    """Return the last position's attention to the slots, renormalised to sum to 1 at each head.

    Args:
        model: a supported HookedTransformer.
        prefix: a prefix that fits it.
        inputs: content; its last position is the one that asks.
    """
    names = {Site.PATTERN.at(layer) for layer in range(model.cfg.n_layers)}
    with torch.no_grad(), attach(model, prefix):
        _, cache = model.run_with_cache(
            inputs, names_filter=lambda name: name in names, return_cache_object=False
        )
    rows = [cache[Site.PATTERN.at(i)][:, :, -1] for i in range(model.cfg.n_layers)]
    mass = torch.stack(rows)[..., : prefix.n_slots]
    # A head that does not attend to the slots at all shares out nothing.
    return mass / mass.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)


def slot_range(mass: Float[Tensor, "batch head slot"]) -> Float[Tensor, " head"]:
    """Return the paper's statistic: how far each slot's share moves over inputs, mean over slots.

    That is the 99th less the 1st percentile, 0 to 1: near 0 the prefix writes one fixed mixture
    of its values, whatever the input. Of one slot it is 0.
    """
    ends = torch.tensor([0.01, 0.99], dtype=mass.dtype, device=mass.device)
    low, high = mass.quantile(ends, dim=0)
    return (high - low).mean(dim=-1)


def _carried(space: BiasSubspace, n_shares: int) -> dict[str, Any]:
    """Return the leading directions' shares of the squared norm, and how many carry most."""
    if space.rank == 0:
        return {"shares": []} | {f"n_{round(100 * part)}": 0 for part in CARRIED}
    energy = space.singular_values.square()
    shares = energy / energy.sum()
    counts = {
        f"n_{round(100 * part)}": 1 + int((shares.cumsum(0) < part).sum()) for part in CARRIED
    }
    return {"shares": shares[: min(n_shares, space.bound)].tolist(), **counts}
