"""What a training step minimises, and whether the processor has fast bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.plain_run import eager
from prefix_interp.prefixes.layout import Hook, answer_rows_hooks
from prefix_interp.tasks import Batch, Task
from prefix_interp.tuning.recipes import Recipe


def sequence_losses(
    model: Model, task: Task, batch: Batch, recipe: Recipe, hooks: Sequence[Hook]
) -> Float[Tensor, " batch"]:
    """Return each sequence's mean cross-entropy over its outputs.

    Args:
        model: the trained model, or the model of the trained context.
        task: defines how many of the last positions are outputs.
        batch: tokens and answers.
        recipe: its precision is used if the processor supports it.
        hooks: put the prefix or the baseline into the model.
    """
    device = host_of(model).device.type
    half = recipe.precision == "bfloat16" and (device != "cpu" or has_fast_bfloat16())
    # A compiled model would leave out the hooks.
    with eager(), model.hooks(fwd_hooks=[*hooks, *answer_rows_hooks(model, task.length)]):
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = model(batch.tokens)[:, -task.length :]
    answers = batch.answers.to(logits.device)
    losses = F.cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
    return losses.mean(dim=-1)


def has_fast_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices in hardware."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def check_room(model: Model, task: Task, n_slots: int = 0) -> None:
    """Raise unless `task` fits vocabulary and context of `model`, after `n_slots` slots."""
    host = host_of(model)
    if task.d_vocab > host.d_vocab:
        raise PrefixInterpError(
            f"task={task.name!r} needs {task.d_vocab} tokens but the model has "
            f"{host.d_vocab}; build it with d_vocab={task.d_vocab} or more"
        )
    room = host.room(n_slots)
    if task.n_content > room:
        raise PrefixInterpError(
            f"task={task.name!r} needs {task.n_content} content positions but the model has "
            f"{room}; build it with n_content={task.n_content} or more"
        )
