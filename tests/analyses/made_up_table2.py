"""What finished seeds of `table2` keep, of models that no test has to train."""

from dataclasses import replace
from pathlib import Path

import torch

import prefix_interp as pi
from analyses.kept import Kept
from analyses.table2.models import NAME, PREFIXES, STARTS, start_name, variant
from prefix_interp.models.model import model_id
from prefix_interp.models.toy import save_toy
from prefix_interp.tasks import FOUR_SKILLS
from tests.helpers import toy


def made_up_table2(root: Path, seeds=(0,), tasks=FOUR_SKILLS) -> dict[int, Kept]:
    """Return what each seed keeps: a tiny random toy, and random prefixes for each task.

    There are a residual and a kv prefix, and two starts of the first.
    """
    kept = {seed: Kept(Path(root) / f"seed-{seed}") for seed in seeds}
    for seed, own in kept.items():
        model = toy(seed, torch.float32, n_layers=1, n_prefix=1, n_content=19, skip_ln1=True)
        save_toy(model, own.toy_folder(NAME))
        for i, task in enumerate(tasks):
            for kind in ("residual", "kv"):
                for start in (0, 1) if kind == "residual" else (0,):
                    prefix = pi.Prefix.random(model, 1, 10 * i + start, kind)
                    about = {"task": task, "start": start, "recipe": {"init_std": 0.1}}
                    prefix = replace(prefix, model_id=model_id(model), metadata=about)
                    trial = variant(task, kind)
                    own.save_context(STARTS, start_name(trial, start), prefix)
                    if start == 0:
                        own.save_context(PREFIXES, trial, prefix)
    return kept


def zoo_table2(root: Path, seeds=(0, 1)) -> dict[int, Kept]:
    """Return the same with the zoo's toy for every seed: its prefixes do something.

    The prefixes of seed n are scaled by 1 + n / 8, so that seeds can be told apart.
    """
    model, found = pi.load_toy(NAME), pi.load_prefixes(NAME)
    kept = {seed: Kept(Path(root) / f"seed-{seed}") for seed in seeds}
    for seed, own in kept.items():
        save_toy(model, own.toy_folder(NAME))
        for task in FOUR_SKILLS:
            for kind, key in (("residual", task), ("kv", f"{task}-kv-1")):
                own.save_context(PREFIXES, variant(task, kind), scaled(found[key], 1 + seed / 8))
            chosen = found[task].metadata["start"]
            for start in range(3):
                prefix = pi.Prefix.random(model, 1, 10 * seed + start)
                prefix = found[task] if start == chosen else prefix
                prefix = replace(prefix, metadata={"task": task, "start": start})
                own.save_context(STARTS, start_name(variant(task, "residual"), start), prefix)
    return kept


def scaled(prefix: pi.Prefix, factor: float) -> pi.Prefix:
    """Return a prefix with all its numbers multiplied."""
    return replace(prefix, **{name: factor * x for name, x in prefix.tensors.items()})
