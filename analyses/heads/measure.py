"""Which heads do the prefixes of Table 2 elicit? Measured on every seed's model.

Heads of different seeds have nothing to do with each other by number. What can be compared is
what a head does without a prefix: ``copy``, how much of its attention goes from output i to
input i, which is what adding needs and sorting does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.elicitation import measure_elicitation
from prefix_interp.attribution.gradients import (
    agreement,
    attribution_patch,
    integrated_gradients,
)
from prefix_interp.attribution.patching import patch_heads, patch_slots
from prefix_interp.errors import check_choice
from prefix_interp.experiments.seed_runs import Rows, finished_seed, measure_seeds, seed_folder
from prefix_interp.experiments.table2 import NAME, table2_toy
from prefix_interp.models.host import Model
from prefix_interp.models.sites import Site
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.results import Result
from prefix_interp.storage import read_json
from prefix_interp.tasks import FOUR_SKILLS, Task, get_task

DIRECTIONS = ("denoise", "noise")
KINDS = ("residual", "kv")


@dataclass(frozen=True)
class Protocol:
    """Sizes of one preset."""

    n: int = 64
    n_random: int = 39
    n_random_circuits: int = 20
    threshold: float = 0.95
    metric: str = "log_prob"


PROTOCOLS = {"fast": Protocol(), "smoke": Protocol(n=8, n_random=3, n_random_circuits=2)}


def heads(
    preset: str = "fast",
    seeds: Sequence[int] = range(10),
    *,
    work: str | Path | None = None,
    table2_work: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return which heads the prefixes of Table 2 elicit, on every seed's model.

    Records are of five kinds (key ``record``), each with ``seed``, ``tuned_on`` and
    ``parameterization``:

    - ``head``: a row of `Elicitation.to_dataframe` with its ``direction``, and of the head itself
      ``copy`` (see the module) and ``gate`` renamed ``gate_effect``; ``gate_first`` is the mass
      on the prefix at output 0.
    - ``control``: a row of `Elicitation.controls_dataframe` with its ``direction``.
    - ``gating``: the prefix kept (denoise) or dropped (noise) at one head, by its mass.
    - ``circuit``: the smallest circuit: ``nodes``, ``size``, ``of``, ``faithfulness``,
      ``completeness``, and ``held_out``, its faithfulness on other sequences.
    - ``agreement``: rank correlation of an estimate with exact patches.

    Args:
        preset: ``"fast"`` or ``"smoke"``.
        seeds: those of the Table 2 run.
        work: folder of finished seeds, to resume after an interruption; None keeps nothing.
        table2_work: work folder of `table2` with its models and prefixes; by default
            ``work/table2-PRESET``.
        n_jobs: processes; by default one a core.
        progress: show a bar.

    Raises:
        PrefixInterpError: an unknown preset, or models that are missing.
    """
    check_choice("preset", preset, PROTOCOLS)
    for seed in seeds:
        table2_toy(seed, preset, table2_work)  # missing ones are named before the work begins
    settings = {**asdict(PROTOCOLS[preset]), "models": f"table2-{preset}", "baseline": "masked"}
    run_seed = partial(heads_seed, preset=preset, work=work, table2_work=table2_work)
    return measure_seeds(
        "heads", preset, seeds, run_seed, settings, n_jobs=n_jobs, progress=progress
    )


def heads_seed(
    seed: int,
    preset: str = "fast",
    work: str | Path | None = None,
    table2_work: str | Path | None = None,
) -> dict[str, Any]:
    """Return one seed's records and its seconds; finished work in `work` is taken from there."""
    folder = seed_folder(work, seed)
    toy, protocol = table2_toy(seed, preset, table2_work), PROTOCOLS[preset]
    # Other weights make other work: their checksum is part of the key.
    key = {"protocol": asdict(protocol), "model": read_json(toy / "model.json")["sha256"]}
    return finished_seed(
        folder, key, lambda: _measure(load_toy(toy), toy.parent.parent, seed, protocol)
    )


def _measure(model: Model, source: Path, seed: int, protocol: Protocol) -> Rows:
    model.requires_grad_(False)
    rows: Rows = []
    for kind in KINDS:
        for i, name in enumerate(FOUR_SKILLS):
            prefix = _prefix(source, seed, name, kind)
            controls = {"another task": _prefix(source, seed, FOUR_SKILLS[i - 1], kind)}
            if (start := _another_start(source, seed, name, kind, prefix)) is not None:
                controls["another start"] = start
            if (other := _another_seed(source, seed, name, kind)) is not None:
                controls["another seed"] = other
            about = {"seed": seed, "tuned_on": name, "parameterization": kind}
            rows += _elicitation(about, model, prefix, get_task(name), controls, protocol)
            rows += _gating(about, model, prefix, get_task(name), protocol)
            if kind == "residual":
                rows += _circuit(about, model, prefix, get_task(name), protocol)
                rows += _agreement(about, model, prefix, get_task(name), protocol)
    return rows


def _prefix(source: Path, seed: int, task: str, kind: str) -> Prefix:
    folder = source / f"seed-{seed}" / NAME / "prefixes"
    return Prefix.load(folder / f"{task}-{kind}-std-0.1")


def _another_start(source: Path, seed: int, task: str, kind: str, prefix: Prefix) -> Prefix | None:
    """Return the first start's prefix that is not the chosen one; None if there was one start."""
    found = sorted((source / f"seed-{seed}" / "starts").glob(f"{task}-{kind}-std-0.1-start-*"))
    others = [Prefix.load(folder) for folder in found]
    return next((p for p in others if p.metadata["start"] != prefix.metadata["start"]), None)


def _another_seed(source: Path, seed: int, task: str, kind: str) -> Prefix | None:
    """Return the same task's prefix of the next seed's model (the first behind the last)."""
    seeds = sorted(int(f.parent.name.split("-")[1]) for f in source.glob("seed-*/records.json"))
    if len(seeds) < 2:
        return None
    other = seeds[(seeds.index(seed) + 1) % len(seeds)]
    return _prefix(source, other, task, kind).for_any_model()


def copy_attention(
    model: Model, prefix: Prefix, task: Task, n: int = 64
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Return each head's pretrained attention from output i to input i, and its gate at output 0.

    Args:
        model: frozen.
        prefix: gives the gate; the attention is of the masked baseline.
        task: whose inputs and answers are fed.
        n: sequences.
    """
    pair = run_pair(model, prefix, task.sample(n, seed=0).tokens)
    first, length = task.length - 1, task.length
    layers = range(model.cfg.n_layers)
    off = torch.stack([pair.off[Site.PATTERN.at(i)][..., -pair.tokens.shape[1] :] for i in layers])
    on = torch.stack([pair.on[Site.PATTERN.at(i)] for i in layers])
    index = torch.arange(length)
    copied = off[:, :, :, first + index, index].mean(dim=(1, 3))
    return copied, on[:, :, :, first, : prefix.n_slots].sum(-1).mean(dim=1)


def _elicitation(
    about: Mapping[str, Any], model: Model, prefix: Prefix, task: Task,
    controls: Mapping[str, Prefix], protocol: Protocol,
) -> Rows:  # fmt: skip
    copied, gates = copy_attention(model, prefix, task)
    rows: Rows = []
    for direction in DIRECTIONS:
        found = measure_elicitation(
            model, prefix, task, direction=direction, metric=protocol.metric,
            n_random=protocol.n_random, controls=controls, n=protocol.n, progress=False,
        )  # fmt: skip
        for row in found.to_dataframe().rename(columns={"gate": "gate_effect"}).to_dict("records"):
            here = row["layer"], row["head"]
            own = {"copy": float(copied[here]), "gate_first": float(gates[here])}
            rows.append({"record": "head", **about, "direction": direction, **own, **row})
        for row in found.controls_dataframe().to_dict("records"):
            rows.append({"record": "control", **about, "direction": direction, **row})
    return rows


def _gating(
    about: Mapping[str, Any], model: Model, prefix: Prefix, task: Task,
    protocol: Protocol,
) -> Rows:  # fmt: skip
    rows: Rows = []
    for direction in DIRECTIONS:
        grid = patch_slots(
            model, prefix, task, direction=direction, axes=("layer", "head"), n=protocol.n,
            metrics=(protocol.metric, "exact_match"), progress=False,
        )  # fmt: skip
        for row in grid.to_dataframe().to_dict("records"):
            rows.append({"record": "gating", **about, "direction": direction, **row})
    return rows


def _circuit(
    about: Mapping[str, Any], model: Model, prefix: Prefix, task: Task,
    protocol: Protocol,
) -> Rows:  # fmt: skip
    circuit = find_circuit(
        model, prefix, task, threshold=protocol.threshold, metric=protocol.metric, n=protocol.n,
        n_random=protocol.n_random_circuits, progress=False,
    )  # fmt: skip
    fresh = contrast(model, prefix, task, n=protocol.n, seed=1, metrics=(protocol.metric,))
    return [
        {
            "record": "circuit", **about, "nodes": [node.name for node in circuit.nodes],
            "size": len(circuit.nodes), "of": len(circuit.all_nodes), "search": circuit.search,
            "faithfulness": circuit.faithfulness().to_dict(),
            "completeness": circuit.completeness().to_dict(),
            "held_out": circuit.faithfulness(fresh).to_dict(),
            "curves": circuit.curves().to_dict("records"),
        }
    ]  # fmt: skip


def _agreement(
    about: Mapping[str, Any], model: Model, prefix: Prefix, task: Task,
    protocol: Protocol,
) -> Rows:  # fmt: skip
    common: dict[str, Any] = {"n": protocol.n}
    metric = protocol.metric
    rows: Rows = []
    for direction in DIRECTIONS:
        quiet = {"metrics": (metric,), "progress": False, "direction": direction, **common}
        by_position = patch_heads(model, prefix, task, by_position=True, **quiet)
        gating = patch_slots(model, prefix, task, axes=("layer", "head"), **quiet)
        by_slot = patch_slots(model, prefix, task, **quiet)
        one_pass = {"direction": direction, "metric": metric, **common}
        estimates = {
            "gradient of z by position": (
                attribution_patch(model, prefix, task, by_position=True, **one_pass), by_position
            ),
            "gradient of gates": (
                attribution_patch(model, prefix, task, site="gate", **one_pass), gating
            ),
            "integrated gradients of gates": (
                integrated_gradients(model, prefix, task, over="gates", metric=metric,
                                     progress=False, **common), by_slot
            ),
        }  # fmt: skip
        for name, (estimate, exact) in estimates.items():
            found = agreement(estimate, exact, metric)._asdict()
            rows.append({"record": "agreement", **about, "direction": direction, "estimate": name,
                         **found})  # fmt: skip
    return rows
