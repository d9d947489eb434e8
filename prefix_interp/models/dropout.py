"""minGPT's dropout, added to a hooked transformer by hooks (used by the `paper` preset)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site

Hook = tuple[str, Callable[..., torch.Tensor]]


def dropout_hooks(model: Model, p: float, rng: torch.Generator) -> list[Hook]:
    """Return hooks that drop with probability `p` where minGPT does.

    The places are the sum of token and position embedding, the attention pattern, and what
    attention and MLP write into the residual stream; kept entries are scaled by 1 / (1 - p).

    Args:
        model: any hooked transformer.
        p: drop probability in [0, 1); 0 gives no hooks.
        rng: source of the masks.

    Raises:
        PrefixInterpError: `p` is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise PrefixInterpError(f"p={p!r} must be a probability in [0, 1)")
    if p == 0:
        return []

    def drop(x: torch.Tensor, hook: object) -> torch.Tensor:
        mask = torch.rand(x.shape, generator=rng) >= p
        return x * mask.to(x) / (1 - p)

    host = host_of(model)
    layers = range(host.n_layers)
    names = [Site.RESID_PRE.at(0)]
    names += [Site.PATTERN.at(i) for i in layers] + [Site.ATTN_OUT.at(i) for i in layers]
    if not host.attn_only:
        names += [Site.MLP_OUT.at(i) for i in layers]
    return [(name, drop) for name in names]
