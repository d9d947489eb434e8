"""How much attention the slots of a context take, and what they change in each head."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator


def slot_mass(
    model: Model,
    context: Context,
    tokens: Int[Tensor, "batch pos"],
    content: Bool[Tensor, "batch pos"],
) -> tuple[Float[Tensor, "layer batch head query slot"], Float[Tensor, "layer head"]]:
    """Return attention on each slot, and how far the slots move each head, of its largest output.

    Attention is zero where content is padding. For a soft prompt, whose slots have other values in
    each text, the second is the largest attention on all slots.

    Args:
        model: a supported model.
        context: one that fits it.
        tokens: content, padded on the right.
        content: where it is no padding.
    """
    host, n = host_of(model), context.n_slots
    first = getattr(context, "position", 0)
    layers = range(host.n_layers)
    names = [site.at(layer) for layer in layers for site in (Site.PATTERN, Site.Z)]
    with attach(model, context):
        _, cache = host.run_with_cache(tokens, names)
    # Rows of content alone, and padding sees nothing that counts.
    rows = [i for i in range(tokens.shape[1] + n) if not first <= i < first + n]
    masses, changes = [], []
    for layer in layers:
        mass = cache[Site.PATTERN.at(layer)][:, :, rows, first : first + n]
        mass = mass * content[:, None, :, None]
        masses.append(mass)
        if not isinstance(context, Prefix):  # deeper slots of a soft prompt have other values
            changes.append(mass.sum(-1).amax((0, 2)))
            continue
        values = host.layer_keys_values(context.tensors, layer)[1]
        v = host.attention(layer).weighed_values(values)
        z = cache[Site.Z.at(layer)][:, rows]
        gate = mass.sum(-1).transpose(1, 2)[..., None]
        bias = torch.einsum("bhqs,shd->bqhd", mass, v)
        moved = ((bias - gate * z) / (1 - gate).clamp_min(1e-6)).abs().amax((0, 1, 3))
        changes.append(moved / z.abs().amax((0, 1, 3)).clamp_min(1e-30))
    return torch.stack(masses).float(), torch.stack(changes).float()


def mean_mass(
    mass: Float[Tensor, "layer batch head query slot"], content: Bool[Tensor, "batch pos"]
) -> float:
    """Return the mean attention on all slots, over layers, heads and tokens that are no padding."""
    n_layers, _, n_heads = mass.shape[:3]
    return float(mass.sum() / (content.sum() * n_layers * n_heads))


def untrained(context: Context, model: Model) -> dict[str, Context]:
    """Return random contexts of the same kind: one with the same norms, and PEFT's start."""
    host, norms, starts = host_of(model), {}, {}
    for name, tensor in context.tensors.items():
        rng = derive_generator(0, "untrained", name)
        noise = host.cast(torch.randn(tensor.shape, generator=rng))
        starts[name] = noise
        last = tuple(range(2, tensor.ndim))
        size = tensor.norm(dim=last, keepdim=True) / noise.norm(dim=last, keepdim=True)
        norms[name] = noise * size
    return {
        "noise of the same norms": replace(context, model_id=None, **norms),
        "an untrained start N(0, 1)": replace(context, model_id=None, **starts),
    }
