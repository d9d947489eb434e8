"""The attention of one layer of a Hugging Face model under a TransformerBridge.

Three kinds: rotated queries and keys that hooks show and write (Llama, Qwen, Gemma), rotated ones
that no hook shows (GPT-NeoX, whose three projections are one matrix), and none (GPT-2, OPT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefix_interp.models.attention import Attention, Projection, expand_heads
from prefix_interp.models.bridge_facts import Facts
from prefix_interp.models.port import Host
from prefix_interp.models.sites import Site


@dataclass(frozen=True, eq=False)
class BridgeAttention(Attention):
    """The attention of one layer, from `BridgeHost.attention`.

    Keys of slots are as PEFT stores them: after any query-key norm and after the rotation of
    position p for slot p, as they are multiplied with queries.

    Attributes:
        host: the model's interface.
        facts: what is known of the model.
    """

    host: Host
    facts: Facts

    @property
    def original(self) -> Any:
        """Return Hugging Face's own module."""
        return self.module.original_component

    @property
    def norm(self) -> nn.Module:
        """Return the norm before it."""
        return self.block.ln1.original_component

    @property
    def norm_behind(self) -> nn.Module | None:
        """Return the norm after it, before `hook_attn_out`, if there is one."""
        found = getattr(self.block, "ln1_post", None)
        return None if found is None else found.original_component

    def head_norm(self, what: Projection | str) -> nn.Module | None:
        """Return the norm of each head's queries or keys (``"Q"`` or ``"K"``), if there is one."""
        found = self.module._modules.get(f"{what.lower()}_norm")
        return None if found is None else found.original_component

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """Return the constant that is added to what the heads write."""
        found = self.module.b_O
        return self.W_O.new_zeros(self.host.d_model) if found is None else found

    @property
    def shows_rotated(self) -> bool:
        """Return whether hooks show and write rotated queries and keys."""
        return self.facts.shows_rotated

    @property
    def _rotates_unseen(self) -> bool:
        return self.facts.rotates[self.layer] and not self.shows_rotated

    @property
    def key_site(self) -> Site:
        """Return where keys of slots are written."""
        return Site.ROT_K if self.shows_rotated else Site.K

    @property
    def query_site(self) -> Site:
        """Return where queries are read."""
        return Site.ROT_Q if self.shows_rotated else Site.Q

    @property
    def shows_scores(self) -> bool:
        """Return whether a hook shows the scores that the softmax takes."""
        return Site.ATTN_SCORES in self.facts.live

    def slot_keys(
        self, keys: Float[Tensor, "*any slot any_head d_head"]
    ) -> Float[Tensor, "*any slot any_head d_head"]:
        """Return what to write at `key_site` for slots in front."""
        return self.turned(keys, 0, back=True) if self._rotates_unseen else keys

    def seen_keys(
        self, k: Float[Tensor, "batch key any_head d_head"], start: int
    ) -> Float[Tensor, "batch key any_head d_head"]:
        """Return keys read at `key_site`, from position `start` on, as they are multiplied."""
        return self.turned(k, start) if self._rotates_unseen else k

    def scored_queries(
        self, q: Float[Tensor, "batch query head d_head"], start: int
    ) -> Float[Tensor, "batch query head d_head"]:
        """Return queries read at `query_site` as they are multiplied with keys."""
        return self.turned(q, start) if self._rotates_unseen else q

    def scored_keys(
        self, k: Float[Tensor, "batch key any_head d_head"], start: int = 0
    ) -> Float[Tensor, "batch key any_head d_head"]:
        """Return keys as they are multiplied with queries: as they are given."""
        return k

    def keys_values(
        self, x: Float[Tensor, "*stack slot d_model"]
    ) -> tuple[
        Float[Tensor, "*stack slot kv_head d_head"], Float[Tensor, "*stack slot kv_head d_head"]
    ]:
        """Return the keys, as they are multiplied with queries, and the values of slots in front.

        Args:
            x: attention inputs, before the layer's norm.
        """
        k = self.project(x, "K")
        norm = self.head_norm("K")
        if norm is not None:
            k = norm(k)
        if self.facts.rotates[self.layer]:
            k = self.turned(k, 0)
        return k, self.project(x, "V")

    def weighed_values(
        self, v: Float[Tensor, "*any kv_head d_head"]
    ) -> Float[Tensor, "*any head d_head"]:
        """Return values as attention weighs them: one per head."""
        return expand_heads(v, self.host.n_heads)

    @property
    def scale(self) -> float:
        """Return what scores are divided by."""
        own = getattr(self.original, "scaling", None)
        scale = self.host.d_head**-0.5 if own is None else float(own)
        if getattr(self.original, "scale_attn_by_inverse_layer_idx", False):
            scale /= self.layer + 1
        return 1 / scale

    @property
    def soft_cap(self) -> float:
        """Return at which size scores are capped; below 0 for never."""
        cap = getattr(self.original, "attn_logit_softcapping", None)
        return -1.0 if cap is None else float(cap)

    def content_scores(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key kv_head d_head"],
    ) -> Float[Tensor, "batch head query key"]:
        """Return the content's scores, for a model whose own no hook shows.

        Args:
            q: from `scored_queries`.
            k: from `seen_keys`, of the same rows.
        """
        k = expand_heads(k, self.host.n_heads)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / self.scale
        later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf)

    def turned(
        self, x: Float[Tensor, "*any pos any_head d_head"], start: int, *, back: bool = False
    ) -> Float[Tensor, "*any pos any_head d_head"]:
        """Return queries or keys rotated as at positions from `start` on.

        Args:
            x: rows in order.
            start: position of the first.
            back: undo it instead.
        """
        cos, sin = (
            c[0, :, None] for c in self.facts.rotation(self.host, self.layer, start, x.shape[-3])
        )
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        if back:
            size = cos.square() + sin.square()
            cos, sin = cos / size, -sin / size
        width = cos.shape[-1]
        own, rest = x[..., :width], x[..., width:]
        low, high = own.chunk(2, dim=-1)
        own = own * cos + torch.cat([-high, low], dim=-1) * sin
        return torch.cat([own, rest], dim=-1)

    def _rotated(self, x: Tensor, start: int) -> Tensor:
        return self.turned(x, start) if self.facts.rotates[self.layer] else x

    def _normed(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def _projected(self, normed: Tensor, what: Projection | str) -> Tensor:
        linear = getattr(self.module, what.lower()).original_component
        return linear(normed).unflatten(-1, (-1, self.host.d_head))
