"""The subspace in which a prefix can bias a head or a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.theory.decompose import Decomposition, decompose_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class BiasSubspace(ResultObject):
    """Singular values and directions of z_pt - (1 - g) t over many sequences and positions.

    A head's bias has rank at most n_s; a layer's (summed over heads, after W_O) at most
    ``min(d_model, n_s * n_heads)``. These bounds hold for z_pt - (1 - g) t. The plain difference
    z_pt - t has full rank, because the gate scales t.

    Attributes:
        level: ``"head"`` (directions in d_head) or ``"layer"`` (directions in d_model).
        layer: which layer.
        head: which head; None for a layer.
        bound: upper bound on the rank.
        singular_values: all of them, in decreasing order.
        directions: right singular vectors as rows, in the same order.
        n_rows: number of measured sequences times positions.
        scale: largest singular value of the measured outputs z_pt.

    Example:
        >>> space = pi.bias_subspace(model, prefix, tokens, layer=0, head=1)
        >>> space.rank, space.bound
        (1, 1)
    """

    level: str
    layer: int
    head: int | None
    bound: int
    singular_values: Float[Tensor, " direction"]
    directions: Float[Tensor, "direction dim"]
    n_rows: int
    scale: float = 0.0

    @property
    def rank(self) -> int:
        """Return how many singular values exceed rounding.

        The threshold is that of `numpy.linalg.matrix_rank`, the first singular value times the
        larger side of the matrix times the machine epsilon. Rounding comes from z_pt and t, so the
        first singular value of z_pt is used if it is larger than that of the bias. Faint directions
        are lost in float32: see `effective_rank`, or convert to float64.
        """
        s = self.singular_values
        side = max(self.n_rows, self.directions.shape[-1])
        threshold = max(float(s[0]), self.scale) * side * torch.finfo(s.dtype).eps
        return int((s > threshold).sum())

    @property
    def basis(self) -> Float[Tensor, "rank dim"]:
        """Return an orthonormal basis, the strongest direction first."""
        return self.directions[: self.rank]

    @property
    def effective_rank(self) -> float:
        """Return exp(entropy) of the normalised singular values (Roy and Vetterli 2007).

        The number of directions weighted by use: from 1 to `rank`, or 0 for no bias.
        """
        s = self.singular_values[: self.rank].double()
        if len(s) == 0:
            return 0.0
        p = s / s.sum()
        return math.exp(float(-(p * p.log()).sum()))

    def principal_angles(self, other: BiasSubspace) -> Float[Tensor, " angle"]:
        """Return the angles between two subspaces in radians, 0 to pi/2, in increasing order.

        Bjorck and Golub (1973); small angles are computed from the sine, which is more precise.

        Raises:
            PrefixInterpError: the subspaces lie in spaces of different dimension.
        """
        a, b = self.basis, other.basis
        if a.shape[1] != b.shape[1]:
            raise PrefixInterpError(
                f"other has directions in {b.shape[1]} dimensions, this one in {a.shape[1]}; "
                "compare heads with heads and layers with layers"
            )
        b = b.to(a.dtype)
        if len(a) > len(b):
            a, b = b, a
        cosines = torch.linalg.svdvals(a @ b.T).clamp(0, 1)
        sines = torch.linalg.svdvals(a - (a @ b.T) @ b).flip(0).clamp(0, 1)
        return torch.where(cosines > math.sqrt(0.5), sines.asin(), cosines.acos())

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per singular value: index from 1, value, and its share of the first."""
        s = self.singular_values.double()
        share = s / s[0] if s[0] > 0 else s
        index = range(1, len(s) + 1)
        return pd.DataFrame({"index": index, "value": s.tolist(), "of_first": share.tolist()})

    def caption(self) -> str:
        """Return the place, the rank beside its bound, and the effective rank."""
        return (
            f"{self.place}; rank {self.rank} of at most {self.bound}, effective rank "
            f"{self.effective_rank:.2f}; {self.n_rows} rows in {self.directions.shape[1]} "
            "dimensions"
        )

    @property
    def place(self) -> str:
        """Return the layer and head in words."""
        return f"layer {self.layer}" + ("" if self.head is None else f", head {self.head}")

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Plot the singular values and the bound that no prefix can exceed.

        Raises:
            PrefixInterpError: the bias is 0.
        """
        return drawing("decomposition.spectrum_figure")(
            {self.place: self}, figsize=figsize, width=width
        )


def bias_subspace(
    model: Model,
    prefix: ContextLike,
    tokens: Int[Tensor, "batch pos"],
    layer: int = 0,
    head: int | None = None,
) -> BiasSubspace:
    """Return the subspace in which `prefix` biases one head, or one layer, on `tokens`.

    It is measured from z_pt - (1 - g) t, with t from a run without the prefix in which the layer's
    input is held. It is not built from the prefix's values, so a rank of at most n_s is a result.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        tokens: content; needs more positions than n_s, or the rank says nothing.
        layer: 0-based.
        head: 0-based; None for the whole layer, summed over heads after W_O.

    Raises:
        PrefixInterpError: a layer or head out of range, or bad prefix or tokens (see `run_pair`).

    Example:
        >>> pi.bias_subspace(model, prefix, tokens, layer=0).rank  # of the whole layer
        4
    """
    if head is not None:
        check_index("head", head, host_of(model).n_heads)
    prefix = as_prefix(prefix)
    parts = _measured(model, prefix, tokens, layer)
    if head is None:
        return _of_layer(parts, model, prefix.n_slots, layer)
    return _of_heads(parts, prefix.n_slots, layer, [head])[0]


def bias_subspaces(
    model: Model, prefix: Prefix, tokens: Int[Tensor, "batch pos"], layer: int = 0
) -> list[BiasSubspace]:
    """Return `bias_subspace` of every head of a layer and, last, of the layer itself.

    All come from one pair of runs.

    Args:
        model: a supported model, float32 or float64.
        prefix: a prefix that fits it.
        tokens: content; needs more positions than slots, or the rank says nothing.
        layer: 0-based.

    Raises:
        PrefixInterpError: a layer out of range, or bad prefix or tokens (see `run_pair`).
    """
    parts = _measured(model, prefix, tokens, layer)
    return subspaces_of(parts, model, prefix.n_slots, layer)


def subspaces_of(
    parts: Decomposition, model: Model, n_slots: int, layer: int = 0
) -> list[BiasSubspace]:
    """Return the bias's subspace at every head of a layer and, last, at the layer itself.

    Args:
        parts: decomposition of a run with a prefix.
        model: its W_O maps heads to the layer.
        n_slots: number of slots, for the bounds.
        layer: 0-based.
    """
    heads = _of_heads(parts, n_slots, layer, range(host_of(model).n_heads))
    return [*heads, _of_layer(parts, model, n_slots, layer)]


def _measured(
    model: Model, prefix: Prefix, tokens: Int[Tensor, "batch pos"], layer: int
) -> Decomposition:
    check_index("layer", layer, host_of(model).n_layers)
    if (dtype := host_of(model).dtype) not in (torch.float32, torch.float64):
        raise PrefixInterpError(
            f"model is {dtype}, too coarse for a rank; convert it with "
            "to_dtype(model, torch.float32) or torch.float64"
        )
    return decompose_attention(run_pair(model, prefix, tokens))


def _of_heads(
    parts: Decomposition, n_slots: int, layer: int, heads: Sequence[int]
) -> list[BiasSubspace]:
    moved, whole = (
        rearrange(x, "batch query head d_head -> head (batch query) d_head")[list(heads)]
        for x in _moved_and_whole(parts, layer)
    )
    _, s, vh = torch.linalg.svd(moved, full_matrices=False)
    scales = torch.linalg.matrix_norm(whole, 2).tolist()
    bound = min(moved.shape[-1], n_slots)
    return [
        BiasSubspace("head", layer, head, bound, s[i], vh[i], moved.shape[1], scales[i])
        for i, head in enumerate(heads)
    ]


def _of_layer(parts: Decomposition, model: Model, n_slots: int, layer: int) -> BiasSubspace:
    attn = host_of(model).attention(layer)
    moved, whole = (
        rearrange(attn.written(x).detach(), "batch query d_model -> (batch query) d_model")
        for x in _moved_and_whole(parts, layer)
    )
    _, s, vh = torch.linalg.svd(moved, full_matrices=False)
    bound = min(host_of(model).d_model, n_slots * host_of(model).n_heads)
    scale = float(torch.linalg.matrix_norm(whole, 2))
    return BiasSubspace("layer", layer, None, bound, s, vh, len(moved), scale)


def _moved_and_whole(
    parts: Decomposition, layer: int
) -> tuple[Float[Tensor, "batch query head d_head"], Float[Tensor, "batch query head d_head"]]:
    """Return z_pt - (1 - g) t, and z_pt itself."""
    moved, whole = parts.output - parts.scaled_base, parts.output
    as_written = "batch head query d_head -> batch query head d_head"
    return rearrange(moved[layer], as_written), rearrange(whole[layer], as_written)
