"""What the experiments share: one seed's finished work kept in a folder, and rows of scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_lens import HookedTransformer

from prefix_interp.models.toy import save_toy
from prefix_interp.prefixes.baselines import Baseline
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.results import package_versions
from prefix_interp.storage import read_json, to_json, write_file
from prefix_interp.tuning.evaluate import evaluate
from prefix_interp.tuning.train import ModelFit

Rows = list[dict[str, Any]]


def finished_seed(
    folder: Path | None, key: Mapping[str, Any], run: Callable[[], Rows]
) -> dict[str, Any]:
    """Return one seed's ``records`` and ``seconds``, taken from `folder` if it has them.

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
            return done
    began = time.perf_counter()
    records = run()
    finished = {"seconds": time.perf_counter() - began, "records": records}
    if file is not None:
        write_file(file, to_json({**finished, "key": key}))
    return finished


def score_rows(
    about: Mapping[str, Any],
    model: HookedTransformer,
    tasks: Sequence[str],
    prefix: Prefix | None = None,
    *,
    baseline: Baseline | str,
    n: int,
    train_loss: float | None = None,
) -> Rows:
    """Return one row a task: how well `model` does it, with `prefix` or without.

    Args:
        about: what every row says of itself: seed, method, rate and so on.
        model: frozen.
        tasks: names.
        prefix: None for the model alone.
        baseline: what "no prefix" means.
        n: test sequences; the same for all models and seeds, so that they differ in nothing else.
        train_loss: of what is scored, if it was trained.
    """
    scores = [evaluate(model, t, prefix, n=n, seed=0, baseline=baseline) for t in tasks]
    return [
        {
            **about,
            "parameterization": None if prefix is None else prefix.parameterization,
            "n_prefix": None if prefix is None else prefix.n_prefix,
            "task": task,
            "baseline": baseline if prefix is None else "prefix",
            "train_loss": None if train_loss is None else float(train_loss),
            "evaluation": score.to_dict(),
        }
        for task, score in zip(tasks, scores, strict=True)
    ]


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
