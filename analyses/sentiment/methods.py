"""What is tuned on the sentences: prefixes of every kind, and a LoRA of the size of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from analyses.sentiment.data import INSTRUCTION, Sentences
from analyses.sentiment.lora import adapter_scores, lora_shape, tune_adapter, with_lora
from analyses.study import Job
from prefix_interp.models.host import Model
from prefix_interp.prefixes.examples import prefix_from_text
from prefix_interp.prefixes.prefix import Prefix
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
        longer: steps of the best prefix and of the LoRA of its size, trained anew.
        n_longer: test sentences for these two and for no tuning at all, or all that there are.
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
    longer: int = 300
    n_longer: int = 744


PROTOCOLS = {
    "paper": Protocol(
        sentences=Sentences(max_tokens=48, n_validation=512),
        lrs=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1), lora_lrs=(3e-4, 1e-3, 3e-3, 1e-2), steps=2000,
        batch_size=16, n_test=1600, n_heads=32, n_controls=39, longer=2000, n_longer=1600,
    ),
    # 1.9 hours for one seed on one core: 36 prefixes of 60 steps of 1.1 s, 12 LoRAs of 60 of 1.6 s,
    # measured on a busy core, 40 minutes of evaluations and 20 of longer training.
    "fast": Protocol(),
    "smoke": Protocol(
        sentences=Sentences(n_validation=8), n_slots=(1, 5), lrs=(3e-2,), lora_lrs=(1e-2,),
        steps=2, batch_size=2, n_test=8, n_shots=2, n_heads=2, n_controls=1, longer=3, n_longer=9,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What all runs of a seed share.

    Attributes:
        job: the seed.
        model: with a tokenizer.
        task: the training sentences.
        validation: sentences to choose on.
        test: sentences that every method is tested on.
        longer_test: more of them.
        made: trainings that are kept nowhere else.
    """

    job: Job
    model: Model
    task: TensorTask
    validation: Batch
    test: Batch
    longer_test: Batch
    made: dict[str, Tensors] = field(default_factory=dict)

    def kept(self, name: str, make: Callable[[], Tensors]) -> Tensors:
        """Return a finished training, or do it now."""
        if name not in self.made:
            keeps = self.job.keeps
            self.made[name] = make() if keeps is None else keeps.tensors(name, make)
        return self.made[name]

    def recipe(self, lr: float, steps: int) -> Recipe:
        """Return how everything is tuned."""
        size = self.job.protocol
        return Recipe(
            steps, lr, size.batch_size, weight_decay=0.0, init_std=size.init_std,
            precision=self.job.precision, preset=None,
        )  # fmt: skip


@dataclass(frozen=True)
class Config:
    """One thing to tune, at several learning rates."""

    name: str
    about: dict[str, Any]
    lrs: tuple[float, ...]
    start: Callable[[], Any]  # a prefix, or an adapted model
    tune: Callable[[Any, Recipe, str], Tensors]
    score: Callable[[Any, Tensors, Batch], Evaluation]


def configs(work: Work) -> Iterator[Config]:
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
                yield Config(
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
        yield Config(
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
    return with_tensors(noise, {name: torch.zeros_like(x) for name, x in noise.tensors.items()})


def with_tensors(prefix: Prefix, tensors: Tensors) -> Prefix:
    """Return a prefix with other tensors.

    Args:
        prefix: of the same shape.
        tensors: by name; others than the prefix's are left out.
    """
    return replace(prefix, **{name: tensors[name] for name in prefix.tensors}, model_id=None)


def tuned(work: Work, config: Config, lr: float, longer: bool = False) -> Tensors:
    """Return what was tuned at a rate, with its last ``train_loss`` and its ``seconds``.

    Args:
        work: of the seed.
        config: what is tuned.
        lr: learning rate.
        longer: with the protocol's longer training.
    """
    size = work.job.protocol
    name = f"{config.name}-{lr}-{'longer' if longer else 'tuned'}"
    recipe = work.recipe(lr, size.longer if longer else size.steps)
    return work.kept(name, lambda: config.tune(config.start(), recipe, name))


def _tune_prefix(work: Work, start: Prefix, recipe: Recipe, name: str) -> Tensors:
    began = time.perf_counter()
    (fit,) = sweep(
        work.model, work.task, [start], [recipe.lr], recipe=recipe, seed=work.job.seed,
        checkpoint=work.job.checkpoint(name), progress=work.job.progress,
    )  # fmt: skip
    return {**fit.prefix.tensors, **_about(fit.train_loss, began)}


def _tune_lora(work: Work, adapted: Any, recipe: Recipe, name: str) -> Tensors:
    began = time.perf_counter()
    loss = tune_adapter(
        adapted, work.model, work.task, recipe, work.job.seed,
        work.job.checkpoint(name), work.job.progress,
    )  # fmt: skip
    own = {key: p.detach().clone() for key, p in trained(adapted).items()}
    return {**own, **_about(loss, began)}


def _about(loss: float, began: float) -> Tensors:
    seconds = time.perf_counter() - began  # of the last start, if it was interrupted
    return {"train_loss": torch.tensor(loss), "seconds": torch.tensor(seconds)}


def _score_prefix(work: Work, start: Prefix, found: Tensors, batch: Batch) -> Evaluation:
    prefix = with_tensors(start, found) if found else start
    return evaluate(work.model, batch, prefix, batch_size=_PASS)


def _score_lora(adapted: Any, found: Tensors, batch: Batch) -> Evaluation:
    if found:
        write_weights(adapted, found)
    return adapter_scores(adapted, "sentiment", batch)
