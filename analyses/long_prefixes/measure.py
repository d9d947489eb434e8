"""How many directions a longer prefix uses (the paper's appendix B, on the models of Table 2).

A prefix of n_s slots can bias a head in n_s directions. The paper takes it as a sign to the
contrary that the distribution of attention over the slots hardly changes between inputs. Measured
here are that statistic and the bias itself: its rank, its effective rank and how many directions
carry most of its norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.study import Job, Rows, Tables
from analyses.table2.models import NAME
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import clone, to_dtype
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import FOUR_SKILLS, get_task
from prefix_interp.theory.subspace import BiasSubspace, bias_subspaces
from prefix_interp.tuning.contexts import ContextFit, tune_prefix

CARRIED = (0.95, 0.99)  # shares of the squared norm that directions are counted for


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_slots: numbers of slots.
        steps: steps of each tuning.
        lr: learning rate of each tuning.
        init_std: standard deviation of each start.
        n_space: number of test sequences to measure the bias on.
        n_items: number of test sequences to measure the attention over slots on.
        n_shares: number of leading shares to record.
    """

    n_slots: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    steps: int = 500
    lr: float = 3e-2
    init_std: float = 0.1
    n_space: int = 64
    n_items: int = 1000
    n_shares: int = 8


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(n_slots=(1, 3), steps=3, n_space=8, n_items=20),
}


def measure(job: Job) -> Tables:
    """Return how many directions prefixes of 1 to 32 slots use, tuned for each skill of Table 2.

    - ``tuning``: ``train_loss`` and ``evaluation`` of a prefix on its own ``task``.
    - ``bias``: per ``level``, ``layer`` and ``head`` the ``bound``, ``rank``, ``effective_rank``,
      the ``shares`` of the squared norm that the leading directions carry, and how many carry 95
      and 99% of it (``n_95``, ``n_99``). For a head there are two statistics of its attention to
      the slots at the last input position, renormalised to sum to 1: ``slot_range``, the paper's
      (99th minus 1st percentile over inputs, mean over slots), and ``top_slot``, the mean of the
      largest share. ``method`` is ``prefix``, or one of the controls: ``random prefix``, the start
      that was tuned, and ``norm-matched prefix``, random directions with the tuned prefix's norms.

    Args:
        job: one seed's work, with the models that Table 2 keeps for this seed.
    """
    model = job.needs["table2"].toy(NAME)
    model.to(job.device, print_details=False)
    exact = clone(model)
    exact.to("cpu", print_details=False)  # some accelerators have no float64
    to_dtype(exact, torch.float64)  # small directions are lost in float32
    tuning: Rows = []
    bias: Rows = []
    for n_slots in job.protocol.n_slots:
        for kind in ("residual", "kv"):
            for task in FOUR_SKILLS:
                rows: Rows = []
                work = partial(_one_prefix, job, rows, model, exact, task, kind, n_slots)
                job.part(f"{task}-{kind}-{n_slots}", rows, work)
                tuning.append(rows[0])
                bias += rows[1:]
    return {"tuning": tuning, "bias": bias}


def _one_prefix(
    job: Job, rows: Rows, model: Model, exact: Model, task: str, kind: str, n_slots: int
) -> None:
    """Add the row of a prefix's tuning to `rows`, then those of its directions."""
    fit = _tune(job, model, task, kind, n_slots)
    about = {"seed": job.seed, "task": task, "parameterization": kind, "n_slots": n_slots}
    rows.append(about | {"train_loss": fit.train_loss, "evaluation": fit.evaluation.to_dict()})
    rows += [about | row for row in _biases(job, model, exact, task, fit.prefix)]


def _tune(job: Job, model: Model, task: str, kind: str, n_slots: int) -> ContextFit:
    """Return a prefix tuned for a task, and keep it."""
    size = job.protocol
    recipe = job.recipe("prefix", lr=size.lr, steps=size.steps, init_std=size.init_std)
    fit = tune_prefix(
        model, task, n_slots, parameterization=kind, recipe=recipe, seed=job.seed,
        checkpoint=job.checkpoint(f"{task}-{kind}-{n_slots}"), progress=job.progress,
    )  # fmt: skip
    if job.keeps is not None:
        job.keeps.save_context("prefixes", f"{task}-{kind}-{n_slots}", fit.prefix)
    return fit


def _biases(job: Job, model: Model, exact: Model, task: str, tuned: Prefix) -> Rows:
    """Return the rows of a tuned prefix and of its two controls.

    Args:
        job: one seed's work.
        model: the toy.
        exact: the same toy in float64.
        task: the task of the prefix.
        tuned: the prefix.
    """
    size, kind, n_slots = job.protocol, tuned.parameterization, tuned.n_slots
    rng = derive_generator(job.seed, "norm-matched", f"{task}-{kind}-{n_slots}")
    prefixes = {
        "prefix": tuned,
        "random prefix": Prefix.random(model, n_slots, job.seed, kind, size.init_std),
        "norm-matched prefix": norm_matched(tuned, rng),
    }
    about = get_task(task)
    items, tokens = (
        about.sample(n, split="test", seed=0).tokens for n in (size.n_items, size.n_space)
    )
    rows: Rows = []
    for method, prefix in prefixes.items():
        prefix = prefix.for_any_model()
        mass = slot_attention(model, prefix, items[:, : about.length])
        found = bias_rows(exact, prefix.to(exact), tokens, mass, size.n_shares)
        rows += [{"method": method, **row} for row in found]
    return rows


def bias_rows(
    model: Model,
    prefix: Prefix,
    tokens: Int[Tensor, "batch pos"],
    mass: Float[Tensor, "layer item head slot"],
    n_shares: int,
) -> Rows:
    """Return one row per head and one row per layer (see `measure`).

    Args:
        model: a supported model, best in float64.
        prefix: a prefix that fits it.
        tokens: content to measure the bias on.
        mass: from `slot_attention`.
        n_shares: number of leading shares to record.
    """
    rows: Rows = []
    for layer in range(host_of(model).n_layers):
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
        model: a supported model.
        prefix: a prefix that fits it.
        inputs: content; the attention is that of its last position.
    """
    names = {Site.PATTERN.at(layer) for layer in range(host_of(model).n_layers)}
    with torch.no_grad(), attach(model, prefix):
        _, cache = model.run_with_cache(
            inputs, names_filter=lambda name: name in names, return_cache_object=False
        )
    rows = [cache[Site.PATTERN.at(i)][:, :, -1] for i in range(host_of(model).n_layers)]
    mass = torch.stack(rows)[..., : prefix.n_slots]
    # A head without any attention to the slots has shares of 0.
    return mass / mass.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)


def slot_range(mass: Float[Tensor, "batch head slot"]) -> Float[Tensor, " head"]:
    """Return the paper's statistic: the range of each slot's share over inputs, mean over slots.

    The range is the 99th minus the 1st percentile, 0 to 1. Near 0 the prefix writes a fixed mixture
    of its values, whatever the input. For a single slot it is 0.
    """
    ends = torch.tensor([0.01, 0.99], dtype=mass.dtype, device=mass.device)
    low, high = mass.quantile(ends, dim=0)
    return (high - low).mean(dim=-1)


def _carried(space: BiasSubspace, n_shares: int) -> dict[str, Any]:
    """Return the leading directions' shares of the squared norm, and how many carry most of it."""
    if space.rank == 0:
        return {"shares": []} | {f"n_{round(100 * part)}": 0 for part in CARRIED}
    energy = space.singular_values.square()
    shares = energy / energy.sum()
    counts = {
        f"n_{round(100 * part)}": 1 + int((shares.cumsum(0) < part).sum()) for part in CARRIED
    }
    return {"shares": shares[: min(n_shares, space.bound)].tolist(), **counts}
