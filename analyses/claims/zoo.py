"""The shipped models of Table 1 with their prefixes, and their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.report.evidence import Evidence
from analyses.table1.measure import FINE_TUNED, NEW, PRETRAINED
from prefix_interp.models.host import Model
from prefix_interp.models.model import to_dtype
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.baselines import RunPair, run_pair
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.tasks import get_task
from prefix_interp.theory.decompose import Decomposition, decompose_attention

N_SEQUENCES = 256


@dataclass(frozen=True)
class Zoo:
    """The trained models and prefixes of the report, in float64.

    Attributes:
        pretrained: a model that sorts ascending.
        fine_tuned: the same model, fully fine-tuned to sort descending.
        prefixes: tuned on `pretrained` to sort descending, by their name in the zoo.
        tokens: test sequences of sort descending, answers fed in (teacher forcing).
        n_out: outputs of each sequence; the last `n_out` positions predict them.
    """

    pretrained: Model
    fine_tuned: Model
    prefixes: Mapping[str, Prefix]
    tokens: Int[Tensor, "batch pos"]
    n_out: int


def load_zoo(evidence: Evidence) -> Zoo:
    """Return the models and prefixes of Table 1 with test sequences; for `Evidence.once`.

    Args:
        evidence: defines the sequences, and the device of the models.
    """
    models = []
    for name in (PRETRAINED, FINE_TUNED):
        model = to_dtype(load_toy(name), torch.float64)
        models.append(model.to(evidence.device, print_details=False))
    pretrained, fine_tuned = models
    found = {name: p.to(pretrained) for name, p in load_prefixes(PRETRAINED).items()}
    order = sorted(found, key=lambda k: (found[k].parameterization == "kv", found[k].n_slots))
    task = get_task(NEW)
    tokens = task.sample(N_SEQUENCES, split="test", seed=evidence.seed).tokens.to(evidence.device)
    return Zoo(pretrained, fine_tuned, {k: found[k] for k in order}, tokens, task.length)


def zoo_runs(evidence: Evidence) -> dict[str, tuple[RunPair, Decomposition]]:
    """Return the decomposed run of every prefix of the zoo, by name; for `Evidence.once`.

    Args:
        evidence: contains the zoo.
    """
    zoo = evidence.once(load_zoo)
    pairs = {
        name: run_pair(zoo.pretrained, prefix, zoo.tokens) for name, prefix in zoo.prefixes.items()
    }
    return {name: (pair, decompose_attention(pair)) for name, pair in pairs.items()}
