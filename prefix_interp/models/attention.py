"""The attention of one layer, step by step: what it computes from its inputs and what it writes.

It uses plain torch.einsum: every step of tuning runs through here, and einops is slower.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.activation_functions import apply_softcap

from prefix_interp.models.model import Model
from prefix_interp.models.sites import Site

Projection = Literal["Q", "K", "V"]


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one layer of a model, from `Host.attention`.

    Attributes:
        model: which model.
        layer: 0-based.
    """

    model: Model
    layer: int

    @property
    def block(self) -> Any:  # torch types a module's attributes as "Tensor | Module"
        """Return the module of the whole layer."""
        return self.model.blocks[self.layer]

    @property
    def module(self) -> Any:
        """Return the module of the attention."""
        return self.block.attn

    @property
    def norm(self) -> nn.Module:
        """Return the norm before it (the identity if there is none)."""
        return self.block.ln1

    @property
    def norm_behind(self) -> nn.Module | None:
        """Return the norm after it, before `hook_attn_out`, if there is one."""
        return getattr(self.block, "ln1_post", None)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Return the map from each head's output to the residual stream."""
        return self.module.W_O

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """Return the constant that is added to what the heads write."""
        return self.module.b_O

    @property
    def key_site(self) -> Site:
        """Return where keys of slots are written."""
        return Site.K

    @property
    def query_site(self) -> Site:
        """Return where queries are read."""
        return Site.Q

    @property
    def shows_scores(self) -> bool:
        """Return whether a hook shows the scores that the softmax takes."""
        return True

    @property
    def scale(self) -> float:
        """Return what scores are divided by."""
        return self.module.attn_scale

    @property
    def soft_cap(self) -> float:
        """Return at which size scores are capped; below 0 for never."""
        return self.model.cfg.attn_scores_soft_cap

    def slot_keys(self, keys: Tensor) -> Tensor:
        """Return what to write at `key_site` for slots in front: the keys as they are."""
        return keys

    def seen_keys(self, k: Tensor, start: int) -> Tensor:
        """Return keys read at `key_site`, from position `start` on, as `scored_keys` takes them."""
        return k

    def head_norm(self, what: Projection | str) -> nn.Module | None:
        """Return the norm of each head's queries or keys (``"Q"`` or ``"K"``), if there is one."""
        return getattr(self.module, f"{what.lower()}_norm")

    def project(
        self, x: Float[Tensor, "*stack slot d_model"], what: Projection | str
    ) -> Float[Tensor, "*stack slot any_head d_head"]:
        """Return the queries, keys or values that the layer computes from attention inputs.

        They are the values at `hook_q`, `hook_k` or `hook_v`, with grouped heads not expanded.
        Hooks on the layer's norm do not act.

        Args:
            x: attention inputs, before the layer's norm.
            what: ``"Q"``, ``"K"`` or ``"V"``; queries have all heads, the others key-value heads.
        """
        return self._projected(self._normed(x), what)

    def keys_values(
        self, x: Float[Tensor, "*stack slot d_model"]
    ) -> tuple[
        Float[Tensor, "*stack slot kv_head d_head"], Float[Tensor, "*stack slot kv_head d_head"]
    ]:
        """Return the keys and the values that `project` gives."""
        if x.requires_grad:  # gradients add up in this order, and another would change last digits
            return self.project(x, "K"), self.project(x, "V")
        normed = self._normed(x)
        return self._projected(normed, "K"), self._projected(normed, "V")

    def scored_queries(
        self, q: Float[Tensor, "batch query head d_head"], start: int
    ) -> Float[Tensor, "batch query head d_head"]:
        """Return queries as they are multiplied with keys: after norm, clip and rotation.

        Args:
            q: as at `hook_q`.
            start: position of the first query, for the rotation.
        """
        attn = self.module  # hooks on its norm may act: these rows are the content's
        if attn.q_norm is not None:
            q = attn._apply_qk_norm(q, attn.q_norm)
        return self._rotated(self._clipped(q), start)

    def scored_keys(
        self, k: Float[Tensor, "batch key any_head d_head"], start: int = 0
    ) -> Float[Tensor, "batch key any_head d_head"]:
        """Return keys as they are multiplied with queries: after norm, clip and rotation.

        Args:
            k: as at `hook_k`, or with all heads.
            start: position of the first key, for the rotation.
        """
        return self._rotated(self.cached_keys(k), start)

    def cached_keys(
        self, k: Float[Tensor, "batch key any_head d_head"]
    ) -> Float[Tensor, "batch key any_head d_head"]:
        """Return keys as a key-value cache holds them: after norm and clip, before rotation."""
        attn = self.module
        if attn.k_norm is not None:
            with without_hooks(attn.k_norm):
                k = attn._apply_qk_norm(k, attn.k_norm)
        return self._clipped(k)

    def cached_values(self, v: Float[Tensor, "*any d_head"]) -> Float[Tensor, "*any d_head"]:
        """Return values as a key-value cache holds them: clipped after `hook_v`."""
        return self._clipped(v)

    def weighed_values(
        self, v: Float[Tensor, "*any kv_head d_head"]
    ) -> Float[Tensor, "*any head d_head"]:
        """Return values as attention weighs them: clipped, and one per head."""
        return self._clipped(expand_heads(v, self.model.cfg.n_heads))

    def slot_scores(
        self,
        q: Float[Tensor, "stack batch query head d_head"],
        k: Float[Tensor, "stack slot head d_head"],
    ) -> Float[Tensor, "stack batch head query slot"]:
        """Return the scores of slots, scaled and capped as at `hook_attn_scores`.

        At least in float32: if the gate is near 1, the content's small mass needs the digits.

        Args:
            q: from `scored_queries`.
            k: from `scored_keys`.
        """
        scores = torch.einsum("tbqhd,tshd->tbhqs", q, k) / self.scale
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return apply_softcap(scores, self.soft_cap)

    def content_scores(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the content's scores where no hook shows them; here one does."""
        raise NotImplementedError

    def written(
        self, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Return the sum of what the heads write into the residual stream, without `b_O`.

        Args:
            z: each head's output, as at `hook_z`.
        """
        return torch.einsum("bqhd,hdm->bqm", z, self.W_O)

    def _normed(self, x: Tensor) -> Tensor:
        norm = self.norm
        with without_hooks(norm):
            return norm(x)

    def _projected(self, normed: Tensor, what: Projection | str) -> Tensor:
        attn = self.module
        # With grouped queries the plain name is expanded to all heads, the underscored name is not.
        own = "_" if f"_W_{what}" in attn._parameters else ""
        w, b = getattr(attn, f"{own}W_{what}"), getattr(attn, f"{own}b_{what}")
        return torch.einsum("...sd,hdk->...shk", normed, w) + b

    def _clipped(self, x: Tensor) -> Tensor:
        limit = getattr(self.model.cfg, "clip_qkv", None)
        return x if limit is None else x.clamp(-limit, limit)

    def _rotated(self, x: Tensor, start: int) -> Tensor:
        rotary = self.model.cfg.positional_embedding_type == "rotary"
        return self.module.apply_rotary(x, start) if rotary else x


@contextmanager
def without_hooks(module: nn.Module) -> Iterator[None]:
    """Let `module` compute without its hooks, which are meant for the content.

    Otherwise caches would hold the slots instead of the content, and a frozen scale would not fit.
    """
    points = [m for m in module.children() if isinstance(m, HookPoint)]
    points = [m for m in points if m._forward_hooks or m._backward_hooks]
    saved = [(m, m._forward_hooks, m._backward_hooks) for m in points]
    try:
        for point in points:
            point._forward_hooks, point._backward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for point, forward, backward in saved:
            point._forward_hooks, point._backward_hooks = forward, backward


def expand_heads(
    x: Float[Tensor, "*any kv_head d_head"], n_heads: int
) -> Float[Tensor, "*any {n_heads} d_head"]:
    """Return keys or values repeated for each head that reads them, as TransformerLens does.

    Args:
        x: of the key-value heads, or of all heads already.
        n_heads: number of heads of the result.
    """
    if x.shape[-2] == n_heads:
        return x
    group = n_heads // x.shape[-2]
    return repeat(x, "... kv_head d_head -> ... (kv_head group) d_head", group=group)
