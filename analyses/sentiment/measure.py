"""Sentiment of movie reviews by prefixes, by LoRA of the same size, and by words alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from analyses.sentiment.data import INSTRUCTION, Sentences, sentiment_tasks, shown, to_tune_on
from analyses.sentiment.lora import adapter_scores, lora_shape, tune_adapter, with_lora
from analyses.study import Job, Rows, Tables
from prefix_interp.attribution.patching import patch_heads
from prefix_interp.models.host import Model
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.examples import prefix_from_text
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch
from prefix_interp.tasks.own import TensorTask
from prefix_interp.tuning.contexts import sweep
from prefix_interp.tuning.evaluate import Evaluation, evaluate
from prefix_interp.tuning.lora_peft import trained, write_weights
from prefix_interp.tuning.recipes import Recipe

Tensors = dict[str, Tensor]
STARTS = ("random", "zero", "text")
_PASS = 32  # sequences per pass of an evaluation


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        sentences: which sentences are used.
        n_slots: numbers of slots, each for both parameterizations and all starts.
        lrs: learning rates of every prefix, whatever its start.
        lora_lrs: of LoRA.
        steps: of each training.
        batch_size: sentences per step.
        init_std: standard deviation of random starts; the paper's and PEFT's is 1.
        n_test: test sentences for every chosen rate.
        n_shots: solved examples in front.
        n_heads: sentences on which every head is patched.
        n_controls: random prefixes with the norms of the tuned one.
        patched: slots of the prefix whose heads are measured.
    """

    sentences: Sentences = field(default_factory=Sentences)
    n_slots: tuple[int, ...] = (1, 5, 20)
    lrs: tuple[float, ...] = (3e-3, 3e-2)
    lora_lrs: tuple[float, ...] = (1e-3, 1e-2)
    steps: int = 60
    batch_size: int = 8
    init_std: float = 1.0
    n_test: int = 400
    n_shots: int = 4
    n_heads: int = 8
    n_controls: int = 3
    patched: int = 5


PROTOCOLS = {
    "paper": Protocol(
        sentences=Sentences(max_tokens=48, n_validation=512),
        lrs=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1), lora_lrs=(3e-4, 1e-3, 3e-3, 1e-2), steps=2000,
        batch_size=16, n_test=1600, n_heads=32, n_controls=39,
    ),
    # 1.6 hours for one seed on one core: 36 prefixes of 60 steps of 1.1 s, 12 LoRAs of 60 of 1.6 s,
    # measured on a busy core, and 40 minutes of evaluations. Three seeds on two cores: 3.2 hours.
    "fast": Protocol(),
    "smoke": Protocol(
        sentences=Sentences(n_validation=8), n_slots=(1, 5), lrs=(3e-2,), lora_lrs=(1e-2,),
        steps=2, batch_size=2, n_test=8, n_shots=2, n_heads=2, n_controls=1,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Work:
    """What all runs of a seed share."""

    job: Job
    model: Model
    task: TensorTask
    validation: Batch
    test: Batch
    made: dict[str, Tensors] = field(default_factory=dict)

    def kept(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """Return a finished training, or do it now."""
        if name not in self.made:
            keeps = self.job.keeps
            self.made[name] = make() if keeps is None else keeps.tensors(name, make)
        return self.made[name]

    def recipe(self, lr: float) -> Recipe:
        """Return how everything is tuned."""
        size = self.job.protocol
        return Recipe(
            size.steps, lr, size.batch_size, weight_decay=0.0, init_std=size.init_std,
            preset=None,
        )  # fmt: skip


@dataclass(frozen=True)
class _Config:
    """One thing to tune, at several learning rates."""

    name: str
    about: dict[str, Any]
    lrs: tuple[float, ...]
    start: Callable[[], Any]  # a prefix, or an adapted model
    tune: Callable[[Any, float, str], Tensors]
    score: Callable[[Any, Tensors, Batch], Evaluation]


def measure(job: Job) -> Tables:
    """Return how well prefixes and LoRA tell positive from negative sentences.

    Every training is kept on its own as soon as it is done, and every evaluation of it, so an
    interruption loses one run at most. Seeds may run in commands of their own (``--seed 1 --seeds
    1``), side by side, with the same ``--work``.

    - ``fits``: one row per training: ``lr``, ``train_loss``, ``seconds``, and the ``evaluation`` on
      the validation sentences; ``untuned``: that of each start.
    - ``scores``: one row per method at the rate with the lowest loss on the validation sentences:
      the ``evaluation`` on test sentences, and that of what nothing was tuned for.
    - ``heads``: the effect of patching every head of a prefix, and of its norm-matched controls,
      on the logit difference.

    Args:
        job: one seed of the study, with the language model.
    """
    assert job.model is not None
    size = job.protocol
    task, validation, held = sentiment_tasks(job.model, size.sentences)
    work = _Work(
        job, job.model, to_tune_on(task), validation.sample(size.sentences.n_validation, "test"),
        task.sample(size.n_test, "test"),
    )  # fmt: skip
    fits: Rows = []
    scores: Rows = []
    examples = shown(held, size.n_shots, size.sentences.answers)
    job.part("bare", scores, partial(_bare, work, examples, scores))
    best: dict[str, tuple[float, _Config, float]] = {}
    untuned: Rows = []
    for config in tqdm([*_configs(work)], desc="sentiment", disable=not job.progress):
        own: Rows = []
        if config.about["method"] == "prefix":  # LoRA starts as the bare model
            job.part(f"{config.name}-untuned", untuned, partial(_untuned, work, config, untuned))
        for lr in config.lrs:
            job.part(f"{config.name}-{lr}", own, partial(_fit, work, config, lr, own))
        fits += own
        chosen = min(own, key=lambda row: row["evaluation"]["loss"]["value"])
        best[config.name] = (chosen["evaluation"]["loss"]["value"], config, chosen["lr"])
        job.part(f"{config.name}-test", scores, partial(_test, work, config, chosen["lr"], scores))
    wanted = [best[f"kv-{size.patched}-{start}"] for start in STARTS]
    _, config, lr = min(wanted, key=lambda each: each[0])
    heads: Rows = []
    for i in range(size.n_controls + 1):
        job.part(f"heads-{i}", heads, partial(_heads, work, config, lr, i, heads))
    return {"fits": fits, "untuned": untuned, "scores": scores, "heads": heads}


def _configs(work: _Work) -> Iterator[_Config]:
    """Yield every prefix, and a LoRA of the size of each."""
    size, model, seed = work.job.protocol, work.model, work.job.seed
    sizes: dict[int, None] = {}
    for n in size.n_slots:
        for kind in ("kv", "residual"):
            for start in STARTS:
                first = start_prefix(model, kind, n, start, seed, size.init_std)
                about = {
                    "method": "prefix", "parameterization": kind, "n_slots": n, "start": start,
                    "n_parameters": first.n_parameters, "rank": None, "layers": None,
                }  # fmt: skip
                yield _Config(
                    f"{kind}-{n}-{start}", about, size.lrs, lambda first=first: first,
                    partial(_tune_prefix, work), partial(_score_prefix, work),
                )  # fmt: skip
                sizes[first.n_parameters] = None
    for rank, layers in dict.fromkeys(lora_shape(model, n) for n in sizes):
        adapted = with_lora(model, rank, layers, seed)
        about = {
            "method": "lora", "parameterization": None, "n_slots": None, "start": None,
            "n_parameters": sum(p.numel() for p in trained(adapted).values()), "rank": rank,
            "layers": layers,
        }  # fmt: skip
        del adapted  # it holds a copy of the whole model
        yield _Config(
            f"lora-{rank}x{layers}", about, size.lora_lrs,
            lambda rank=rank, layers=layers: with_lora(model, rank, layers, seed),
            partial(_tune_lora, work), _score_lora,
        )  # fmt: skip


def start_prefix(
    model: Model, kind: str, n_slots: int, start: str, seed: int, init_std: float
) -> Prefix:
    """Return the prefix that a tuning starts from.

    Args:
        model: with a tokenizer.
        kind: ``"kv"`` or ``"residual"``.
        n_slots: number of slots.
        start: ``"random"``, ``"zero"`` (all keys and values, or inputs, 0) or ``"text"``: what the
            model computes from the first tokens of an instruction.
        seed: of the random start.
        init_std: of the random start.
    """
    if start == "text":
        return prefix_from_text(model, INSTRUCTION, kind, n_slots=n_slots).for_any_model()
    noise = Prefix.random(model, n_slots, seed, kind, init_std)
    if start == "random":
        return noise
    return _with(noise, {name: torch.zeros_like(x) for name, x in noise.tensors.items()})


def _with(prefix: Prefix, tensors: Tensors) -> Prefix:
    return replace(prefix, **{name: tensors[name] for name in prefix.tensors}, model_id=None)


def _training(config: _Config, lr: float) -> str:
    return f"{config.name}-{lr}-tuned"


def _trained(work: _Work, config: _Config, lr: float) -> Tensors:
    """Return what was tuned at a rate, with its last ``train_loss`` and its ``seconds``."""
    name = _training(config, lr)
    return work.kept(name, lambda: config.tune(config.start(), lr, name))


def _fit(work: _Work, config: _Config, lr: float, rows: Rows) -> None:
    found = _trained(work, config, lr)
    start = config.start()
    rows.append({
        "seed": work.job.seed, **config.about, "lr": lr,
        "train_loss": float(found["train_loss"]), "seconds": float(found["seconds"]),
        "evaluation": config.score(start, found, work.validation).to_dict(),
    })  # fmt: skip


def _untuned(work: _Work, config: _Config, rows: Rows) -> None:
    score = config.score(config.start(), {}, work.validation)
    rows.append({"seed": work.job.seed, **config.about, "evaluation": score.to_dict()})


def _test(work: _Work, config: _Config, lr: float, rows: Rows) -> None:
    score = config.score(config.start(), _trained(work, config, lr), work.test)
    rows.append({"seed": work.job.seed, **config.about, "lr": lr, "evaluation": score.to_dict()})


def _tune_prefix(work: _Work, start: Prefix, lr: float, name: str) -> Tensors:
    began = time.perf_counter()
    (fit,) = sweep(
        work.model, work.task, [start], [lr], recipe=work.recipe(lr), seed=work.job.seed,
        checkpoint=work.job.checkpoint(name), progress=work.job.progress,
    )  # fmt: skip
    return {**fit.prefix.tensors, **_about(fit.train_loss, began)}


def _tune_lora(work: _Work, adapted: Any, lr: float, name: str) -> Tensors:
    began = time.perf_counter()
    loss = tune_adapter(
        adapted, work.model, work.task, work.recipe(lr), work.job.seed,
        work.job.checkpoint(name), work.job.progress,
    )  # fmt: skip
    own = {key: p.detach().clone() for key, p in trained(adapted).items()}
    return {**own, **_about(loss, began)}


def _about(loss: float, began: float) -> Tensors:
    seconds = time.perf_counter() - began  # of the last start, if it was interrupted
    return {"train_loss": torch.tensor(loss), "seconds": torch.tensor(seconds)}


def _score_prefix(work: _Work, start: Prefix, found: Tensors, batch: Batch) -> Evaluation:
    prefix = _with(start, found) if found else start
    return evaluate(work.model, batch, prefix, batch_size=_PASS)


def _score_lora(adapted: Any, found: Tensors, batch: Batch) -> Evaluation:
    if found:
        write_weights(adapted, found)
    return adapter_scores(adapted, "sentiment", batch)


def _bare(work: _Work, examples: str, rows: Rows) -> None:
    """Add the scores of what nothing is tuned for: the prompt alone, examples, an instruction."""
    texts = {"zero-shot": None, "few-shot": examples, "instruction": f"{INSTRUCTION}\n"}
    for method, text in texts.items():
        prefix = None if text is None else prefix_from_text(work.model, text)
        rows.append({
            "seed": work.job.seed, "method": method, "n_parameters": 0,
            "n_slots": None if prefix is None else prefix.n_slots,
            "evaluation": evaluate(work.model, work.test, prefix, batch_size=_PASS).to_dict(),
        })  # fmt: skip


def _heads(work: _Work, config: _Config, lr: float, control: int, rows: Rows) -> None:
    """Add the mean effect of patching each head of the tuned prefix, or of a control."""
    prefix = _with(config.start(), _trained(work, config, lr))
    if control:
        rng = derive_generator(work.job.seed, "norm-matched", control)
        prefix = norm_matched(prefix, rng)
    batch = work.validation.part(slice(work.job.protocol.n_heads))
    grid = patch_heads(
        work.model, prefix, batch, metrics=("logit_difference",), progress=work.job.progress
    )
    effect = grid.effect().double()
    whole = (grid.on["logit_difference"] - grid.off["logit_difference"]).double().mean()
    rows += [
        {
            "seed": work.job.seed, "prefix": config.name, "control": control, "layer": layer,
            "head": head, "effect": float(effect[layer, head].mean()), "whole": float(whole),
        }
        for layer in range(effect.shape[0])
        for head in range(effect.shape[1])
    ]  # fmt: skip
