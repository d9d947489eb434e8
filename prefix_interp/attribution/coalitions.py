"""The parts of a prefix's effect on a head, inserted one by one and together.

A head's output under a prefix is ``z_on = (1 - g) (t_off + P) + b`` (eq. 7, with t split once
more): the *gate* g scales what the head computes, the *bias* b is what the prefix adds there, and
P is what *propagated* to its input from earlier layers. Every subset of the three can be inserted
into a single head. The total effect is split by Shapley values (Shapley 1953), means over the
orders in which the three can join. They add up to the total exactly.
"""

from __future__ import annotations

import itertools
import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.grid import Direction
from prefix_interp.attribution.pair import Contrast
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook
from prefix_interp.theory.decompose import Decomposition

HeadEffects = Float[Tensor, "layer head batch"]
PARTS = ("gate", "bias", "propagated")


def shapley_values(
    values: Float[Tensor, "coalition *grid"],
) -> Float[Tensor, "player *grid"]:
    """Return what each player adds, averaged over all orders of joining (Shapley 1953).

    The sum over players is ``values[-1] - values[0]``.

    Args:
        values: one per coalition; player i is in coalition c if bit i of c is set. There are 2 to
            the power of the number of players.

    Raises:
        PrefixInterpError: the number of values is not a power of 2 above 1.
    """
    n = len(values).bit_length() - 1
    if n < 1 or len(values) != 1 << n:
        raise PrefixInterpError(
            f"values have {len(values)} coalitions; give one per subset of players: 2, 4, 8, ..."
        )
    shares = values.new_zeros(n, *values.shape[1:])
    for player, others in itertools.product(range(n), range(1 << n)):
        if not others >> player & 1:
            weight = 1 / (n * math.comb(n - 1, others.bit_count()))
            shares[player] += weight * (values[others | 1 << player] - values[others])
    return shares


def coalition_values(
    pair: Contrast, parts: Decomposition, direction: Direction | str, effect: HeadEffects, bar: tqdm
) -> Float[Tensor, "coalition layer head batch"]:
    """Return the metric with each subset of `PARTS` inserted into each head, in bit order.

    Args:
        pair: from `contrast`, with one metric.
        parts: its decomposition.
        direction: ``"denoise"`` (insert into the plain run) or ``"noise"`` (remove from the other).
        effect: of all parts together, from `head_effects`.
        bar: advanced by one per layer.
    """
    (metric,) = pair.metrics
    host = host_of(pair.model)
    n_layers, n_heads = host.n_layers, host.n_heads
    base = "off" if direction == "denoise" else "on"
    values = effect.new_empty(8, *effect.shape)
    known = getattr(pair, base)[metric].double()
    values[0] = known if base == "off" else known - effect
    values[7] = known if base == "on" else known + effect
    for layer in range(n_layers):
        # No layer precedes layer 0: there the parts of a coalition are only gate and bias.
        wanted = (1, 2, 3, 4, 5, 6) if layer else (1, 2)
        cells = torch.tensor(list(itertools.product(wanted, range(n_heads))))
        cells = cells.to(effect.device)

        def make(part: slice, layer: int = layer, cells: Tensor = cells) -> list[Hook]:
            return [_head_writer(pair, parts, layer, *cells[part].T)]

        found = pair.run(base, len(cells), make, layer=layer)[metric].double()
        by_head = "(coalition head) batch -> coalition head batch"
        values[list(wanted), layer] = rearrange(found, by_head, head=n_heads)
        if not layer:
            values[3:7, layer] = values[[7, 0, 1, 2], layer]
        bar.update()
    return values


def _head_writer(
    pair: Contrast, parts: Decomposition, layer: int, coalitions: Tensor, heads: Tensor
) -> Hook:
    """Return a hook that gives each block of rows its head's output with some of the parts."""
    n = len(heads)
    gate, bias, propagated = (
        (coalitions >> i & 1).to(parts.gate)[:, None, None, None] for i in range(len(PARTS))
    )

    def of_heads(x: Tensor) -> Float[Tensor, "stack batch query d_head"]:
        return rearrange(x, "batch head query d_head -> head batch query d_head")[heads]

    off = pair.activation("off", Site.Z, layer)
    own = of_heads(rearrange(off, "batch query head d_head -> batch head query d_head"))
    own = own + propagated * of_heads(parts.propagated[layer])
    kept = 1 - gate * of_heads(parts.gate[layer, ..., None])
    new = kept * own + bias * of_heads(parts.bias[layer])
    rows = torch.arange(n, device=heads.device)

    def write(z: Float[Tensor, "stacked pos head d_head"], hook: object) -> Tensor:
        z = rearrange(z, "(stack batch) ... -> stack batch ...", stack=n).clone()
        z[rows, :, :, heads] = new
        return rearrange(z, "stack batch ... -> (stack batch) ...")

    return Site.Z.at(layer), write
