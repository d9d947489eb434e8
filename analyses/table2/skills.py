"""The shipped four-skill model with its prefixes and test sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from analyses.report.evidence import Evidence
from analyses.table2.models import NAME
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model
from prefix_interp.models.zoo import list_toys, load_toy
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.tasks import FOUR_SKILLS, Batch, get_task
from prefix_interp.tasks.words import task_words

N_SEQUENCES = 256
SKILL_WORDS = {task: task_words(task) for task in FOUR_SKILLS}


@dataclass(frozen=True)
class Skills:
    """A model with four skills, and the prefixes that elicit them.

    Attributes:
        model: pretrained on the unlabelled mixture.
        prefixes: residual, one slot, by task.
        batches: test sequences by task, with the same inputs and with answers fed in.
    """

    model: Model
    prefixes: Mapping[str, Prefix]
    batches: Mapping[str, Batch]


def load_skills(evidence: Evidence) -> Skills:
    """Return the four-skill model of the zoo with its prefixes and test sequences.

    Sections call it as ``evidence.once(load_skills)``.

    Args:
        evidence: defines the model's device; its seed chooses the sequences.

    Raises:
        PrefixInterpError: the zoo lacks the model.
    """
    if NAME not in list_toys():
        raise PrefixInterpError(
            f"name={NAME!r} is not in the zoo; run python -m analyses table2 --zoo "
            "prefix_interp/models/trained"
        )
    model = load_toy(NAME).to(evidence.device, print_details=False)
    found = {name: prefix.to(model) for name, prefix in load_prefixes(NAME).items()}
    inputs = get_task(FOUR_SKILLS[0]).sample(N_SEQUENCES, split="test", seed=evidence.seed)
    length = inputs.answers.shape[1]
    batches = {
        task: get_task(task).batch(inputs.tokens[:, :length], torch.zeros_like(inputs.skill))
        for task in FOUR_SKILLS
    }
    return Skills(model, {task: found[task] for task in FOUR_SKILLS}, batches)
