"""The scores of a deeper layer under a prefix, as a sum of terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.activation_functions import apply_softcap

from prefix_interp.errors import PrefixInterpError, check_choice, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.attention import Attention
from prefix_interp.models.host import Host, host_of
from prefix_interp.models.score_parts import key_parts, query_parts
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.theory.decompose import check_pair, decompose_attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REST = ("norm", "propagated", "mlp", "cap")
TERMS = ("pretrained", "query_only", "key_only", "constant", *REST)


@dataclass(frozen=True, eq=False, repr=False)
class LogitExpansion(ResultObject):
    """The scores of a layer under a prefix as a sum of terms (see `expand_attention_logits`).

    Attributes:
        layer: whose scores, at least 1.
        terms: in the order of `TERMS`; 0 where a query does not see a key.
        scores: measured under the prefix, of content queries and content keys; -inf where a query
            does not see a key.
        scores_off: the same without the prefix.
        counted: which queries are no padding; tables leave out the others.

    Example:
        >>> deep = pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8), seed=0)
        >>> pair = pi.run_pair(deep, pi.Prefix.random(deep, 1, seed=0), tokens)
        >>> found = expand_attention_logits(pair, layer=1)
        >>> tuple(found.term("pretrained").shape)  # batch, head, query, key
        (4, 2, 19, 19)
    """

    layer: int
    terms: Float[Tensor, "term batch head query key"]
    scores: Float[Tensor, "batch head query key"]
    scores_off: Float[Tensor, "batch head query key"]
    counted: Bool[Tensor, "batch query"]

    @property
    def seen(self) -> Bool[Tensor, "batch head query key"]:
        """Return which keys each query sees."""
        return self.scores.isfinite()

    @property
    def max_error(self) -> float:
        """Return the largest difference of the sum and the measured scores, over the largest score.

        The terms come from gates, biases and weights, not from the scores, so it is a measurement.
        """
        scores = self.scores.where(self.seen, 0)
        error = (self.terms.sum(0) - scores).abs().max()
        return float(error / scores.abs().max().clamp_min(torch.finfo(scores.dtype).tiny))

    def term(self, name: str) -> Float[Tensor, "batch head query key"]:
        """Return one term.

        Args:
            name: one of `TERMS`.

        Raises:
            PrefixInterpError: no such term.
        """
        check_choice("name", name, TERMS)
        return self.terms[TERMS.index(name)]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head and term, then `score` and, without the prefix, `score_off`.

        Columns: ``rms``, the root mean square over all that queries see; ``rms_in_row``, the same
        after each row's mean is taken off, which softmax does not feel.
        """
        named = dict(zip(TERMS, self.terms, strict=True))
        named |= {"score": self.scores, "score_off": self.scores_off}
        seen = self.seen & self.counted[:, None, :, None]
        n_seen = seen.sum(-1, keepdim=True).clamp(min=1)
        frames = []
        for name, x in named.items():
            x = x.where(seen, 0).double()
            inside = (x - x.sum(-1, keepdim=True) / n_seen).where(seen, 0)
            sizes = {"rms": _rms(x, seen), "rms_in_row": _rms(inside, seen)}
            frames.append(pd.DataFrame({"head": range(len(sizes["rms"])), "term": name, **sizes}))
        return pd.concat(frames).sort_values("head", kind="stable", ignore_index=True)

    def caption(self) -> str:
        """Return the sizes, how exact the sum is, and which term of the prefix is felt most."""
        n_batch, n_heads, n_query, _ = self.scores.shape
        frame = self.to_dataframe()
        felt = {t: frame.loc[frame["term"] == t, "rms_in_row"].mean() for t in TERMS}
        first = max(TERMS[1:], key=lambda name: felt[name])
        return (
            f"layer {self.layer}; {n_heads} heads; {n_batch} sequences of {n_query} tokens; sum of "
            f"terms off by {self.max_error:.1e}; in a row the pretrained scores vary by "
            f"{felt['pretrained']:.3g}, {first} by {felt[first]:.3g}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Plot the size of each term, the mean over heads as a bar and each head as a dot."""
        return drawing("depth.expansion_figure")(self, figsize=figsize, width=width)


def expand_attention_logits(
    pair: RunPair, layer: int = 1, content: Bool[Tensor, "batch pos"] | None = None
) -> LogitExpansion:
    r"""Return the scores of a layer under a prefix as the paper's four terms and what is left.

    The paper's expansion (section 5, two attention layers): under a prefix the input of layer 2 at
    position i is (1 - a_i) t_i + a_i mu, so with H = W_Q^T W_K its scores are

        (1 - a_i)(1 - a_j) t_i' H t_j + a_j (1 - a_i) t_i' H mu + a_i (1 - a_j) mu' H t_j
        + a_i a_j mu' H mu.

    Here layers have several heads and slots and a residual stream, so the input of a layer at
    position i is content c_i + bias m_i + the rest. c_i is the residual stream without the prefix,
    with the output t of each head below scaled by 1 - gate (embedding, MLPs and constants are not
    scaled). m_i is the sum of the biases of the heads below, behind W_O. The terms are

    - ``pretrained``: query of c_i, key of c_j. All that the content says about itself;
    - ``query_only``: query of c_i, key of m_j;
    - ``key_only``: query of m_i, key of c_j;
    - ``constant``: query of m_i, key of m_j. With one slot and one head below, m_i is a fixed
      vector times the gate, so ``query_only`` depends on the content at i, ``key_only`` on that at
      j, and ``constant`` on neither, but for the gates. With more, m_i also depends on the content
      through the masses of the slots;
    - ``norm``: norms (and clipping) give the content's part another scale than without the prefix.
      The bias and what follows are taken at the scale that they have;
    - ``propagated``: from layer 2 on (0-based), t itself has changed, since its own layer reads
      another input;
    - ``mlp``: the MLPs below write something else than without the prefix;
    - ``cap``: what a soft cap takes off the sum of all others.

    Products of two parts of the rest count as the one named last. In an attention-only model
    without norms the four terms are all there is at layer 1. Hugging Face computes some norms and
    rotations in float32, so of a language model in float64 the sum is exact to 1e-7.

    Args:
        pair: from `run_pair` with the masked baseline.
        layer: 0-based, at least 1: layer 0 reads the embedding, which no prefix changes.
        content: which positions are no padding; None: all. It matters for means only.

    Raises:
        PrefixInterpError: layer 0 or no such layer, another baseline, or a norm behind the heads.

    Example:
        >>> toy = pi.ToyConfig(n_layers=2, n_heads=2, d_model=8, normalization="none")
        >>> deep = pi.to_dtype(pi.build_toy(toy, seed=0), torch.float64)
        >>> pair = pi.run_pair(deep, pi.Prefix.random(deep, 2, seed=0), tokens)
        >>> expand_attention_logits(pair, layer=1).max_error < 1e-10
        True
    """
    host = _checked(pair, layer)
    attn, n_pos = host.attention(layer), pair.tokens.shape[1]
    on, off = pair.on[Site.RESID_PRE.at(layer)], pair.off[Site.RESID_PRE.at(layer)]
    with torch.no_grad():
        below = _written_below(pair, host, layer)
        own = off - below["gate"]
        parts = torch.stack([own, below["bias"], below["propagated"], below["mlp"]])
        sides = []
        for parts_of in (query_parts, key_parts):
            x = parts_of(attn, on, parts, host.n_heads)
            plain = parts_of(attn, off, own[None], host.n_heads)
            # content, bias, norm, propagated, mlp
            sides.append(torch.stack([plain[0], x[1], x[0] - plain[0], x[2], x[3]]))
        q, k = sides
        measured, plain_scores = (_scores(attn, c, n_pos) for c in (pair.on, pair.off))

        def scores(a: Tensor, b: Tensor) -> Tensor:
            both = einsum(a, b, "batch i head d_head, batch j head d_head -> batch head i j")
            return both / attn.scale

        terms = [scores(q[0], k[0]), scores(q[0], k[1]), scores(q[1], k[0]), scores(q[1], k[1])]
        for i in range(2, len(q)):
            terms.append(scores(q[i], k[: i + 1].sum(0)) + scores(q[:i].sum(0), k[i]))
        whole = torch.stack(terms).sum(0)
        terms.append(apply_softcap(whole, attn.soft_cap) - whole)
        return LogitExpansion(
            layer,
            torch.stack(terms).where(measured.isfinite(), 0),
            measured,
            plain_scores,
            no_padding(pair, content),
        )


def no_padding(pair: RunPair, content: Bool[Tensor, "*any"] | None) -> Bool[Tensor, "batch pos"]:
    """Return which tokens of a pair of runs are no padding.

    Args:
        pair: from `run_pair`.
        content: as a user gave it; None: all.

    Raises:
        PrefixInterpError: `content` has another shape than the tokens.
    """
    if content is None:
        return torch.ones_like(pair.tokens, dtype=torch.bool)
    if content.shape != pair.tokens.shape:
        raise PrefixInterpError(
            f"content has shape {tuple(content.shape)}; give True or False for each of the tokens, "
            f"shape {tuple(pair.tokens.shape)}"
        )
    return content.to(pair.tokens.device)


def _written_below(pair: RunPair, host: Host, layer: int) -> dict[str, Tensor]:
    """Return what the layers below write more, or less, than without the prefix, part by part."""
    split = decompose_attention(pair)
    left = (1 - split.gate[..., None]) * split.propagated
    heads = {
        "gate": split.gate[..., None] * (split.base - split.propagated),
        "bias": split.bias,
        "propagated": left,
    }
    total = {name: torch.zeros_like(pair.on[Site.RESID_PRE.at(0)]) for name in (*heads, "mlp")}
    for below in range(layer):
        for name, x in heads.items():
            z = rearrange(x[below], "batch head query d_head -> batch query head d_head")
            total[name] = total[name] + host.attention(below).written(z)
        if not host.attn_only:
            site = Site.MLP_OUT.at(below)
            total["mlp"] = total["mlp"] + pair.on[site] - pair.off[site]
    return total


def _scores(attn: Attention, cache: ActivationCache, n_pos: int) -> Tensor:
    """Return the scores of content queries and content keys, -inf where a query sees no key."""
    if attn.shows_scores:
        found = cache[Site.ATTN_SCORES.at(attn.layer)][..., -n_pos:]
        # Hugging Face masks with the smallest number there is.
        return found.masked_fill(found < torch.finfo(found.dtype).min / 4, -torch.inf)
    q, k = cache[attn.query_site.at(attn.layer)], cache[attn.key_site.at(attn.layer)]
    return attn.content_scores(attn.scored_queries(q, 0), attn.seen_keys(k, 0))


def _rms(x: Float[Tensor, "batch head query key"], seen: Tensor) -> list[float]:
    total = reduce(x.square(), "batch head query key -> head", "sum")
    return (total / reduce(seen.double(), "batch head query key -> head", "sum")).sqrt().tolist()


def _checked(pair: RunPair, layer: int) -> Host:
    check_pair(pair)
    host = host_of(pair.model)
    check_index("layer", layer, host.n_layers)
    if layer == 0:
        raise PrefixInterpError(
            "layer=0 reads the embedding, which no prefix changes: its scores within the content "
            f"are the pretrained ones; choose a layer from 1 to {host.n_layers - 1}"
        )
    if pair.baseline != "masked":
        raise PrefixInterpError(
            f"pair has the baseline {pair.baseline!r}, under which other things than the prefix "
            "differ; use run_pair(..., baseline='masked')"
        )
    if host.norms_attention_out:
        raise PrefixInterpError(
            "model has a norm behind its heads, so what one head writes is not defined; use "
            "attention_drift, or a model without that norm"
        )
    return host
