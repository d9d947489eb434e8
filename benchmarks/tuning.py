"""Training: a step of a prefix, a sweep of rates, seeds side by side, and the samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import prefix_interp as pi
from benchmarks.compare import Ratio, compare
from prefix_interp.prefixes.attach import stack_hooks
from prefix_interp.tasks.digits import sort_rows
from prefix_interp.tuning.objective import (
    answer_losses,
    in_precision,
    sequence_losses,
    stack_losses,
)
from prefix_interp.tuning.parallel import run_parallel

# Layers, heads, width and slots.
SHAPES = [(1, 1, 96, 1), (1, 4, 256, 1), (4, 4, 256, 10)]
PRECISIONS = ("float32", "bfloat16")


def _named(n_layers: int, n_heads: int, d_model: int, n_slots: int, precision: str) -> str:
    return (
        f"step of a kv prefix, {n_layers} layers, {n_heads} heads, d {d_model}, {n_slots} slots, "
        f"{precision}"
    )


def _step(losses: Callable[[], torch.Tensor]) -> Callable[[], object]:
    return lambda: losses().sum().backward()


def against_peft() -> Iterator[Ratio]:
    """Compare one training step of a prefix with PEFT's on a GPT-2 of the same shape."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    batch = pi.get_task("sort_descending").sample(64)
    n_pos, n_out = batch.tokens.shape[1], batch.answers.shape[1]
    for shape in SHAPES:
        n_layers, n_heads, d_model, n_slots = shape
        sizes = {"n_layer": n_layers, "n_head": n_heads, "n_embd": d_model}
        gpt2 = GPT2LMHeadModel(
            GPT2Config(vocab_size=11, n_positions=n_pos + n_slots, **sizes, use_cache=False)
        )
        config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=n_slots)
        peft = get_peft_model(gpt2, config).eval()
        model = pi.build_toy(pi.ToyConfig(*shape)).eval().requires_grad_(False)
        prefix = pi.Prefix.random(model, n_slots, 0, "kv")
        stack = {name: x[None].clone().requires_grad_() for name, x in prefix.tensors.items()}
        for precision in PRECISIONS:
            recipe = pi.Recipe.from_preset("fast", "prefix", precision=precision)
            ours = stack_losses(model, prefix, recipe)

            def theirs(peft=peft, recipe=recipe, model=model) -> torch.Tensor:
                with in_precision(model, recipe):
                    logits = peft(batch.tokens).logits[:, -n_out:]
                return answer_losses(logits, batch)

            yield compare(
                _named(*shape, precision),
                _step(lambda ours=ours, stack=stack: ours(batch, stack)), "PEFT", _step(theirs),
            )  # fmt: skip


def against_hooks() -> Iterator[Ratio]:
    """Compare one training step of three prefixes by the written-down pass with hooks."""
    batch = pi.get_task("sort_descending").sample(64)
    for shape in SHAPES:
        model = pi.build_toy(pi.ToyConfig(*shape)).requires_grad_(False)
        starts = pi.Prefix.random_starts(model, shape[-1], 3, 0, "kv")
        stack = {
            name: torch.stack([each.tensors[name] for each in starts]).requires_grad_()
            for name in starts[0].tensors
        }
        for precision in PRECISIONS:
            recipe = pi.Recipe.from_preset("fast", "prefix", precision=precision)
            fast = stack_losses(model, starts[0], recipe)

            def hooked(
                stack: dict = stack, model=model, like=starts[0], recipe=recipe
            ) -> torch.Tensor:
                hooks = stack_hooks(model, like, stack)
                return sequence_losses(model, batch.repeat(3), recipe, hooks)

            yield compare(
                _named(*shape, precision).replace("a kv prefix", "3 kv prefixes"),
                _step(lambda fast=fast, stack=stack: fast(batch, stack)), "its own hooks",
                _step(hooked), rounds=7,
            )  # fmt: skip


def sweep() -> Iterator[Ratio]:
    """Compare seven learning rates side by side with one after the other."""
    model = pi.load_toy("sort-ascending-1l1h")
    rates = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
    starts = pi.Prefix.random_starts(model, 1)
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=60)

    def rates_at_once(*groups: list[float]) -> None:
        for own in groups:
            pi.sweep(model, "sort_descending", starts, own, recipe=recipe, progress=False)

    yield compare(
        "sweep of 7 rates, 60 steps", lambda: rates_at_once(rates), "one after the other",
        lambda: rates_at_once(*([rate] for rate in rates)), rounds=3,
    )  # fmt: skip


def one_seed(seed: int) -> float:
    """Return the loss of one tuned prefix; a function of a module, as processes need it."""
    model = pi.load_toy("four-skills-1l4h")
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=150)
    fit = pi.tune_prefix(model, "add_one", recipe=recipe, seed=seed, progress=False)
    return fit.train_loss


def seeds() -> Iterator[Ratio]:
    """Compare ten seeds in two processes with ten seeds in one."""

    def run(n_jobs: int) -> list[float]:
        return run_parallel(one_seed, range(10), n_jobs=n_jobs, progress=False)

    assert run(2) == run(1), "the number of processes changed a result"
    yield compare(
        "10 seeds, 150 steps, 2 processes", lambda: run(2), "one after the other", lambda: run(1),
        rounds=3,
    )  # fmt: skip


def sorting() -> Iterator[Ratio]:
    """Compare the samplers' sort with `torch.sort`."""
    x = torch.randint(0, 8, (200_000, 10), generator=torch.Generator().manual_seed(0))
    yield compare(
        "sorting 200,000 rows of 10", lambda: sort_rows(x), "torch.sort", lambda: x.sort(dim=-1)
    )


def evaluation() -> Iterator[Ratio]:
    """Compare the evaluation of a prefix with generating each answer without a cache."""
    model = pi.load_toy("four-skills-1l4h")
    prefix = pi.load_prefixes("four-skills-1l4h")["add_one"]
    task = pi.get_task("add_one")
    batch, n = task.sample(800, split="test"), task.length

    def generated() -> torch.Tensor:
        tokens = batch.tokens[:, :n]
        with torch.no_grad(), pi.attach(model, prefix):
            for _ in range(n):
                tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens[:, n:]

    right = (generated() == batch.answers).all(-1).double().mean()
    assert right == pi.evaluate(model, task, prefix, n=800).exact_match.value
    yield compare(
        "evaluation of 800 sequences", lambda: pi.evaluate(model, task, prefix, n=800),
        "generation without a cache", generated, rounds=5,
    )  # fmt: skip


ALL = (against_peft, against_hooks, sweep, seeds, evaluation, sorting)
