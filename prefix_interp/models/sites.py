"""The only file that spells TransformerLens hook names."""

from __future__ import annotations

from enum import Enum

from prefix_interp.errors import PrefixInterpError

_BLOCKS = "blocks"
UNEMBED_IN = "unembed.hook_in"  # batch pos d_model; language models only


class Site(str, Enum):
    """A place in a transformer that a hook can read or write.

    `Site.Z.at(0)` is the full name ``blocks.0.attn.hook_z``. Shapes are those of TransformerLens;
    without grouped queries `kv_head` equals `head`.

    Example:
        >>> pi.Site.Z.at(0)
        'blocks.0.attn.hook_z'
    """

    EMBED = "hook_embed"  # batch pos d_model
    POS_EMBED = "hook_pos_embed"  # batch pos d_model, learned positions only
    RESID_PRE = "blocks.{}.hook_resid_pre"  # batch pos d_model
    Q = "blocks.{}.attn.hook_q"  # batch pos head d_head, before rotation
    K = "blocks.{}.attn.hook_k"  # batch pos kv_head d_head, before rotation
    V = "blocks.{}.attn.hook_v"  # batch pos kv_head d_head
    ROT_Q = "blocks.{}.attn.hook_rot_q"  # batch pos head d_head, after rotation; rotary only
    ROT_K = "blocks.{}.attn.hook_rot_k"  # batch pos kv_head d_head, after rotation; rotary only
    ATTN_SCORES = "blocks.{}.attn.hook_attn_scores"  # batch head query key, masked with -inf
    PATTERN = "blocks.{}.attn.hook_pattern"  # batch head query key, rows sum to 1
    Z = "blocks.{}.attn.hook_z"  # batch pos head d_head
    ATTN_OUT = "blocks.{}.hook_attn_out"  # batch pos d_model
    RESID_MID = "blocks.{}.hook_resid_mid"  # batch pos d_model; not in attention-only or parallel
    MLP_ACT = "blocks.{}.mlp.hook_post"  # batch pos d_mlp; not in attention-only
    MLP_OUT = "blocks.{}.hook_mlp_out"  # batch pos d_model; not in attention-only
    RESID_POST = "blocks.{}.hook_resid_post"  # batch pos d_model

    @property
    def per_layer(self) -> bool:
        """Return whether the site exists once per layer."""
        return "{}" in self.value

    def at(self, layer: int | None = None) -> str:
        """Return the hook name at `layer` (0-based; None for a site that is not per layer).

        Raises:
            PrefixInterpError: a layer is missing, negative, or given for a site without layers.
        """
        if self.per_layer != (layer is not None) or (layer is not None and layer < 0):
            need = "a layer of 0 or more" if self.per_layer else "no layer"
            raise PrefixInterpError(f"layer={layer!r} does not fit site {self.name}; give {need}")
        return self.value.format(layer)


def rotation_sites(layer: int) -> tuple[str, str]:
    """Return where a language model's layer shows cosine and sine: each ``1 pos rotated``."""
    return f"blocks.{layer}.attn.hook_cos", f"blocks.{layer}.attn.hook_sin"


def layer_of(name: str) -> int | None:
    """Return the layer (0-based) of a hook name; None for a place outside the layers."""
    first, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if first == _BLOCKS else None
