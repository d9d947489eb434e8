"""The subspace in which a prefix acts: its size, what shares it, and whether it matters.

Measured on the models and prefixes of Table 2: rank and effective rank of each task's bias at every
head and layer; principal angles between tasks, starts, parameterizations and heads; and what
remains of the skill if the subspace is removed (`removals`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from analyses.study import Job, Rows, Tables
from analyses.subspaces.angles import Measured, angle_rows
from analyses.subspaces.removals import removal_rows, removals
from analyses.table2.models import NAME, PREFIXES, STARTS
from prefix_interp.errors import check_choice
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import clone, to_dtype
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.results import Result
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import get_task, list_tasks
from prefix_interp.theory.decompose import Decomposition, decompose_attention
from prefix_interp.theory.subspace import BiasSubspace, subspaces_of


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_space: number of train-split sequences to measure subspaces on.
        n_test: number of test-split sequences to score removals on.
        draws: random subspaces to compare each removal with.
        chance_draws: pairs of random subspaces to compare each angle with.
        kinds: which of Table 2's prefixes, by the suffix of their names.
    """

    n_space: int = 64
    n_test: int = 256
    draws: int = 20
    chance_draws: int = 1000
    kinds: tuple[str, ...] = ("residual-std-0.1", "kv-std-0.1")


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(n_space=8, n_test=16, draws=2, chance_draws=20),
}
# For your own toy: the same tables in a fraction of the time.
LIGHT = Protocol(n_space=32, n_test=128, draws=5)


def measure(job: Job) -> Tables:
    """Return what the biases of one seed's prefixes of Table 2 span.

    - ``spectrum``: ``rank``, ``effective_rank``, ``bound`` and ``singular_values`` (up to the
      bound) of a ``task``'s prefix at a ``level``, ``layer`` and ``head``; ``method`` is ``prefix``
      or a control, ``random prefix`` (untuned) or ``norm-matched prefix``.
    - ``angle``: two subspaces ``a`` and ``b``, with their principal ``angles`` (radians), their
      mean, the ``overlap`` (mean squared cosine, 0 to 1), and the same values of random subspaces
      of equal rank (``chance_angle`` with its 95% range, ``chance_overlap``). ``comparison`` names
      what differs: ``tasks``, ``starts`` (random starts of one tuning), ``parameterizations`` or
      ``heads``. Models of different seeds have no common basis, so angles between them would be
      meaningless. Heads are compared after W_O, where they write.
    - ``removal``: see `removal_rows` and `removals`.

    Args:
        job: one seed's work, with the models that Table 2 keeps for this seed.
    """
    kept, kinds = job.needs["table2"], job.protocol.kinds
    best, starts = (
        [p for name, p in kept.contexts(group).items() if any(f"-{k}" in name for k in kinds)]
        for group in (PREFIXES, STARTS)
    )
    model = kept.toy(NAME)
    model.to(job.device, print_details=False)
    return subspace_tables(model, best, starts, protocol=job.protocol, seed=job.seed, part=job.part)


def toy_subspaces(
    name_or_path: str | Path = NAME, *, protocol: Protocol = LIGHT, preset: str = "fast",
    seed: int = 0,
) -> Result:  # fmt: skip
    """Return the same tables for one toy and its saved prefixes, without starts.

    Args:
        name_or_path: a name in the zoo or your own folder, as for `load_toy`.
        protocol: sizes.
        preset: preset of the toy's training, to label the result.
        seed: the toy's seed; also chooses controls and sequences.
    """
    began = time.perf_counter()
    found = list(load_prefixes(name_or_path).values())
    tables = subspace_tables(load_toy(name_or_path), found, protocol=protocol, seed=seed)
    settings = {"toy": str(name_or_path), "protocol": asdict(protocol)}
    timing = {"wall_s": round(time.perf_counter() - began, 1)}
    return Result("subspaces", preset, [seed], settings, tables, timing=timing)


def subspace_tables(
    model: Model,
    prefixes: Sequence[Prefix],
    starts: Sequence[Prefix] = (),
    *,
    protocol: Protocol = LIGHT,
    seed: int = 0,
    part: Callable[[str, Rows, Callable[[], object]], None] | None = None,
) -> Tables:
    """Return the tables of one model and its tuned prefixes (see `measure`).

    Args:
        model: a supported model, in float32 or float64.
        prefixes: the best per task and variant, with the task in the metadata.
        starts: prefixes of the same tunings from several random starts, to compare.
        protocol: sizes.
        seed: chooses controls and sequences.
        part: `Job.part`, which keeps finished parts; None keeps nothing.

    Raises:
        PrefixInterpError: a prefix of another model, or one that names no task.
    """
    part = Job(seed, "", protocol).part if part is None else part
    exact = clone(model)
    exact.to("cpu", print_details=False)  # some accelerators have no float64
    to_dtype(exact, torch.float64)  # faint directions are lost in float32

    def measured(prefix: Prefix, task: str | None = None) -> Measured:
        task = str(prefix.metadata.get("task")) if task is None else task
        check_choice("prefix.metadata['task']", task, list_tasks())
        tokens = get_task(task).sample(protocol.n_space, split="train", seed=seed).tokens
        prefix = prefix.to(exact)
        parts = decompose_attention(run_pair(exact, prefix, tokens))
        layers = [
            subspaces_of(parts, exact, prefix.n_slots, i) for i in range(host_of(exact).n_layers)
        ]
        return Measured(prefix, task, layers, _content(parts, layers))

    best = [measured(prefix) for prefix in prefixes]
    others = [measured(prefix) for prefix in starts]
    spectrum: Rows = []
    for own in best:
        controls = {
            "random prefix": Prefix.random(
                exact, own.prefix.n_slots, seed, own.prefix.parameterization,
                float(own.prefix.metadata.get("recipe", {}).get("init_std", 1.0)),
            ),
            "norm-matched prefix": norm_matched(
                own.prefix,
                derive_generator(seed, "subspaces", own.task, own.prefix.parameterization),
            ).for_any_model(),
        }  # fmt: skip
        spectrum += _spectrum_rows(own, "prefix", seed)
        for method, prefix in controls.items():
            spectrum += _spectrum_rows(measured(prefix, own.task), method, seed)
    angles: Rows = []

    def compare() -> None:
        found = angle_rows(exact, best, others, protocol.chance_draws)
        angles.extend({"seed": seed, **row} for row in found)

    part("angles", angles, compare)
    removed: Rows = []

    def remove(own: Measured) -> None:
        rivals = [o.all for o in best if o.about == own.about | {"task": o.task} and o is not own]
        batch = get_task(own.task).sample(protocol.n_test, split="test", seed=0)
        batch = batch.to(host_of(model).device)
        chosen = removals(own.all, rivals, own.content, protocol.draws, seed)
        about = {"seed": seed, **own.about}
        removed.extend(removal_rows(about, model, own.prefix.to(model), batch, chosen))

    for i, own in enumerate(best):
        part(f"removals-{i}", removed, partial(remove, own))
    return {"spectrum": spectrum, "angle": angles, "removal": removed}


def _content(parts: Decomposition, layers: list[list[BiasSubspace]]) -> list[BiasSubspace]:
    """Return the strongest directions of (1 - g) t at every head, as many as in the bias."""
    found = []
    for layer, spaces in enumerate(layers):
        rows = parts.scaled_base[layer].transpose(0, 1).flatten(1, 2)  # head row d_head
        _, s, vh = torch.linalg.svd(rows, full_matrices=False)
        for h, own in enumerate(spaces[:-1]):
            keep = max(own.rank, 1)
            values = s[h, :keep] if own.rank else torch.zeros_like(s[h, :1])
            found.append(
                BiasSubspace("head", layer, h, own.bound, values, vh[h, :keep], own.n_rows)
            )
    return found


def _spectrum_rows(own: Measured, method: str, seed: int) -> Rows:
    return [
        {
            "seed": seed,
            "method": method,
            **own.about,
            "level": space.level,
            "layer": space.layer,
            "head": space.head,
            "bound": space.bound,
            "rank": space.rank,
            "effective_rank": space.effective_rank,
            "singular_values": space.singular_values[: space.bound].tolist(),
        }
        for space in own.all
    ]
