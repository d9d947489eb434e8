"""A work folder as `table2` leaves it, of a tiny random toy that nothing was trained for."""

from dataclasses import replace
from pathlib import Path

import torch

import prefix_interp as pi
from prefix_interp.experiments.table2 import NAME
from prefix_interp.models.model import model_id
from prefix_interp.storage import to_json, write_file
from prefix_interp.tasks import FOUR_SKILLS
from tests.helpers import toy


def made_up_table2(root: Path, seeds=(0,), tasks=FOUR_SKILLS) -> Path:
    """Return the folder; each task has a residual and a kv prefix and two starts of the first."""
    for seed in seeds:
        model = toy(seed, torch.float32, n_layers=1, n_prefix=1, n_content=19, skip_ln1=True)
        folder = root / f"seed-{seed}"
        pi.save_toy(model, folder / NAME)
        for i, task in enumerate(tasks):
            for kind in ("residual", "kv"):
                for start in (0, 1) if kind == "residual" else (0,):
                    prefix = pi.Prefix.random(model, 1, 10 * i + start, kind)
                    about = {"task": task, "start": start, "recipe": {"init_std": 0.1}}
                    prefix = replace(prefix, model_id=model_id(model), metadata=about)
                    name = f"{task}-{kind}-std-0.1"
                    prefix.save(folder / "starts" / f"{name}-start-{start}")
                    if start == 0:
                        prefix.save(folder / NAME / "prefixes" / name)
        write_file(folder / "records.json", to_json({"records": []}))
    return root


def zoo_table2(root: Path, seeds=(0, 1)) -> Path:
    """Return the same with the trained toy of the zoo for every seed: its prefixes do something."""
    model, found = pi.load_toy(NAME), pi.load_prefixes(NAME)
    for seed in seeds:
        folder = root / f"seed-{seed}"
        pi.save_toy(model, folder / NAME)
        for task in FOUR_SKILLS:
            for kind, key in (("residual", task), ("kv", f"{task}-kv-1")):
                found[key].save(folder / NAME / "prefixes" / f"{task}-{kind}-std-0.1")
            start = pi.Prefix.random(model, 1, seed)
            start = replace(start, metadata={"task": task, "start": -1})
            start.save(folder / "starts" / f"{task}-residual-std-0.1-start-9")
        write_file(folder / "records.json", to_json({"records": []}))
    return root
