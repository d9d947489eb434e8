"""Ratios of speed, each measured in one run against a named peer; never a timed test.

python benchmarks/speed.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

import prefix_interp as pi
from prefix_interp.models.host import host_of
from prefix_interp.prefixes.attach import stack_hooks
from prefix_interp.prefixes.inject import mixture_hooks, slot_hooks
from prefix_interp.tasks import Batch, list_tasks
from prefix_interp.tasks.digits import sort_rows
from prefix_interp.tuning.objective import (
    answer_losses,
    in_precision,
    sequence_losses,
    stack_losses,
)


def median_seconds(*functions: Callable[[], object], rounds: int = 15) -> list[float]:
    """Return each function's median time; the functions take turns, so that noise is shared."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds + 2):
        for function, own in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            own.append(time.perf_counter() - began)
    return [sorted(own[2:])[rounds // 2] for own in times]


def injection() -> None:
    """Compare one training step of a prefix by mixture with one by slots."""
    for n_layers, n_heads, d_model, n_slots in [(1, 1, 96, 1), (1, 1, 96, 10), (4, 4, 256, 10)]:
        cfg = pi.ToyConfig(n_layers, n_heads, d_model, n_slots)
        model = pi.build_toy(cfg).requires_grad_(False)
        vectors = torch.randn(n_layers, n_slots, d_model, requires_grad=True)
        tokens = pi.get_task("sort_descending").sample(64).tokens

        def step(
            make: Callable[..., list], model=model, vectors=vectors, tokens=tokens, n_slots=n_slots
        ) -> None:
            vectors.grad = None
            slots = host_of(model).keys_values({"vectors": vectors})
            hooks = make(model, n_slots, slots.__getitem__)
            model.run_with_hooks(tokens, fwd_hooks=hooks).logsumexp(-1).sum().backward()

        slots, mixture = median_seconds(lambda: step(slot_hooks), lambda: step(mixture_hooks))
        print(
            f"prefix step, {n_layers} layers, {n_heads} heads, d {d_model}, {n_slots} slots: "
            f"slots {slots * 1e3:.1f} ms, mixture {mixture * 1e3:.1f} ms, "
            f"ratio {slots / mixture:.2f}"
        )


def forward() -> None:
    """Compare one training step of three prefixes by the written-down pass with hooks."""
    for n_layers, n_heads, d_model in [(1, 1, 96), (1, 4, 256), (4, 4, 256)]:
        model = pi.build_toy(pi.ToyConfig(n_layers, n_heads, d_model, 10)).requires_grad_(False)
        batch = pi.get_task("sort_descending").sample(64)
        starts = pi.Prefix.random_starts(model, 10, 3, 0, "kv")
        stack = {
            name: torch.stack([each.tensors[name] for each in starts]).requires_grad_()
            for name in starts[0].tensors
        }
        for precision in ("float32", "bfloat16"):
            recipe = pi.Recipe.from_preset("fast", "prefix", precision=precision)
            fast = stack_losses(model, starts[0], recipe)

            def hooked(batch: Batch, stack: dict, model=model, like=starts[0], recipe=recipe):
                hooks = stack_hooks(model, like, stack)
                return sequence_losses(model, batch.repeat(3), recipe, hooks)

            a, b = median_seconds(
                lambda fast=fast, batch=batch, stack=stack: fast(batch, stack).sum().backward(),
                lambda hooked=hooked, batch=batch, stack=stack: (
                    hooked(batch, stack).sum().backward()
                ),
                rounds=7,
            )
            print(
                f"step of 3 prefixes, {n_layers} layers, {n_heads} heads, d {d_model}, "
                f"{precision}: hooks {b * 1e3:.1f} ms, written down {a * 1e3:.1f} ms, "
                f"ratio {b / a:.2f}"
            )


def against_peft() -> None:
    """Compare one training step of a prefix with PEFT's on a GPT-2 of the same shape."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    batch = pi.get_task("sort_descending").sample(64)
    n_pos, n_out = batch.tokens.shape[1], batch.answers.shape[1]
    for n_layers, n_heads, d_model, n_slots in [(1, 1, 96, 1), (1, 4, 256, 1), (4, 4, 256, 10)]:
        shape = {"n_layer": n_layers, "n_head": n_heads, "n_embd": d_model}
        gpt2 = GPT2LMHeadModel(
            GPT2Config(vocab_size=11, n_positions=n_pos + n_slots, **shape, use_cache=False)
        )
        config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=n_slots)
        peft = get_peft_model(gpt2, config).eval()
        model = pi.build_toy(pi.ToyConfig(n_layers, n_heads, d_model, n_slots))
        model = model.eval().requires_grad_(False)
        prefix = pi.Prefix.random(model, n_slots, 0, "kv")
        stack = {name: x[None].clone().requires_grad_() for name, x in prefix.tensors.items()}
        for precision in ("float32", "bfloat16"):
            recipe = pi.Recipe.from_preset("fast", "prefix", precision=precision)
            ours = stack_losses(model, prefix, recipe)

            def theirs(peft=peft, recipe=recipe, model=model) -> None:
                with in_precision(model, recipe):
                    logits = peft(batch.tokens).logits[:, -n_out:]
                answer_losses(logits, batch).sum().backward()

            a, b = median_seconds(
                lambda ours=ours, stack=stack: ours(batch, stack).sum().backward(), theirs,
                rounds=9,
            )  # fmt: skip
            print(
                f"prefix step, {n_layers} layers, {n_heads} heads, d {d_model}, {n_slots} slots, "
                f"{precision}: PEFT {b * 1e3:.1f} ms, ours {a * 1e3:.1f} ms, ratio {b / a:.2f}"
            )


def sweep() -> None:
    """Compare seven learning rates side by side with one after the other."""
    model = pi.load_toy("sort-ascending-1l1h")
    rates = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
    starts = pi.Prefix.random_starts(model, 1)
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=60)

    def stacked() -> None:
        pi.sweep(model, "sort_descending", starts, rates, recipe=recipe, progress=False)

    def one_by_one() -> None:
        for rate in rates:
            pi.sweep(model, "sort_descending", starts, [rate], recipe=recipe, progress=False)

    a, b = median_seconds(stacked, one_by_one, rounds=3)
    print(f"sweep of 7 rates: one by one {b:.2f} s, stacked {a:.2f} s, ratio {b / a:.2f}")


def sorting() -> None:
    """Compare the samplers' sort with `torch.sort`."""
    x = torch.randint(0, 8, (200_000, 10), generator=torch.Generator().manual_seed(0))
    ours, theirs = median_seconds(lambda: sort_rows(x), lambda: x.sort(dim=-1))
    print(
        f"sorting 200,000 rows of 10: torch.sort {theirs * 1e3:.1f} ms, sort_rows "
        f"{ours * 1e3:.1f} ms, ratio {theirs / ours:.2f}"
    )


def sampling() -> None:
    """Print how many sequences with answers one core samples in a second."""
    for name in list_tasks():
        task = pi.get_task(name)
        for split in ("train", "test"):
            (t,) = median_seconds(lambda task=task, s=split: task.sample(200_000, s), rounds=3)
            print(f"sampler {name} {split}: {0.2 / t:.1f} million a second")


if __name__ == "__main__":
    torch.set_num_threads(1)
    injection()
    forward()
    against_peft()
    sweep()
    sorting()
    sampling()
