"""LoRA and prefixes, one seed: every method at the same numbers of parameters.

The model knows four skills; the histogram (how often each input occurs) is new to it. The paper: at
12,288 parameters LoRA gets 92.4 % of the histograms right and a prefix 0.3 %, on four layers, with
a hundred times the rate for LoRA. Here both sides are swept.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from analyses.lora.methods import METHODS, Work
from analyses.lora.protocol import BLIND, NONE, TASK, Trial
from analyses.study import Job, Rows, Tables
from analyses.table2.models import NAME
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.tasks import get_task
from prefix_interp.tuning.content_blind import content_blind_log_probs
from prefix_interp.tuning.evaluate import evaluate, marked, scored
from prefix_interp.tuning.lora import lora_recipe
from prefix_interp.tuning.recipes import Recipe


def measure(job: Job) -> Tables:
    """Return one row of ``rows`` per training, and one each for the model alone and the blind rule.

    Keys: ``seed``, ``test_seed``, ``method``, ``side``, ``budget`` (None for a method of one size),
    ``units`` (slots or rank), ``n_parameters`` (counted from the tuned tensors), ``steps``, ``lr``,
    ``train_loss``, ``evaluation``. Every method, size and number of steps is a part of its own, and
    every training has a checkpoint.

    Args:
        job: one seed of the study, with the model that Table 2 keeps for it.
    """
    model = job.needs["table2"].toy(NAME)
    model.to(job.device, print_details=False)
    rows: Rows = []
    job.part("controls", rows, partial(_controls, job, model, rows))
    for name, method in METHODS.items():
        trial: Trial = getattr(job.protocol, method.side)
        for budget in job.protocol.n_parameters if method.unit else (None,):
            for steps in trial.steps:
                part = f"{name}-{budget}-{steps}".replace(", ", "-").replace(" ", "-")
                work = partial(_one, job, model, rows, name, budget, steps, trial, part)
                job.part(part, rows, work)
    return {"rows": rows}


def _controls(job: Job, model: Model, rows: Rows) -> None:
    task, baseline = get_task(TASK), job.recipe("prefix").baseline
    plain = evaluate(model, task, seed=job.seed, baseline=baseline)
    batch = task.sample(plain.n, split="test", seed=job.seed)
    right, loss = marked(content_blind_log_probs(task, batch, job.seed), batch.answers)
    nothing = {"budget": None, "units": 0, "n_parameters": 0, "steps": None, "lr": None,
               "train_loss": None}  # fmt: skip
    for name, score in ((NONE, plain), (BLIND, scored(TASK, batch, right, loss))):
        about = {"method": name, "side": "control", **nothing, "evaluation": score.to_dict()}
        rows.append({"seed": job.seed, "test_seed": job.seed, **about})


def _one(
    job: Job, model: Model, rows: Rows, name: str, budget: int | None, steps: int, trial: Trial,
    part: str,
) -> None:  # fmt: skip
    method = METHODS[name]
    units = method.units(model, budget or 0)
    found = method.tune(
        Work(
            model, TASK, _recipe(job, method.side, steps), trial.lrs, job.seed,
            lambda rate: job.checkpoint(f"{part}-{rate}"), job.progress,
        ),
        units,
    )  # fmt: skip
    wanted = units * method.each(host_of(model))
    for each in found:
        if each.n_parameters != wanted:
            raise PrefixInterpError(
                f"method={name!r} tuned {each.n_parameters} parameters and should have {wanted}; "
                "mend its size in analyses/lora/methods.py"
            )
        rows.append({
            "seed": job.seed, "test_seed": job.seed, "method": name, "side": method.side,
            "budget": budget, "units": units, "n_parameters": each.n_parameters, "steps": steps,
            "lr": each.lr, "train_loss": each.train_loss,
            "evaluation": each.evaluation.to_dict(),
        })  # fmt: skip


def _recipe(job: Job, side: str, steps: int) -> Recipe:
    """Return how a side is tuned; its rate is replaced."""
    if side == "full":
        return job.recipe("fine_tune", steps=steps)
    recipe = lora_recipe(job.preset, steps=steps, precision=job.precision)
    return replace(recipe, init_std=job.protocol.init_std) if side == "contexts" else recipe
