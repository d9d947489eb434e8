"""What the experiments share: seeds side by side, finished ones kept, and rows of scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from prefix_interp.errors import check_positive
from prefix_interp.models.host import Model
from prefix_interp.models.toy import save_toy
from prefix_interp.prefixes.baselines import Baseline
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.results import Result, package_versions
from prefix_interp.storage import read_json, to_json, write_file
from prefix_interp.tasks import get_task
from prefix_interp.tuning.evaluate import answer_scores, scored
from prefix_interp.tuning.parallel import run_parallel
from prefix_interp.tuning.train import ModelFit

Rows = list[dict[str, Any]]


def measure_seeds(
    name: str,
    preset: str,
    seeds: Sequence[int],
    run_seed: Callable[[int], dict[str, Any]],
    settings: Mapping[str, Any],
    *,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Result:
    """Return the records of all seeds, measured side by side.

    ``timing`` has ``wall_s``, ``core_s`` (summed over seeds, whenever they ran) and
    ``seeds_from_work``: how many were finished before, so that ``wall_s`` leaves them out.

    Args:
        name: of the experiment.
        preset: its name.
        seeds: at least one.
        run_seed: importable; returns what `finished_seed` does.
        settings: sizes and recipes, for the result.
        n_jobs: processes; by default one a core.
        progress: show a bar.

    Raises:
        PrefixInterpError: no seeds, or `n_jobs` is not positive.
    """
    check_positive("number of seeds", len(seeds))
    began = time.perf_counter()
    per_seed = run_parallel(
        run_seed,
        list(seeds),
        n_jobs=n_jobs,
        progress=progress,
        description=f"{name}, {preset}",
    )
    timing = {
        "wall_s": round(time.perf_counter() - began, 1),
        "core_s": round(sum(one["seconds"] for one in per_seed), 1),
        "seeds_from_work": sum(one["from_work"] for one in per_seed),
    }
    records = [record for one in per_seed for record in one["records"]]
    return Result(name, preset, list(seeds), settings, records, timing=timing)


def seed_folder(work: str | Path | None, seed: int) -> Path | None:
    """Return where one seed's work is kept; None if `work` keeps nothing."""
    return None if work is None else Path(work) / f"seed-{seed}"


def finished_seed(
    folder: Path | None, key: Mapping[str, Any], run: Callable[[], Rows]
) -> dict[str, Any]:
    """Return one seed's ``records`` and ``seconds``, and whether they were ``from_work``.

    Args:
        folder: where ``records.json`` is kept; None keeps nothing.
        key: settings that make the work this work; records of another are made again.
        run: does the work.
    """
    key = {**key, "versions": package_versions()}
    file = None if folder is None else folder / "records.json"
    if file is not None and file.exists():
        done = read_json(file)
        if done.pop("key", None) == key:
            return done | {"from_work": True}
    began = time.perf_counter()
    records = run()
    finished = {"seconds": time.perf_counter() - began, "records": records}
    if file is not None:
        write_file(file, to_json({**finished, "key": key}))
    return finished | {"from_work": False}


def score_rows(
    about: Mapping[str, Any],
    model: Model,
    tasks: Sequence[str],
    prefix: Prefix | SoftPrompt | None = None,
    *,
    baseline: Baseline | str,
    n: int,
    train_loss: float | None = None,
    by_output: bool = False,
) -> Rows:
    """Return one row a task: how well `model` does it, with a context or without.

    Args:
        about: what every row says of itself: seed, method, rate and so on.
        model: frozen.
        tasks: names.
        prefix: a prefix or soft prompt; None for the model alone.
        baseline: what "no prefix" means.
        n: test sequences; the same for all models and seeds, so that they differ in nothing else.
        train_loss: of what is scored, if it was trained.
        by_output: also give the share of right answers at each output.
    """
    rows: Rows = []
    for task in map(get_task, tasks):
        batch = task.sample(n, split="test", seed=0)
        right, loss = answer_scores(model, task, batch, prefix, baseline)
        row = {
            **_shape(prefix),
            **about,  # says of a model alone that it has 0 slots, where that is a rung
            "task": task.name,
            "baseline": baseline if prefix is None else "prefix",
            "train_loss": None if train_loss is None else float(train_loss),
            "evaluation": scored(task, right, loss).to_dict(),
        }
        rows.append(row | ({"by_output": shares(right)} if by_output else {}))
    return rows


def shares(right: Bool[Tensor, "batch n_out"]) -> list[float]:
    """Return the share of right answers at each output, 0 to 1."""
    return [round(x, 6) for x in right.double().mean(dim=0).tolist()]


def _shape(context: Prefix | SoftPrompt | None) -> dict[str, Any]:
    if isinstance(context, SoftPrompt):
        return context.settings
    if context is None:
        return {"parameterization": None, "n_slots": None}
    return {"parameterization": context.parameterization, "n_slots": context.n_slots}


def keep_toy(
    folder: Path, fit: ModelFit, task: str, preset: str, seed: int, rows: Sequence[Mapping]
) -> None:
    """Save a trained toy with its recipe and the scores in `rows`."""
    metadata = {
        "task": task,
        "preset": preset,
        "seed": seed,
        "recipe": fit.recipe.to_dict(),
        "evaluation": [row["evaluation"] for row in rows],
        "versions": package_versions(),
    }
    save_toy(fit.model, folder, metadata)
