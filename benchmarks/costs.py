"""What single pieces of work cost: seconds and peak memory, each in a process of its own."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import prefix_interp as pi


@dataclass(frozen=True)
class Cost:
    """One measured quantity.

    Attributes:
        work: what was done.
        value: what it took.
        unit: e.g. ``"s"`` or ``"GB"``.
    """

    work: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.work}: {self.value:.2f} {self.unit}"


def elicitation() -> Iterator[Cost]:
    """Every head with 39 controls at 4 layers x 4 heads, d 256, 10 slots, 64 examples."""
    model = pi.build_toy(pi.ToyConfig(n_layers=4, n_heads=4, d_model=256, n_prefix=10))
    prefix = pi.Prefix.random(model, 10)
    batch = pi.get_task("add_one").sample(64, split="test")
    began = time.perf_counter()
    pi.head_elicitation(model, prefix, batch, n_random=39, progress=False)
    yield Cost("elicitation of 16 heads with 39 controls", time.perf_counter() - began, "s")


def deep_step() -> None:
    """Do two steps of a prefix of a 40-layer model."""
    model = pi.build_toy(pi.ToyConfig(n_layers=40, n_heads=4, d_model=256, n_prefix=10))
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=2, batch_size=64)
    pi.tune_prefix(model, "add_one", 10, recipe=recipe, progress=False)


def memory() -> Iterator[Cost]:
    """Peak memory of a step of a prefix of 40 layers at batch 64, with the model and torch."""
    yield Cost("steps of a prefix, 40 layers, batch 64, peak memory", _peak(deep_step), "GB")


def matrix_rate() -> Iterator[Cost]:
    """The share of a plain product's rate that a step of a prefix at 4 layers reaches."""
    from prefix_interp.tuning.objective import stack_losses

    n_layers, d_model, rows = 4, 256, 64 * 19
    model = pi.build_toy(pi.ToyConfig(n_layers, 4, d_model, 10)).requires_grad_(False)
    prefix = pi.Prefix.random(model, 10, 0, "kv")
    stack = {name: x[None].clone().requires_grad_() for name, x in prefix.tensors.items()}
    batch = pi.get_task("sort_descending").sample(64)
    losses = stack_losses(model, prefix, pi.Recipe.from_preset("fast", "prefix"))
    x, weight = torch.randn(rows, d_model), torch.randn(d_model, 4 * d_model)
    product = _median(lambda: x @ weight)
    step = _median(lambda: losses(batch, stack).sum().backward())
    rate = 2 * rows * d_model * 4 * d_model / product
    # Forward, and backward to the activations: 12 products of d x d a layer and row, twice.
    needed = 2 * 2 * 12 * n_layers * rows * d_model**2
    yield Cost("share of a plain product's rate, step of a prefix, 4 layers",
               100 * needed / step / rate, "%")  # fmt: skip


def scaling() -> Iterator[Cost]:
    """How the cost of `inspect` grows: the exponent of each size, by least squares on logs."""
    usual = {"layers": 2, "heads": 4, "tokens": 12, "sentences": 16}
    _inspected(**usual)  # the first call loads what later ones need
    for what, sizes in {
        "layers": (2, 4, 8), "heads": (2, 4, 8), "tokens": (12, 24, 48), "sentences": (16, 32, 64),
    }.items():  # fmt: skip
        logs = []
        for size in sizes:
            seconds = _inspected(**{**usual, what: size})
            logs.append((math.log(size), math.log(seconds)))
        x, y = (torch.tensor(each) for each in zip(*logs, strict=True))
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        yield Cost(f"inspect grows with {what} to the power of", float(slope), "")
    yield Cost(f"inspect of {usual}", _inspected(**usual), "s")


def _inspected(layers: int, heads: int, tokens: int, sentences: int) -> float:
    shape = pi.ToyConfig(layers, heads, 64, 4, n_content=tokens)
    model = pi.build_toy(shape)
    given = torch.randint(0, shape.d_vocab, (sentences, tokens))
    began = time.perf_counter()
    pi.inspect(model, pi.Prefix.random(model, 4), given, out=None, progress=False)
    return time.perf_counter() - began


def _median(function: Callable[[], object], rounds: int = 9) -> float:
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[1:])[rounds // 2]


def _peak(function: Callable[[], None]) -> float:
    """Return the peak memory of a process that calls a function of this module, in GB."""
    code = (
        f"import resource, torch; torch.set_num_threads(1); from {__name__} import "
        f"{function.__name__} as f; f(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) / 1e6


ALL = (elicitation, memory, matrix_rate, scaling)
