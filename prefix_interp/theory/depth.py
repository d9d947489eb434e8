"""Depth: what a prefix does to the attention of layers through the layers below them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.theory.decompose import check_pair
from prefix_interp.theory.expansion import TERMS as TERMS
from prefix_interp.theory.expansion import LogitExpansion as LogitExpansion
from prefix_interp.theory.expansion import expand_attention_logits as expand_attention_logits
from prefix_interp.theory.expansion import no_padding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEANS = ("distance", "flips")


@dataclass(frozen=True, eq=False, repr=False)
class AttentionDrift(ResultObject):
    """How far relative attention over the content moves under a prefix (see `attention_drift`).

    Attributes:
        distance: Jensen-Shannon distance of each row to the row without the prefix, 0 to 1.
        flipped: whether the key with most attention is another one.
        counted: which rows count: no padding, at least two keys seen, and not all of the attention
            on the slots. Elsewhere `distance` is 0 and `flipped` is False.
        baseline: what "without the prefix" meant.

    Example:
        >>> drift = attention_drift(pi.run_pair(model, prefix, tokens))
        >>> bool(drift.distance[0].max() < 1e-5)  # the first layer, in float32
        True
    """

    distance: Float[Tensor, "layer batch head query"]
    flipped: Bool[Tensor, "layer batch head query"]
    counted: Bool[Tensor, "layer batch head query"]
    baseline: str

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer and head.

        Columns: mean and ``largest`` ``distance``, ``flips`` (share of rows whose argmax is another
        key), ``n_rows``. Without any row that counts they are NaN.
        """
        n_layers, _, n_heads, _ = self.distance.shape
        index = pd.MultiIndex.from_product(
            [range(n_layers), range(n_heads)], names=["layer", "head"]
        )
        per_head = "layer batch head query -> (layer head)"
        n = reduce(self.counted.double(), per_head, "sum")
        data = {
            "distance": reduce(self.distance.double(), per_head, "sum") / n,
            "largest": reduce(self.distance.double(), per_head, "max").where(n > 0, torch.nan),
            "flips": reduce(self.flipped.double(), per_head, "sum") / n,
            "n_rows": n.long(),
        }
        columns = {name: x.tolist() for name, x in data.items()}
        return pd.DataFrame(columns, index=index).reset_index()

    def caption(self) -> str:
        """Return the sizes, and mean distance and share of flips in the first and last layer."""
        n_layers, n_batch, n_heads, n_query = self.distance.shape
        frame, ends = self.to_dataframe(), []
        for i in sorted({0, n_layers - 1}):
            distance, flips = (frame.loc[frame["layer"] == i, c].mean() for c in _MEANS)
            ends.append(f"layer {i}: distance {distance:.2g}, flips {flips:.2g}")
        return (
            f"{n_layers} x {n_heads} heads; {n_batch} sequences of {n_query} tokens; against "
            f"{self.baseline}; {'; '.join(ends)}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Plot mean distance and share of flips by layer, a line for the mean, a dot per head."""
        return drawing("depth.drift_figure")({"prefix": self}, figsize=figsize, width=width)


def attention_drift(
    pair: RunPair, content: Bool[Tensor, "batch pos"] | None = None
) -> AttentionDrift:
    """Return how far each head's attention within the content moves under the prefix.

    Attention on the slots is left out and the rest renormalised to sum to 1. Its Jensen-Shannon
    distance to the run without the prefix is the root of the divergence in bits: 0 for equal rows,
    1 for rows with no key in common. By eq. 6 it is 0, up to rounding, in the first layer; deeper
    layers read what the prefix has changed. An argmax counts as flipped only if the old key leads
    by more than rounding.

    Args:
        pair: from `run_pair`; against ``"masked"`` the first layer's distance is 0.
        content: which positions are no padding, e.g. ``batch.seen() >= 0``; None: all.

    Raises:
        PrefixInterpError: not a pair of runs, or `content` does not fit its tokens.

    Example:
        >>> drift = attention_drift(pi.run_pair(model, prefix, tokens))
        >>> drift.to_dataframe().columns.tolist()
        ['layer', 'head', 'distance', 'largest', 'flips', 'n_rows']
    """
    check_pair(pair)
    real = no_padding(pair, content)[:, None, :]
    found = []
    for layer in range(host_of(pair.model).n_layers):
        site, n_pos = Site.PATTERN.at(layer), pair.tokens.shape[1]
        p, q = (cache[site][..., -n_pos:] for cache in (pair.on, pair.off))
        p, q = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (p, q))
        info = torch.finfo(p.dtype)
        left = torch.minimum(p.sum(-1), q.sum(-1))
        several = (q > 0).sum(-1) > 1
        counted = (left > info.tiny / info.eps) & several & real
        p, q = (x / x.sum(-1, keepdim=True).clamp_min(info.tiny) for x in (p, q))
        best = q.amax(-1)
        now = q.gather(-1, p.argmax(-1, keepdim=True)).squeeze(-1)
        flipped = now < best * (1 - info.eps**0.75)
        found.append((jensen_shannon(p, q).where(counted, 0), flipped & counted, counted))
    distance, flipped, counted = map(torch.stack, zip(*found, strict=True))
    return AttentionDrift(distance, flipped, counted, pair.baseline)


def jensen_shannon(
    p: Float[Tensor, "*rows key"], q: Float[Tensor, "*rows key"]
) -> Float[Tensor, "*rows"]:
    """Return the Jensen-Shannon distance of distributions: the root of the divergence in bits.

    From 0 to 1. With d = (p - q) / (p + q) a key's share is (p + q) / 4 times
    (1 + d) log(1 + d) + (1 - d) log(1 - d), here by its series where d is small, so that the
    distance of rows that are equal up to rounding is itself of the size of the rounding.

    Args:
        p: each row sums to 1.
        q: likewise.

    Example:
        >>> jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.)
    """
    both = p + q
    d = torch.where(both > 0, (p - q) / both.clamp_min(torch.finfo(p.dtype).tiny), 0)
    exact = torch.special.xlog1py(1 + d, d) + torch.special.xlog1py(1 - d, -d)
    small = sum(d ** (2 * i) / (i * (2 * i - 1)) for i in range(1, 9))
    share = both * torch.where(d.abs() < 0.1, small, exact)
    return (share.sum(-1) / (4 * math.log(2))).sqrt()
