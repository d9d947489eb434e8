"""A layer's queries and keys as sums over parts of what the layer reads."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from prefix_interp.models.attention import Attention, expand_heads, without_hooks
from prefix_interp.models.norms import read_behind


def query_parts(
    attn: Attention,
    inputs: Float[Tensor, "batch pos d_model"],
    parts: Float[Tensor, "part batch pos d_model"],
    n_heads: int,
) -> Float[Tensor, "part batch pos head d_head"]:
    """Return what each part adds to the queries, as they are multiplied with keys.

    Norms and clipping keep the scale that they have for `inputs`, so all is linear, and parts that
    add up to `inputs` add up to the layer's queries. Constants (biases) count as the first part's.
    Rows are rotated as if the first stood at position 0, since only distances count.

    Args:
        attn: of the layer.
        inputs: what its attention reads, before its norm.
        parts: of an input, not necessarily of `inputs`.
        n_heads: number of heads.
    """
    return _parts(attn, "Q", inputs, parts, n_heads)


def key_parts(
    attn: Attention,
    inputs: Float[Tensor, "batch pos d_model"],
    parts: Float[Tensor, "part batch pos d_model"],
    n_heads: int,
) -> Float[Tensor, "part batch pos head d_head"]:
    """Return what each part adds to the keys, one per head; see `query_parts`."""
    return _parts(attn, "K", inputs, parts, n_heads)


def _parts(attn: Attention, what: str, inputs: Tensor, parts: Tensor, n_heads: int) -> Tensor:
    nothing = torch.zeros_like(inputs)
    with torch.no_grad(), without_hooks(attn.norm):
        behind = read_behind(attn.norm, inputs, parts)
        found = attn._projected(behind, what) - attn._projected(nothing, what)
        found[0] += attn.project(nothing, what)  # the norm's shift and the projection's bias
        whole = attn.project(inputs, what)
        norm = attn.head_norm(what)
        if norm is not None:
            found = read_behind(norm, whole, found)
            with without_hooks(norm):
                whole = norm(whole)
        found = found * torch.where(whole == 0, 1, attn._clipped(whole) / whole)
        turned = attn._rotated(rearrange(found, "part batch ... -> (part batch) ..."), 0)
        return expand_heads(turned.unflatten(0, found.shape[:2]), n_heads)
