"""The ladder of contexts: what each kind of context can make the same frozen toys do.

The contexts range from real tokens (hard prompts, examples) and soft prompts to prefixes at every
layer. The paper leaves suffixes open: the same vectors after the input instead of before it. The
toys know three skills; two tasks are new to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from analyses.ladder.protocol import BLIND, SKILLS, TASKS, TUNED, Protocol, toy_name
from analyses.scores import score_rows, shares
from analyses.study import Job, Rows, Tables
from prefix_interp.models.host import Model
from prefix_interp.models.toy import ToyConfig
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.examples import examples_prompt
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.seeds import derive_generator, derive_seed
from prefix_interp.tasks import DigitTask, get_task
from prefix_interp.tuning.content_blind import content_blind_log_probs
from prefix_interp.tuning.contexts import sweep
from prefix_interp.tuning.evaluate import marked, scored
from prefix_interp.tuning.hard_prompts import search_hard_prompt
from prefix_interp.tuning.train import pretrain


def measure(job: Job) -> Tables:
    """Return how well the same toys do each task with each kind of context.

    Each record has ``seed``, ``depth``, ``context`` (one of `CONTEXTS`), ``n_slots`` (rows),
    ``steps`` (of its tuning; None if nothing is tuned), the ``task`` it is tested on, the task it
    was ``tuned_on`` (None for a control or no context), ``method`` (``context``, or a control:
    ``random``, the untuned start, and ``norm-matched``, random directions with the tuned norms),
    ``lr``, ``chosen`` (the lowest training loss of its sweep), ``train_loss``, ``evaluation``, and
    ``by_output``: the share of right answers at each output, which separates the first output, read
    at the last slot of a suffix, from the others. A prefix has ``parameterization``, any other
    context ``position`` and ``layers``. Chosen contexts are tested on all tasks, others only on
    their own. The blind rule (`content_blind_log_probs`) has no model; it is repeated at every
    depth for comparison.

    Args:
        job: one seed's work.
    """
    return {"rows": [*blind_rows(job.seed, job.protocol), *_Seed(job).run()]}


def blind_rows(seed: int, protocol: Protocol) -> Rows:
    """Return the scores of the best content-blind rule on each task, once per depth.

    Args:
        seed: chooses the sequences to estimate the rule from, and those of the test.
        protocol: the sizes.
    """
    rows: Rows = []
    for task in map(get_task, TASKS):
        batch = task.sample(protocol.n_test, split="test", seed=seed)
        log_probs = content_blind_log_probs(task, batch, seed)
        right, loss = marked(log_probs, batch.answers)
        row = {
            "seed": seed, "context": BLIND, "n_slots": 0, "steps": None, "method": "context",
            "tuned_on": None, "lr": None, "chosen": True, "draw": None, "task": task.name,
            "baseline": "none: no model", "train_loss": None, "test_seed": seed,
            "evaluation": scored(task.name, batch, right, loss).to_dict(),
            "by_output": shares(right),
        }  # fmt: skip
        rows += [{**row, "depth": depth} for depth in protocol.depths]
    return rows


class _Seed:
    """One seed's toys and contexts in order, and their rows."""

    def __init__(self, job: Job) -> None:
        self.job, self.seed, self.protocol = job, job.seed, job.protocol
        self.rows: Rows = []

    def run(self) -> Rows:
        sizes = self.protocol
        toys = {depth: self._toy(depth) for depth in sizes.depths}
        for depth, model in toys.items():
            for task in TASKS:
                name = f"{depth}-layers-{task}-real-tokens"
                self.job.part(name, self.rows, partial(self._real_tokens, model, depth, task))
                self._all_tuned(model, depth, task, sizes.steps)
        for depth in sizes.long_depths:
            for task, asks_for in TASKS.items():
                if asks_for in sizes.long_asks_for:
                    self._all_tuned(toys[depth], depth, task, sizes.long_steps)
        return self.rows

    def _toy(self, depth: int) -> Model:
        cfg = ToyConfig(n_layers=depth, n_heads=4, d_model=self.protocol.d_model)
        steps = self.protocol.pretrain_steps
        fit = pretrain(
            cfg, SKILLS, recipe=self.job.recipe("pretrain", steps=steps),
            seed=self.seed, checkpoint=self.job.checkpoint(f"{depth}-layers-pretrain"),
            progress=self.job.progress,
        )  # fmt: skip
        before = len(self.rows)
        work = partial(
            self._score, fit.model, list(TASKS), None, depth=depth, context="none", n_slots=0,
            train_loss=float(fit.history["loss"].iloc[-1]),
        )  # fmt: skip
        self.job.part(f"{depth}-layers-alone", self.rows, work)
        if self.job.keeps is not None:
            self.job.keeps.save_toy(
                toy_name(depth), fit, task=SKILLS.name, preset=self.job.preset, seed=self.seed,
                evaluation=[row["evaluation"] for row in self.rows[before:]],
            )  # fmt: skip
        return fit.model

    def _real_tokens(self, model: Model, depth: int, task: str) -> None:
        for n_slots in self.protocol.hard_slots:
            hard = search_hard_prompt(model, task, n_slots, seed=self.seed)
            self._score(model, [task], hard.prompt, depth=depth, context="hard prompt",
                        n_slots=n_slots, tuned_on=task, train_loss=hard.train_loss)  # fmt: skip
        for n_examples in self.protocol.n_examples:
            for draw in range(self.protocol.draws):
                own = get_task(task).sample(n_examples, split="train", seed=1000 + draw)
                whole = torch.cat([own.tokens, own.answers[:, -1:]], dim=1)
                prompt = examples_prompt(model, whole)
                self._score(model, [task], prompt, depth=depth, context="examples",
                            n_slots=prompt.n_slots, tuned_on=task, draw=draw)  # fmt: skip

    def _all_tuned(self, model: Model, depth: int, task: str, steps: int) -> None:
        for context in TUNED:
            for n_slots in self.protocol.n_slots:
                name = f"{depth}-layers-{task}-{context.replace(', ', '-').replace(' ', '-')}"
                name += f"-{n_slots}" + f"-{steps}-steps" * (steps != self.protocol.steps)
                work = partial(self._tuned, name, model, depth, task, context, n_slots, steps)
                self.job.part(name, self.rows, work)

    def _tuned(
        self,
        name: str,
        model: Model,
        depth: int,
        task: str,
        context: str,
        n_slots: int,
        steps: int,
    ) -> None:
        fits = sweep(
            model, task, [random_context(context, model, get_task(task), n_slots, self.seed)],
            self.protocol.lrs, recipe=self.job.recipe("prefix", steps=steps),
            seed=self.seed, checkpoint=self.job.checkpoint(name), progress=self.job.progress,
        )  # fmt: skip
        best = min(fits, key=lambda fit: fit.train_loss)
        own: dict[str, Any] = {
            "depth": depth,
            "context": context,
            "n_slots": n_slots,
            "steps": steps,
            "tuned_on": task,
        }
        for fit in fits:
            self._score(
                model, list(TASKS) if fit is best else [task], fit.context, **own,
                lr=fit.recipe.lr, chosen=fit is best, train_loss=fit.train_loss,
            )  # fmt: skip
        tuned = best.context
        if self.job.keeps is not None:
            self.job.keeps.save_context(toy_name(depth), name, tuned)
        rng = derive_generator(self.seed, "norm-matched", name)
        self._score(model, [task], norm_matched(tuned, rng), **own, method="norm-matched")
        seed = derive_seed(self.seed, "random", task)
        random = random_context(context, model, get_task(task), n_slots, seed)
        self._score(model, [task], random, **own, method="random")

    def _score(
        self,
        model: Model,
        tasks: Sequence[str],
        vectors: Context | None,
        *,
        depth: int,
        context: str,
        n_slots: int,
        steps: int | None = None,
        method: str = "context",
        tuned_on: str | None = None,
        lr: float | None = None,
        chosen: bool = True,
        draw: int | None = None,
        train_loss: float | None = None,
    ) -> None:
        about = {
            "seed": self.seed, "depth": depth, "context": context, "n_slots": n_slots,
            "steps": steps, "method": method, "tuned_on": tuned_on, "lr": lr, "chosen": chosen,
            "draw": draw,
        }  # fmt: skip
        self.rows += score_rows(
            about, model, tasks, vectors, baseline="masked", n=self.protocol.n_test,
            train_loss=train_loss, by_output=True,
        )  # fmt: skip


def random_context(kind: str, model: Model, task: DigitTask, n_slots: int, seed: int) -> Context:
    """Return a context of noise, the start of a tuning.

    Args:
        kind: one of `TUNED`.
        model: the model it is for.
        task: its input precedes a suffix.
        n_slots: number of rows.
        seed: decides the noise.
    """
    name, _, detail = kind.partition(", ")
    if name == "prefix":
        return Prefix.random(model, n_slots, seed, detail)
    position = 0 if kind == "soft prompt" else task.length
    layers = "all" if kind == "suffix at every layer" else "embedding"
    return SoftPrompt.random(model, n_slots, seed, position=position, layers=layers)
