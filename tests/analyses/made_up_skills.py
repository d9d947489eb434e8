"""What a seed of `table2` keeps, of a tiny random toy that nothing was trained for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import prefix_interp as pi
from analyses.kept import Kept
from analyses.table2.models import NAME, PREFIXES, STARTS, start_name, variant
from prefix_interp.models.toy import model_id
from prefix_interp.tasks import FOUR_SKILLS
from tests.helpers import toy


def made_up_skills(folder: Path, seed: int = 0, tasks: Sequence[str] = FOUR_SKILLS) -> Kept:
    """Return it; each task has a residual and a kv prefix, and two starts of the residual one."""
    model = toy(seed, torch.float32, n_layers=1, n_prefix=1, n_content=19, skip_ln1=True)
    kept = Kept(folder)
    pi.save_toy(model, kept.toy_folder(NAME))
    for i, task in enumerate(tasks):
        for kind, start in (("residual", 0), ("residual", 1), ("kv", 0)):
            prefix = pi.Prefix.random(model, 1, 10 * i + start, kind)
            about = {"task": task, "start": start, "recipe": {"init_std": 0.1}}
            prefix = replace(prefix, model_id=model_id(model), metadata=about)
            kept.save_context(STARTS, start_name(variant(task, kind), start), prefix)
            if start == 0:
                kept.save_context(PREFIXES, variant(task, kind), prefix)
    return kept
