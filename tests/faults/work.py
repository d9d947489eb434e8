"""The long commands in miniature: each makes files in a folder, and can be started again there."""

import gzip
import json
from dataclasses import dataclass

import torch

import prefix_interp as pi
from analyses.report.sections import Section
from analyses.runs import run_study
from analyses.scores import score_rows
from analyses.study import Study
from prefix_interp import cli
from prefix_interp.files import write_together
from prefix_interp.models.toy import read_toy, save_toy
from prefix_interp.tuning.recipes import Recipe

CONFIG = pi.ToyConfig(n_layers=1, n_heads=1, d_model=8)
TASK = "sort_ascending"


@dataclass(frozen=True)
class Protocol:
    steps: int = 40


def measure(job):
    """Train a toy and two prefixes with checkpoints, in parts, as the real studies do."""
    rows = []
    recipe = Recipe.from_preset("smoke", "pretrain", steps=job.protocol.steps, batch_size=4)
    fit = pi.pretrain(CONFIG, TASK, recipe=recipe, seed=job.seed, progress=False,
                      checkpoint=job.checkpoint("toy"))  # fmt: skip
    if job.keeps is not None:
        job.keeps.save_toy("toy", fit)

    def tune(kind):
        recipe = Recipe.from_preset("smoke", "prefix", steps=20, batch_size=4)
        found = pi.tune_prefix(fit.model, TASK, parameterization=kind, recipe=recipe,
                               seed=job.seed, progress=False,
                               checkpoint=job.checkpoint(kind))  # fmt: skip
        about = {"seed": job.seed, "kind": kind, "loss": found.evaluation.loss.value}
        rows.extend(score_rows(about, fit.model, [TASK], found.prefix, baseline="masked", n=20))
        if job.keeps is not None:
            job.keeps.save_context("best", kind, found.prefix)

    for kind in ("residual", "kv"):
        job.part(kind, rows, lambda kind=kind: tune(kind))
    return {"rows": rows}


STUDY = Study(
    name="miniature",
    claim="Does it survive?",
    protocols={"smoke": Protocol()},
    measure=measure,
    tables=lambda result: {},
    section=lambda evidence: Section("m", "m", "m", "m", []),
)


def study(folder, n_jobs=1, seeds=(0,)):
    """Return the bytes of a study's result, without the time it took."""
    result = run_study(STUDY, "smoke", seeds, work=folder / "work", n_jobs=n_jobs, progress=False)
    file = result.save(folder / "result.json.gz")
    record = json.loads(gzip.decompress(file.read_bytes()))
    return json.dumps(record["tables"]).encode()


def training(folder):
    """Return the bits of a toy that was trained with a checkpoint."""
    recipe = Recipe.from_preset("smoke", "pretrain", steps=60, batch_size=4)
    fit = pi.pretrain(CONFIG, TASK, recipe=recipe, progress=False,
                      checkpoint=folder / "checkpoint.safetensors")  # fmt: skip
    fit.save(folder / "fit")
    return b"".join(p.detach().numpy().tobytes() for p in fit.model.parameters())


def saving(folder):
    """Replace a toy and a prefix by newer ones; whatever stands there is whole."""
    for path in (folder / "toy", folder / "prefix"):
        if path.exists() and any(path.glob("*.json")):
            pi.Prefix.load(path) if path.name == "prefix" else read_toy(path)
    for seed in (1, 2):
        toy = pi.build_toy(CONFIG, seed)
        save_toy(toy, folder / "toy", {"seed": seed})
        pi.Prefix.random(toy, 2, seed).save(folder / "prefix")
    return read_toy(folder / "toy")[0].W_E.detach().numpy().tobytes()


def page(folder):
    """Write the page and the numbers of a report; they never stand side by side unless they fit."""
    page, numbers = folder / "report.html", folder / "report.json"
    assert not numbers.exists() or numbers.read_text() == page.read_text()
    for text in ("old", "new"):
        write_together({page: text * 1000, numbers: text * 1000})
    return page.read_bytes() + numbers.read_bytes()


def inspection(folder):
    """Run the command that inspects a prefix of the zoo."""
    model, prefix = "sort-ascending-1l1h", "sort_descending"
    code = cli.main(["inspect", "--model", model, "--prefix", prefix, "--tokens", "3,1,2",
                     "--out", str(folder)])  # fmt: skip
    if code:
        raise pi.PrefixInterpError("refused: the command ended with 2 and one line")
    return (folder / "inspect.json").read_bytes()


WORK = {f.__name__: f for f in (training, study, saving, page, inspection)}
torch.set_num_threads(1)
