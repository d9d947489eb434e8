"""LoRA by PEFT on the same model, with as many parameters as a prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prefix_interp.models.host import Model, host_of
from prefix_interp.tasks import Batch, Task
from prefix_interp.tasks.choice import beats_foils
from prefix_interp.tuning.evaluate import Evaluation, marked, scored
from prefix_interp.tuning.lora_peft import adapted_logits, train_adapter, trained, with_adapter
from prefix_interp.tuning.recipes import Recipe

TARGETS = ("q", "v")
_PASS = 32  # sequences per pass of an evaluation


def lora_shape(model: Model, n_parameters: int) -> tuple[int, int]:
    """Return the rank and the number of layers whose LoRA comes nearest to so many parameters.

    With SmolLM2 every size is met exactly: rank 1 in 6 layers is as much as one slot of keys and
    values in all 30.

    Args:
        model: a language model.
        n_parameters: of the prefix.
    """
    host = host_of(model)
    q, v = (n * host.d_head for n in (host.n_heads, host.n_kv_heads))
    one = 2 * host.d_model + q + v  # a rank of one layer
    every = range(1, host.n_layers + 1)
    ranks = range(1, max(2, n_parameters // one + 1))
    pairs = [(rank, layers) for rank in ranks for layers in every]
    return min(pairs, key=lambda p: (abs(p[0] * p[1] * one - n_parameters), p[0]))


def with_lora(model: Model, rank: int, n_layers: int, seed: int) -> Any:
    """Return a copy of the model with LoRA on the queries and values of some layers.

    Args:
        model: a language model.
        rank: of each.
        n_layers: how many layers, spread evenly.
        seed: decides the start.

    Raises:
        PrefixInterpError: PEFT is not installed.
    """
    depth = host_of(model).n_layers
    layers = [round(i * depth / n_layers) for i in range(n_layers)]
    return with_adapter(model, rank, float(rank), TARGETS, layers, seed)  # type: ignore[arg-type]


def tune_adapter(
    adapted: Any, model: Model, task: Task, recipe: Recipe, seed: int,
    checkpoint: Path | None = None, progress: bool = True,
) -> float:  # fmt: skip
    """Tune the adapter in place as `tune_prefix` tunes a prefix; return the last training loss.

    Args:
        adapted: from `with_lora`.
        model: that it was made of.
        task: source of the batches.
        recipe: steps, rate and so on.
        seed: decides the batches.
        checkpoint: file to save to and resume from.
        progress: show a bar.
    """
    shapes = {name: list(x.shape) for name, x in trained(adapted).items()}
    history = train_adapter(
        adapted, model, task, recipe,  # type: ignore[arg-type]
        seed=seed, identity={"lora": shapes}, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return float(history["loss"].iloc[-1])


def adapter_scores(adapted: Any, name: str, batch: Batch) -> Evaluation:
    """Return how well the adapted model answers, as `evaluate` does.

    Args:
        adapted: from `with_lora`.
        name: of the task.
        batch: questions with their answers and foils.
    """
    assert batch.foils is not None
    parts = []
    for start in range(0, len(batch.tokens), _PASS):
        own = batch.part(slice(start, start + _PASS))
        with torch.no_grad():
            logits = adapted_logits(adapted, own).float()
        assert own.foils is not None
        parts.append((*marked(logits, own.answers), beats_foils(logits, own.answers, own.foils)))
    return scored(name, batch, *(torch.cat(each) for each in zip(*parts, strict=True)))
