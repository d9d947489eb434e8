"""The subspace in which a prefix acts: how large, shared with what, and whether it matters.

On the models and prefixes of Table 2: rank and effective rank of each task's bias at every head
and layer; principal angles between tasks, starts, parameterizations and heads; and what is left
of the skill when the subspace is taken out (`projecting_out`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prefix_interp.errors import check_choice
from prefix_interp.experiments.projecting_out import removal_rows, removals
from prefix_interp.experiments.seed_runs import Rows, finished_seed, measure_seeds, seed_folder
from prefix_interp.experiments.subspace_angles import Measured, angle_rows
from prefix_interp.experiments.table2 import NAME, table2_toy
from prefix_interp.models.host import Model
from prefix_interp.models.model import clone, to_dtype
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.results import Result
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import read_json
from prefix_interp.tasks import Batch, get_task, list_tasks
from prefix_interp.theory.decompose import Decomposition, decompose_attention
from prefix_interp.theory.subspace import BiasSubspace, subspaces_of


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_space: sequences of the train split that a subspace is measured on.
        n_test: sequences of the test split that a removal is scored on.
        draws: random subspaces that stand beside each removal.
        chance_draws: pairs of random subspaces that stand beside each angle.
        kinds: which of Table 2's prefixes, by what their folders end in.
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
# For a toy in the report: the same rows in a fraction of the time.
LIGHT = Protocol(n_space=32, n_test=128, draws=5)


def subspaces(
    preset: str = "fast",
    seeds: Sequence[int] = range(10),
    *,
    work: str | Path | None = None,
    table2_work: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return what the biases of Table 2's prefixes span, over `seeds`.

    ``part`` tells three kinds of records apart:

    - ``"spectrum"``: ``rank``, ``effective_rank``, ``bound`` and ``singular_values`` (as many as
      the bound) of a ``task``'s prefix at a ``level``, ``layer`` and ``head``; ``method`` is
      ``prefix`` or a control, ``random prefix`` (untuned) or ``norm-matched prefix``.
    - ``"angle"``: two subspaces ``a`` and ``b``, with their principal ``angles`` (radians), their
      mean, the ``overlap`` (mean squared cosine, 0 to 1), and what two random subspaces of equal
      rank have in their place (``chance_angle`` with its 95% range, ``chance_overlap``).
      ``comparison`` says what differs: ``tasks``, ``starts`` (random starts of one tuning),
      ``parameterizations`` or ``heads``. Models of different seeds share no basis, so that angles
      between them would say nothing. Heads are compared where they write, behind W_O.
    - ``"removal"``: see `removal_rows` and `removals`.

    Args:
        preset: ``"fast"`` or ``"smoke"``; which Table 2 to take the prefixes from.
        seeds: each a model of its own; all must be in the work folder of Table 2.
        work: folder for finished seeds; None keeps nothing.
        table2_work: what `table2` was given as `work`; by default ``work/table2-<preset>``.
        n_jobs: processes; by default one a core.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown preset, or a seed that Table 2 has not finished.
    """
    check_choice("preset", preset, PROTOCOLS)
    for seed in seeds:
        table2_toy(seed, preset, table2_work)
    run_seed = partial(subspaces_seed, preset=preset, work=work, table2_work=table2_work)
    return measure_seeds(
        "subspaces", preset, seeds, run_seed, _settings(preset), n_jobs=n_jobs, progress=progress
    )


def _settings(preset: str) -> dict[str, Any]:
    protocol = asdict(PROTOCOLS[preset])
    return {"toy": NAME, "protocol": protocol | {"kinds": list(protocol["kinds"])}}


def subspaces_seed(
    seed: int,
    preset: str = "fast",
    work: str | Path | None = None,
    table2_work: str | Path | None = None,
) -> dict[str, Any]:
    """Return one seed's records and its seconds; finished work in `work` is taken from there."""
    toy, protocol = table2_toy(seed, preset, table2_work), PROTOCOLS[preset]
    files = sorted(
        file
        for kind in protocol.kinds
        for folder in (toy / "prefixes", toy.parent / "starts")
        for file in folder.glob(f"*-{kind}*/prefix.json")
    )
    # Other weights make other work: their checksums are part of the key.
    sums = {str(f.parent.relative_to(toy.parent)): read_json(f)["sha256"] for f in files}
    key = _settings(preset) | {"model": read_json(toy / "model.json")["sha256"], "files": sums}

    def run() -> Rows:
        found = [(f.parent, Prefix.load(f.parent)) for f in files]
        best = [prefix for path, prefix in found if path.parent.name == "prefixes"]
        starts = [prefix for path, prefix in found if path.parent.name == "starts"]
        return subspace_records(load_toy(toy), best, starts, protocol=protocol, seed=seed)

    return finished_seed(seed_folder(work, seed), key, run)


def toy_subspaces(
    name_or_path: str | Path = NAME, *, protocol: Protocol = LIGHT, preset: str = "fast",
    seed: int = 0,
) -> Result:  # fmt: skip
    """Return the same records for one toy of the zoo and its prefixes, without starts.

    Args:
        name_or_path: as for `load_toy`.
        protocol: sizes.
        preset: that the toy was trained with, to label the result.
        seed: of the toy; also chooses controls and sequences.
    """
    began = time.perf_counter()
    found = list(load_prefixes(name_or_path).values())
    records = subspace_records(load_toy(name_or_path), found, protocol=protocol, seed=seed)
    sizes = asdict(protocol) | {"kinds": list(protocol.kinds)}
    settings = {"toy": str(name_or_path), "protocol": sizes}
    timing = {"wall_s": round(time.perf_counter() - began, 1)}
    return Result("subspaces", preset, [seed], settings, records, timing=timing)


def subspace_records(
    model: Model,
    prefixes: Sequence[Prefix],
    starts: Sequence[Prefix] = (),
    *,
    protocol: Protocol = LIGHT,
    seed: int = 0,
) -> Rows:
    """Return the records of one model and its tuned prefixes (see `subspaces`).

    Args:
        model: a supported HookedTransformer, in float32 or float64.
        prefixes: the best of each task and variant, with their task in the metadata.
        starts: prefixes of the same tunings from several random starts, to compare.
        protocol: sizes.
        seed: chooses controls and sequences.

    Raises:
        PrefixInterpError: a prefix of another model, or one that names no task.
    """
    exact = clone(model)
    exact.to("cpu", print_details=False)  # some accelerators have no float64
    to_dtype(exact, torch.float64)  # faint directions drown in float32

    def measure(prefix: Prefix, task: str | None = None) -> Measured:
        task = str(prefix.metadata.get("task")) if task is None else task
        check_choice("prefix.metadata['task']", task, list_tasks())
        tokens = get_task(task).sample(protocol.n_space, split="train", seed=seed).tokens
        prefix = prefix.to(exact)
        parts = decompose_attention(run_pair(exact, prefix, tokens))
        layers = [subspaces_of(parts, exact, prefix.n_slots, i) for i in range(exact.cfg.n_layers)]
        return Measured(prefix, task, layers, _content(parts, layers))

    best = [measure(prefix) for prefix in prefixes]
    others = [measure(prefix) for prefix in starts]
    rows: Rows = []
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
        rows += _spectrum_rows(own, "prefix", seed)
        for method, prefix in controls.items():
            rows += _spectrum_rows(measure(prefix, own.task), method, seed)
    rows += [
        {"seed": seed, "part": "angle", **row}
        for row in angle_rows(exact, best, others, protocol.chance_draws)
    ]
    for own in best:
        rivals = [o.all for o in best if o.about == own.about | {"task": o.task} and o is not own]
        batch = get_task(own.task).sample(protocol.n_test, split="test", seed=0)
        batch = Batch(*(x.to(model.W_E.device) for x in batch))
        chosen = removals(own.all, rivals, own.content, protocol.draws, seed)
        rows += removal_rows(
            {"seed": seed, **own.about}, model, own.prefix.to(model), batch, chosen
        )
    return rows


def _content(parts: Decomposition, layers: list[list[BiasSubspace]]) -> list[BiasSubspace]:
    """Return the strongest directions of (1 - g) t at every head, as many as the bias has."""
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
            "part": "spectrum",
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
