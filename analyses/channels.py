"""By which way a head's output still knows the content: by (1 - g) t, or by gate and bias."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.study import Rows
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import get_task
from prefix_interp.theory.decompose import decompose_attention

WAYS = ("both", "scaled_base", "gate_and_bias", "neither")


def channel_rows(
    model: Model, prefixes: Mapping[str, Prefix], task: str, n: int, seed: int = 0
) -> Rows:
    """Return, per prefix, the share of right answers if content passes by one way alone.

    In a model of one layer and one head, what the head writes at an output decides the answer. The
    gate and the bias, or t, or both, are set to their mean over the sequences that agree on the
    output's index and the token before it: so all that is lost is what they know of the content
    beyond these two. Each row has ``prefix`` and one share per name of `WAYS`: what still varies.

    Args:
        model: one layer, one head.
        prefixes: by name.
        task: whose test sequences, with the answers fed in.
        n: number of sequences.
        seed: chooses them.
    """
    batch = get_task(task).sample(n, split="test", seed=seed)
    host = host_of(model)
    tokens, answers = batch.tokens.to(host.device), batch.answers.to(host.device)
    n_out = answers.shape[1]
    alike = torch.arange(n_out, device=tokens.device) * host.d_vocab + tokens[:, -n_out:]
    rows = []
    for name, prefix in prefixes.items():
        parts = decompose_attention(run_pair(model, prefix, tokens))
        gate = parts.gate[0, :, 0, -n_out:, None]
        base, bias = (x[0, :, 0, -n_out:] for x in (parts.base, parts.bias))
        held_gate, held_base, held_bias = (mean_of_like(x, alike) for x in (gate, base, bias))
        written = {
            "both": (1 - gate) * base + bias,
            "scaled_base": (1 - held_gate) * base + held_bias,
            "gate_and_bias": (1 - gate) * held_base + bias,
            "neither": (1 - held_gate) * held_base + held_bias,
        }
        shares = {
            way: float((_answers(model, prefix, tokens, z) == answers).double().mean())
            for way, z in written.items()
        }
        rows.append({"prefix": name, **shares})
    return rows


def mean_of_like(
    values: Float[Tensor, "batch n_out dim"], alike: Int[Tensor, "batch n_out"]
) -> Float[Tensor, "batch n_out dim"]:
    """Return each value replaced by the mean of those with the same number in `alike`.

    Args:
        values: any.
        alike: the same number for values that are averaged.
    """
    _, group = alike.flatten().unique(return_inverse=True)
    flat = values.flatten(0, 1)
    sums = torch.zeros(int(group.max()) + 1, flat.shape[1], dtype=flat.dtype, device=flat.device)
    sums.index_add_(0, group, flat)
    return (sums / group.bincount()[:, None])[group].reshape(values.shape)


def _answers(
    model: Model,
    prefix: Prefix,
    tokens: Int[Tensor, "batch pos"],
    written: Float[Tensor, "batch n_out d_head"],
) -> Int[Tensor, "batch n_out"]:
    """Return the answers of the prefixed model with another output of its only head."""
    n_out = written.shape[1]

    def write(z: Tensor, hook: object) -> Tensor:
        changed = z.clone()
        changed[:, -n_out:, 0] = written
        return changed

    with attach(model, prefix):
        logits = model.run_with_hooks(tokens, fwd_hooks=[(Site.Z.at(0), write)])
    return logits[:, -n_out:].argmax(-1)
