"""The forward pass of a toy, written down: no hooks, fused products, only the rows that are read.

For the inner loop of training. What it does not know (hooks, other models, changed modules) runs
the way that everything else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.components.attention import Attention
from transformer_lens.components.embed import Embed
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.pos_embed import PosEmbed
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.transformer_block import TransformerBlock
from transformer_lens.components.unembed import Unembed
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.typed_module_list import TypedModuleList

from prefix_interp.models.host import KeysValues, Model, host_of
from prefix_interp.models.toy import Toy

_KNOWN = (
    Toy, Embed, PosEmbed, TransformerBlock, Attention, MLP, Unembed, LayerNorm, RMSNorm,
    nn.Identity, TypedModuleList, HookPoint,
)  # fmt: skip
# They change where a model runs, or nothing.
_ASIDE = ("device", "dtype", "n_devices", "seed", "initializer_range", "model_name")


def is_written_down(model: Model) -> TypeGuard[Toy]:
    """Return whether `FastForward` computes what `model` does.

    It does for toys as they are built, whatever their weights; not where a module or a setting was
    changed, or where a hook would see or change something.

    Args:
        model: a supported model.
    """
    if type(model) is not Toy:
        return False
    own, usual = (vars(cfg) for cfg in (model.cfg, model.toy_config.hooked()))
    as_built = all(own.get(key) == usual[key] for key in usual if key not in _ASIDE)
    as_built &= own["dtype"] == model.W_E.dtype  # norms round to the former
    return as_built and all(map(_is_plain, model.modules()))


def _is_plain(module: nn.Module) -> bool:
    hooks = (
        module._forward_hooks, module._forward_pre_hooks, module._backward_hooks,
        module._backward_pre_hooks,
    )  # fmt: skip
    changed = any(hooks) or "forward" in vars(module) or module._compiled_call_impl is not None
    return type(module) in _KNOWN and not changed


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's weights as matrices of `F.linear`."""

    norm: nn.Module
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    scale: float
    mlp_norm: nn.Module | None
    mlp_in: tuple[Tensor, Tensor] | None
    mlp_out: tuple[Tensor, Tensor] | None


class FastForward:
    """Logits of a toy at the last positions, bare or under a stack of prefixes.

    Equal to the model with `mixture_hooks`, or in the masked baseline, up to rounding. Gradients
    flow to the slots, and to the weights where they need them. The weights are read once: make a
    new one when they have changed.

    Args:
        model: a toy for which `is_written_down`; no dropout is applied.
        dtype: of the products of frozen weights, under autocast; None for the model's own.
    """

    def __init__(self, model: Toy, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.layers = [_layer(block, dtype) for block in model.blocks]
        self.unembed = _cast((model.W_U.T, model.b_U), dtype)
        self._frozen = not any(p.requires_grad for p in model.parameters())
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], n_rows: int, slots: KeysValues | None = None
    ) -> Float[Tensor, "rows n_rows d_vocab"]:
        """Return the logits of the last rows.

        Args:
            tokens: content.
            n_rows: how many of the last positions are read.
            slots: each layer's keys and values, ``stack slot head d_head``; the batch then comes
                once for each of the stack. None for the model without slots.
        """
        n_pos = tokens.shape[1]
        place = torch.arange(n_pos, device=tokens.device)
        cell = tokens + place * host_of(self.model).d_vocab
        if self._frozen and slots is not None:
            x = self._first(cell, self._end(0, n_pos, n_rows), slots[0])
            return self._from(1, x, n_rows, slots)
        x = self._embedded(n_pos)[cell].repeat(1 if slots is None else len(slots[0][0]), 1, 1)
        return self._from(0, x, n_rows, slots)

    def with_each_head(
        self,
        layer: int,
        resid: Float[Tensor, "#stack batch pos d_model"],
        z: Float[Tensor, "#stack batch pos head d_head"],
        given: Float[Tensor, "stack batch pos head d_head"],
        n_rows: int,
        slots: KeysValues | None = None,
    ) -> Float[Tensor, "stack head batch n_rows d_vocab"]:
        """Return the logits of the last rows if one head, each in turn, puts out something else.

        Args:
            layer: of the head.
            resid: in front of it.
            z: its heads' outputs.
            given: what each puts out instead.
            n_rows: how many of the last positions are read.
            slots: of the layers, as in a call; those of later layers are seen.
        """
        own, n = self.layers[layer], self._end(layer, z.shape[2], n_rows)
        weight, bias = own.out
        by_head = rearrange(weight, "d_model (head d) -> head d d_model", head=z.shape[3])
        resid, z, given = (x[:, :, -n:] for x in (resid, z, given))
        usual = resid + F.linear(z.flatten(-2), weight, bias)
        change = torch.matmul(
            rearrange(given - z, "s b n head d -> s head b n d"), by_head[:, None]
        )
        mid = (usual[:, None] + change).flatten(0, 2)
        x = self._from(layer + 1, _through_mlp(own, mid), n_rows, slots)
        return x.unflatten(0, change.shape[:3])

    def _end(self, layer: int, n_pos: int, n_rows: int) -> int:
        """Return how many of the last rows a layer puts out: of the last layer few are read."""
        return n_rows if layer == len(self.layers) - 1 else n_pos

    def _from(
        self,
        first: int,
        x: Float[Tensor, "rows pos d_model"],
        n_rows: int,
        slots: KeysValues | None,
    ) -> Float[Tensor, "rows n_rows d_vocab"]:
        """Return the logits of the last rows, from the residual stream before a layer."""
        for i in range(first, len(self.layers)):
            layer, n = self.layers[i], self._end(i, x.shape[1], n_rows)
            q, k, v = self._heads(layer, _normed(layer.norm, x), n)
            z = _attended(q, k, v, None if slots is None else slots[i], layer.scale)
            x = _behind(layer, x[:, -n:], z)
        return F.linear(_normed(host_of(self.model).final_norm, x), *self.unembed)

    def _embedded(self, n_pos: int) -> Float[Tensor, "cell d_model"]:
        """Return what every token at every position puts into the residual stream."""
        host = host_of(self.model)
        place = host.content_positions(host.n_reserved or 0, n_pos)
        return (place[:, None] + self.model.W_E).flatten(0, 1)

    def _heads(self, layer: _Layer, x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of the last `n` rows, keys and values: ``batch head pos d_head``."""
        width, n_heads = x.shape[-1], self.model.cfg.n_heads
        (q,), (k, v) = (
            rearrange(
                F.linear(rows, *(w[part] for w in layer.qkv)),
                "b pos (what head d) -> what b head pos d", what=what, head=n_heads,
            )
            for rows, part, what in (
                (x[:, -n:], slice(width), 1), (x, slice(width, None), 2)
            )
        )  # fmt: skip
        return q, k, v

    def _first(
        self, cell: Int[Tensor, "batch pos"], n: int, slots: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "rows n d_model"]:
        """Return the residual stream behind the first layer, whose content no prefix has changed.

        Queries, keys and values of a frozen first layer are a table of token and position, what its
        heads read of the content is the same for all prefixes, and no gradient goes there: by eq. 7
        z_pt = (1 - g) z + sum_p A_p v_p.
        """
        layer, n_pos = self.layers[0], cell.shape[1]
        if n_pos not in self._tables:
            resid = self._embedded(n_pos)
            qkv = F.linear(_normed(layer.norm, resid), *layer.qkv)
            self._tables[n_pos] = resid, qkv
        resid, qkv = self._tables[n_pos]
        q, k, v = rearrange(
            qkv[cell], "b pos (three head d) -> three b head pos d", three=3,
            head=self.model.cfg.n_heads,
        )  # fmt: skip
        q = q[:, :, -n:]
        scores = q @ k.transpose(-1, -2) / layer.scale + _causal(n, n_pos, q)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        mass = scores.logsumexp(-1, keepdim=True)
        content = (scores - mass).exp() @ v
        keys, values = (rearrange(x, "s slot head d -> s 1 head slot d") for x in slots)
        own = q @ keys.transpose(-1, -2) / layer.scale  # s b head q slot
        shares = torch.cat([own, mass.expand(*own.shape[:-1], 1)], dim=-1).softmax(dim=-1)
        z = shares[..., -1:] * content + shares[..., :-1] @ values
        z = rearrange(z, "s b head q d -> s b q (head d)")
        return _behind(layer, resid[cell[:, -n:]], z).flatten(0, 1)


def _layer(block: TransformerBlock, dtype: torch.dtype | None) -> _Layer:
    attn, mlp = block.attn, getattr(block, "mlp", None)
    of = {
        what: (rearrange(getattr(attn, f"W_{what}"), "head d_model d -> (head d) d_model"),
               getattr(attn, f"b_{what}").flatten())
        for what in ("Q", "K", "V")
    }  # fmt: skip
    weights, biases = (torch.cat(each) for each in zip(*of.values(), strict=True))
    out = rearrange(attn.W_O, "head d d_model -> d_model (head d)")
    return _Layer(
        block.ln1, _cast((weights, biases), dtype), _cast((out, attn.b_O), dtype),
        float(attn.attn_scale), None if mlp is None else block.ln2,
        None if mlp is None else _cast((mlp.W_in.T, mlp.b_in), dtype),
        None if mlp is None else _cast((mlp.W_out.T, mlp.b_out), dtype),
    )  # fmt: skip


def _cast(pair: tuple[Tensor, Tensor], dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    weight, bias = (x if dtype is None or x.requires_grad else x.to(dtype) for x in pair)
    return weight.contiguous(), bias


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    if isinstance(norm, LayerNorm):
        return F.layer_norm(x, x.shape[-1:], norm.w, norm.b, norm.eps)
    if isinstance(norm, RMSNorm):
        return F.rms_norm(x, x.shape[-1:], norm.w, norm.eps)
    return x


def _causal(n: int, n_pos: int, like: Tensor) -> Float[Tensor, "n n_pos"]:
    """Return what is added to the scores of the last `n` queries."""
    whole = torch.full((n_pos, n_pos), -torch.inf, dtype=like.dtype, device=like.device)
    return whole.triu(1)[-n:]


def _attended(
    q: Float[Tensor, "b head n d"],
    k: Float[Tensor, "b head pos d"],
    v: Float[Tensor, "b head pos d"],
    slots: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Float[Tensor, "b n width"]:
    """Return the heads' outputs, side by side."""
    mask = _causal(q.shape[2], k.shape[2], q)
    if slots is not None:
        k, v = (
            torch.cat([_spread(x, own), own], dim=2)
            for x, own in zip(slots, (k, v), strict=True)
        )  # fmt: skip
        mask = F.pad(mask, (slots[0].shape[1], 0))
    b = len(q)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    scores = torch.baddbmm(
        mask.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=1 / scale
    )  # fmt: skip
    z = torch.bmm(scores.softmax(dim=-1), v)
    return rearrange(z, "(b head) n d -> b n (head d)", b=b)


def _spread(x: Float[Tensor, "s slot head d"], like: Tensor) -> Float[Tensor, "b head slot d"]:
    """Return slots for each row of the batch: equal blocks of it belong to the stack, in order."""
    each = rearrange(x.to(like.dtype), "s slot head d -> s 1 head slot d")
    return each.expand(-1, len(like) // len(x), -1, -1, -1).flatten(0, 1)


def _behind(layer: _Layer, x: Tensor, z: Tensor) -> Tensor:
    """Return the residual stream behind a layer, from that in front of it and its heads."""
    return _through_mlp(layer, x + F.linear(z, *layer.out))


def _through_mlp(layer: _Layer, x: Tensor) -> Tensor:
    """Return the residual stream behind a layer, from that behind its heads."""
    if layer.mlp_norm is None or layer.mlp_in is None or layer.mlp_out is None:
        return x
    hidden = F.linear(_normed(layer.mlp_norm, x), *layer.mlp_in)
    return x + F.linear(F.gelu(hidden, approximate="tanh"), *layer.mlp_out)
