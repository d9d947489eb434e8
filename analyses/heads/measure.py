"""Which heads do the prefixes of Table 2 elicit? Measured on one seed's model.

Head numbers cannot be compared between seeds. What a head does without a prefix can: ``copy`` is
how much of its attention goes from output i to input i, which adding needs and sorting does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.kept import Kept
from analyses.study import Job, Rows
from analyses.table2.models import NAME, PREFIXES, STARTS, start_name, variant
from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.elicitation import head_elicitation
from prefix_interp.attribution.gradients import attribution_patch
from prefix_interp.attribution.integrated import integrated_gradients
from prefix_interp.attribution.pair import Contrast
from prefix_interp.attribution.patching import patch_heads, patch_slots
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import FOUR_SKILLS, DigitTask, get_task

DIRECTIONS = ("denoise", "noise")
KINDS = ("residual", "kv")


@dataclass(frozen=True)
class Protocol:
    """Sizes of one preset.

    Attributes:
        n: number of test sequences.
        n_random: random prefixes per kind, as controls.
        n_random_circuits: random circuits per size.
        threshold: share of the effect that a circuit must keep.
        metric: the metric of the effects.
    """

    n: int = 64
    n_random: int = 39
    n_random_circuits: int = 20
    threshold: float = 0.95
    metric: str = "log_prob"


PROTOCOLS = {"fast": Protocol(), "smoke": Protocol(n=8, n_random=3, n_random_circuits=2)}


def settings(preset: str) -> dict[str, Any]:
    """Return what a result records about a preset besides the protocol."""
    return {"models": f"table2-{preset}", "baseline": "masked"}


def measure(job: Job) -> dict[str, Rows]:
    """Return what each head of one seed's model does under each prefix, as five tables.

    All rows have ``seed``, ``tuned_on`` and ``parameterization``.

    - ``head``: one row of `Elicitation.to_dataframe` per head and ``direction``, with ``gate``
      renamed ``gate_effect``, ``copy`` (see the module), and ``gate_first``, the mass on the
      prefix at output 0.
    - ``control``: one row of `Elicitation.controls_dataframe` per control, head and direction.
    - ``gating``: the prefix kept (denoise) or dropped (noise) at one head, by gating.
    - ``circuit``: the smallest circuit: ``nodes``, ``size``, ``of``, ``faithfulness``,
      ``completeness``, and ``held_out``, its faithfulness on other sequences; only residual
      prefixes.
    - ``agreement``: rank correlation of an estimate with exact patches, None if all values of one
      side are equal; only residual prefixes.

    Args:
        job: one seed's work, with the models and prefixes that Table 2 keeps for it and the next.
    """
    kept = job.needs["table2"]
    model = kept.toy(NAME).to(job.device, print_details=False)
    model.requires_grad_(False)
    found: dict[str, Rows] = {
        name: [] for name in ("head", "control", "gating", "circuit", "agreement")
    }
    for kind in KINDS:
        for name in FOUR_SKILLS:
            own = job.tables(f"{name}-{kind}", partial(_one_prefix, job, kept, model, name, kind))
            for table, rows in own.items():
                found[table] += rows
    return found


def _one_prefix(job: Job, kept: Kept, model: Model, name: str, kind: str) -> dict[str, Rows]:
    """Return the tables of the prefix of one kind that was tuned for one task."""
    prefix = _tuned(kept, name, kind, model)
    about = {"seed": job.seed, "tuned_on": name, "parameterization": kind}
    task = get_task(name)
    pair = contrast(model, prefix, task, n=job.protocol.n)
    one = _OnePrefix(about, pair, task, job.protocol)
    heads, others = one.elicitation(controls(job, name, kind, prefix, model))
    found = {"head": heads, "control": others, "gating": one.gating()}
    if kind == "residual":
        found |= {"circuit": one.circuit(), "agreement": one.agreement()}
    return found


def _tuned(kept: Kept, task: str, kind: str, model: Model) -> Prefix:
    prefix = kept.context(PREFIXES, variant(task, kind))
    assert isinstance(prefix, Prefix)
    return prefix.to(model)


def controls(job: Job, task: str, kind: str, prefix: Prefix, model: Model) -> dict[str, Prefix]:
    """Return prefixes of another task, start and seed to compare with, as far as they exist.

    Args:
        job: contains the models and prefixes that Table 2 keeps.
        task: the task that `prefix` was tuned for.
        kind: its parameterization.
        prefix: the best of its trial.
        model: the model that all are put into.
    """
    kept, start = job.needs["table2"], prefix.metadata["start"]
    before = FOUR_SKILLS[FOUR_SKILLS.index(task) - 1]
    found = {"another task": _tuned(kept, before, kind, model)}
    named = start_name(variant(task, kind), 0 if start else 1)
    starts = kept.contexts(STARTS)
    if named in starts:
        found["another start"] = starts[named].to(model)
    if "table2" in job.next_needs:
        other = job.next_needs["table2"].context(PREFIXES, variant(task, kind))
        found["another seed"] = other.for_any_model().to(model)
    return found


def copy_attention(
    model: Model, prefix: Prefix, task: DigitTask, n: int = 64
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Return each head's pretrained attention from output i to input i, and its gate at output 0.

    Args:
        model: frozen.
        prefix: used for the gate; the attention is that of the masked baseline.
        task: source of the inputs and answers.
        n: sequences.
    """
    pair = run_pair(model, prefix, task.sample(n, seed=0).tokens)
    first, length = task.length - 1, task.length
    layers = range(host_of(model).n_layers)
    off = torch.stack([pair.off[Site.PATTERN.at(i)][..., -pair.tokens.shape[1] :] for i in layers])
    on = torch.stack([pair.on[Site.PATTERN.at(i)] for i in layers])
    index = torch.arange(length)
    copied = off[:, :, :, first + index, index].mean(dim=(1, 3))
    return copied, on[:, :, :, first, : prefix.n_slots].sum(-1).mean(dim=1)


@dataclass(frozen=True, eq=False)
class _OnePrefix:
    """A prefix with its runs, and the tables measured from it."""

    about: Mapping[str, Any]
    pair: Contrast
    task: DigitTask
    protocol: Protocol

    @property
    def given(self) -> tuple[Model, Prefix, Contrast]:
        """The first arguments of attribution functions, chosen so that nothing runs twice."""
        return self.pair.model, self.pair.prefix, self.pair

    def elicitation(self, others: Mapping[str, Prefix]) -> tuple[Rows, Rows]:
        """Return the rows of the heads and of the controls."""
        copied, gates = copy_attention(self.pair.model, self.pair.prefix, self.task)
        heads: Rows = []
        control: Rows = []
        for direction in DIRECTIONS:
            about = {**self.about, "direction": direction}
            found = head_elicitation(
                *self.given, direction=direction, metric=self.protocol.metric,
                n_random=self.protocol.n_random, controls=others, progress=False,
            )  # fmt: skip
            for row in _records(found.to_dataframe().rename(columns={"gate": "gate_effect"})):
                here = row["layer"], row["head"]
                own = {"copy": float(copied[here]), "gate_first": float(gates[here])}
                heads.append({**about, **own, **row})
            control += [{**about, **row} for row in _records(found.controls_dataframe())]
        return heads, control

    def gating(self) -> Rows:
        rows: Rows = []
        for direction in DIRECTIONS:
            grid = patch_slots(
                *self.given, direction=direction, axes=("layer", "head"), progress=False,
                metrics=(self.protocol.metric, "exact_match"),
            )  # fmt: skip
            about = {**self.about, "direction": direction}
            rows += [{**about, **row} for row in _records(grid.to_dataframe())]
        return rows

    def circuit(self) -> Rows:
        metric, model, prefix = self.protocol.metric, self.pair.model, self.pair.prefix
        circuit = find_circuit(
            *self.given, threshold=self.protocol.threshold, metric=metric,
            n_random=self.protocol.n_random_circuits, progress=False,
        )  # fmt: skip
        fresh = contrast(model, prefix, self.task, n=self.protocol.n, seed=1, metrics=(metric,))
        return [
            {
                **self.about, "nodes": [node.name for node in circuit.nodes],
                "size": len(circuit.nodes), "of": len(circuit.all_nodes), "search": circuit.search,
                "faithfulness": circuit.faithfulness().to_dict(),
                "completeness": circuit.completeness().to_dict(),
                "held_out": circuit.faithfulness(fresh).to_dict(),
                "curves": _records(circuit.curves()),
            }
        ]  # fmt: skip

    def agreement(self) -> Rows:
        given, metrics = self.given, (self.protocol.metric,)
        path = integrated_gradients(*given, over="gates", metric=metrics[0], progress=False)
        rows: Rows = []
        for direction in DIRECTIONS:
            common: dict[str, Any] = {"metrics": metrics, "direction": direction}
            exact = {**common, "progress": False}
            pairs = {
                "gradient of z by position": (
                    attribution_patch(*given, by_position=True, **common),
                    patch_heads(*given, by_position=True, **exact),
                ),
                "gradient of gates": (
                    attribution_patch(*given, site="gate", **common),
                    patch_slots(*given, axes=("layer", "head"), **exact),
                ),
                "integrated gradients of gates": (path, patch_slots(*given, **exact)),
            }
            for name, (estimate, patched) in pairs.items():
                found = estimate.compare_with(patched)._asdict()
                rows.append({**self.about, "direction": direction, "estimate": name, **found})
        return rows


def _records(frame: pd.DataFrame) -> Rows:
    return frame.to_dict("records")
