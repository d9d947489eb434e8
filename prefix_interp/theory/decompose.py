"""Eq. 6 and eq. 7, measured: which part of a head's output is pretrained and which is prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.result_object import ResultObject, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(ResultObject):
    """The exact split of every head's output under a prefix, z_pt = (1 - g) t + b.

    Attributes:
        gate: g, the attention mass on the slots, 0 to 1.
        base: t, the pretrained head's output on the same layer input without the prefix, from a
            separate run with each layer's input held at its prefixed value.
        bias: b, the sum of attention mass times value over the slots.
        residual: z_pt - (1 - g) t - b; zero up to rounding if eq. 7 holds.
        content_pattern: attention over the content with the prefix, renormalised to sum to 1.
        base_pattern: attention of the pretrained head over the content, from the held run.
        pattern_residual: A_pt - (1 - g) A over the content; zero up to rounding if eq. 6 holds.
        propagated: t minus the head's output in the run without prefix: the effect of earlier
            layers through its input. Zero in layer 0 against the masked baseline.

    Example:
        >>> parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
        >>> tuple(parts.gate.shape)  # layer, batch, head, pos
        (1, 4, 4, 19)
    """

    gate: Float[Tensor, "layer batch head query"]
    base: Float[Tensor, "layer batch head query d_head"]
    bias: Float[Tensor, "layer batch head query d_head"]
    residual: Float[Tensor, "layer batch head query d_head"]
    content_pattern: Float[Tensor, "layer batch head query key"]
    base_pattern: Float[Tensor, "layer batch head query key"]
    pattern_residual: Float[Tensor, "layer batch head query key"]
    propagated: Float[Tensor, "layer batch head query d_head"]

    @property
    def output(self) -> Float[Tensor, "layer batch head query d_head"]:
        """Return z_pt, each head's output with the prefix."""
        return (1 - self.gate[..., None]) * self.base + self.bias + self.residual

    @property
    def scaled_base(self) -> Float[Tensor, "layer batch head query d_head"]:
        """Return (1 - g) t, what is left of the pretrained output."""
        return (1 - self.gate[..., None]) * self.base

    def pattern_change(self) -> Float[Tensor, "layer batch head query"]:
        """Return how much relative attention differs between the held run and the prefixed run.

        Total variation distance, 0 to 1. Zero up to rounding in every layer: given its input, a
        head's relative attention does not change. For the whole model compare with `RunPair.off`.
        """
        return (self.content_pattern - self.base_pattern).abs().sum(-1) / 2

    def max_errors(self) -> dict[str, float]:
        """Return the largest violation of eq. 6 and eq. 7, relative to the largest true value."""
        largest = self.output.abs().max().clamp_min(torch.finfo(self.base.dtype).tiny)
        return {
            "eq6": float(self.pattern_residual.abs().max()),
            "eq7": float(self.residual.abs().max() / largest),
        }

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer, head and query position, averaged over the batch.

        Columns: ``gate`` (mean), the Euclidean norms ``base``, ``scaled_base``, ``bias``,
        ``propagated`` (means) and ``residual`` (largest).
        """
        n_layers, _, n_heads, n_query = self.gate.shape
        index = pd.MultiIndex.from_product(
            [range(n_layers), range(n_heads), range(n_query)], names=["layer", "head", "pos"]
        )

        def column(x: Tensor) -> list[float]:
            return x.flatten().tolist()

        norms = {
            name: getattr(self, name).norm(dim=-1)
            for name in ("base", "scaled_base", "bias", "propagated")
        }
        data = {"gate": column(self.gate.mean(dim=1))}
        data |= {name: column(x.mean(dim=1)) for name, x in norms.items()}
        data["residual"] = column(self.residual.norm(dim=-1).amax(dim=1))
        return pd.DataFrame(data, index=index).reset_index()

    def caption(self) -> str:
        """Return the sizes, the mean gate and how far eq. 6 and eq. 7 are from exact."""
        n_layers, n_batch, n_heads, n_query = self.gate.shape
        errors = self.max_errors()
        return (
            f"{n_layers} x {n_heads} heads; {n_batch} sequences of {n_query} tokens; mean gate "
            f"{self.gate.mean():.3g}; errors of eq. 6 {errors['eq6']:.1e}, eq. 7 "
            f"{errors['eq7']:.1e}"
        )

    def plot(
        self,
        layer: int = 0,
        head: int = 0,
        *,
        figsize: Size | None = None,
        width: Width | None = None,
    ) -> Figure:
        """Plot a head's gate, the norms of (1 - g) t and bias, and the residual, by position.

        Args:
            layer: 0-based.
            head: 0-based.
            figsize: width and height in inches; None for a size of its own.
            width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

        Raises:
            PrefixInterpError: no such layer or head.
        """
        return drawing("decomposition.parts_figure")(
            {f"layer {layer}, head {head}": self}, layer, head, figsize=figsize, width=width
        )


def decompose_attention(pair: RunPair) -> Decomposition:
    """Return the split of every head's output into gate, base and bias (eq. 6 and 7).

    Base and bias come from different runs than the output that they must add up to, so the residual
    is a measurement, not an identity of this function.

    Args:
        pair: from `run_pair`, any baseline; `base` never depends on it, `propagated` does.

    Example:
        >>> parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
        >>> max(parts.max_errors().values()) < 1e-4  # in float32
        True
    """
    check_pair(pair)
    host = host_of(pair.model)
    layers = range(host.n_layers)
    n = pair.prefix.n_slots
    slots = pair.prefix.keys_values(pair.model)

    def heads(cache_name: str, site: Site) -> Tensor:
        cache = getattr(pair, cache_name)
        return torch.stack([cache[site.at(i)] for i in layers])

    with torch.no_grad():
        pattern = heads("on", Site.PATTERN)  # layer batch head query slots+key
        mass, content = pattern[..., :n], pattern[..., n:]
        gate = mass.sum(-1)
        values = [host.attention(i).weighed_values(v) for i, (_, v) in enumerate(slots)]
        bias = einsum(
            mass,
            torch.stack(values),
            "layer batch head query slot, layer slot head d_head -> layer batch head query d_head",
        )
        by_head = "layer batch query head d_head -> layer batch head query d_head"
        base = rearrange(heads("held", Site.Z), by_head)
        output = rearrange(heads("on", Site.Z), by_head)
        base_pattern = heads("held", Site.PATTERN)[..., -content.shape[-1] :]
        left = content.sum(-1, keepdim=True)
        return Decomposition(
            gate=gate,
            base=base,
            bias=bias,
            residual=output - (1 - gate[..., None]) * base - bias,
            # With all mass on the prefix, relative attention is undefined.
            content_pattern=content / left.clamp_min(torch.finfo(content.dtype).tiny),
            base_pattern=base_pattern,
            pattern_residual=content - (1 - gate[..., None]) * base_pattern,
            propagated=base - rearrange(heads("off", Site.Z), by_head),
        )


def check_pair(pair: object) -> None:
    """Raise unless `pair` is what `run_pair` returns."""
    if not isinstance(pair, RunPair):
        raise PrefixInterpError(
            f"pair is a {type(pair).__name__}; give run_pair(model, prefix, tokens), or the runs "
            "of a contrast"
        )
