"""The shipped four-skill model with its prefixes and test sequences, ready to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.table2 import NAME
from prefix_interp.models.host import Model
from prefix_interp.models.model import to_dtype
from prefix_interp.models.zoo import list_toys, load_toy
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.tasks import FOUR_SKILLS, Batch, get_task

N_SEQUENCES = 256


@dataclass(frozen=True)
class Skills:
    """A model of four skills and what elicits each of them.

    Attributes:
        model: pretrained on the unlabelled mixture.
        prefixes: residual, one slot, by the task they were tuned for.
        kv_prefixes: the same in the other parameterization.
        batches: test sequences by task, the same inputs in each, answers fed in.
    """

    model: Model
    prefixes: Mapping[str, Prefix]
    kv_prefixes: Mapping[str, Prefix]
    batches: Mapping[str, Batch]


def load_skills(
    seed: int = 0,
    device: str = "cpu",
    n_sequences: int = N_SEQUENCES,
    dtype: torch.dtype = torch.float32,
) -> Skills:
    """Return the four-skill model of the zoo with its prefixes and test sequences.

    Args:
        seed: chooses the sequences.
        device: where the model runs.
        n_sequences: how many.
        dtype: the model's.

    Raises:
        PrefixInterpError: the zoo lacks the model.
    """
    if NAME not in list_toys():
        raise PrefixInterpError(f"name={NAME!r} is not in the zoo; run prefix-interp reproduce "
                                "table2 --zoo prefix_interp/models/trained")  # fmt: skip
    model = to_dtype(load_toy(NAME), dtype).to(device, print_details=False)
    found = {name: prefix.to(model) for name, prefix in load_prefixes(NAME).items()}
    inputs = get_task(FOUR_SKILLS[0]).sample(n_sequences, split="test", seed=seed)
    length = inputs.answers.shape[1]
    batches = {
        task: get_task(task).batch(inputs.tokens[:, :length], torch.zeros_like(inputs.skill))
        for task in FOUR_SKILLS
    }
    return Skills(
        model,
        {task: found[task] for task in FOUR_SKILLS},
        {task: found[f"{task}-kv-1"] for task in FOUR_SKILLS},
        batches,
    )
