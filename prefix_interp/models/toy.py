"""Toy models: the paper's minGPT as a TransformerLens `HookedTransformer`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformer_lens import HookedTransformer, HookedTransformerConfig

from prefix_interp.errors import PrefixInterpError, check_choice, check_keys, check_positive
from prefix_interp.models.model import Model, model_id, quiet_deprecation
from prefix_interp.records import Schema
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import load_folder, save_folder

STEM = "model"
MAX_LAYERS = 1000
SCHEMAS = {
    number: Schema(number, {"config": dict[str, Any], "model_id": str, "metadata": dict[str, Any]})
    for number in (1, 2)
}  # format 1 has no checksum
_NORMS: dict[str, str | None] = {"LN": "LN", "RMS": "RMS", "none": None}


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a toy transformer.

    A toy is minGPT: pre-norm, learned positions, tanh-approximated GELU, and biases everywhere
    except in the untied unembedding. The first `n_prefix` positions are reserved for a prefix; the
    content stands at positions ``n_prefix .. n_prefix + n_content - 1``.

    Attributes:
        n_layers: number of blocks.
        n_heads: heads per block; must divide `d_model`.
        d_model: width of the residual stream.
        n_prefix: reserved leading positions (the paper's n_S).
        n_content: content positions; 19 fits 10 inputs and the 9 outputs that are fed back.
        d_vocab: tokens; 11 holds the digits and count 10.
        d_mlp: hidden width of the MLP; None means ``4 * d_model``.
        normalization: ``"LN"``, ``"RMS"`` or ``"none"``.
        attn_only: leave the MLPs out.
        skip_ln1: leave out only the norm before attention (the paper's four-head model).

    Example:
        >>> pi.ToyConfig(n_heads=4, d_model=256).n_layers
        1
    """

    n_layers: int = 1
    n_heads: int = 4
    d_model: int = 256
    n_prefix: int = 1
    n_content: int = 19
    d_vocab: int = 11
    d_mlp: int | None = None
    normalization: Literal["LN", "RMS", "none"] | str = "LN"
    attn_only: bool = False
    skip_ln1: bool = False

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "n_prefix", "n_content", "d_vocab"):
            check_positive(name, getattr(self, name))
        if self.d_mlp is not None:
            check_positive("d_mlp", self.d_mlp)
        if self.d_model % self.n_heads:
            raise PrefixInterpError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}; choose a divisor"
            )
        if self.n_layers > MAX_LAYERS:
            raise PrefixInterpError(f"n_layers={self.n_layers} is too deep; use up to {MAX_LAYERS}")
        check_choice("normalization", self.normalization, _NORMS)
        for name in ("attn_only", "skip_ln1"):
            if not isinstance(getattr(self, name), bool):
                raise PrefixInterpError(f"{name}={getattr(self, name)!r} must be True or False")

    @property
    def n_ctx(self) -> int:
        """Return the context length, including reserved positions."""
        return self.n_prefix + self.n_content

    def hooked(self) -> HookedTransformerConfig:
        """Return the same shape as TransformerLens's own configuration."""
        return HookedTransformerConfig(
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            d_head=self.d_model // self.n_heads,
            d_mlp=self.d_mlp or 4 * self.d_model,
            n_ctx=self.n_ctx,
            d_vocab=self.d_vocab,
            # minGPT's NewGELU: the same formula as "gelu_new" in one operation.
            act_fn="gelu_pytorch_tanh",
            normalization_type=_NORMS[self.normalization],
            attn_only=self.attn_only,
            init_weights=False,
            default_prepend_bos=False,
            device="cpu",
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight of such a toy, by name."""
        d, d_head = self.d_model, self.d_model // self.n_heads
        d_mlp = self.d_mlp or 4 * d
        norm = {"LN": ("w", "b"), "RMS": ("w",), "none": ()}[self.normalization]
        block: dict[str, tuple[int, ...]] = {}
        for name in ("Q", "K", "V"):
            block[f"attn.W_{name}"] = (self.n_heads, d, d_head)
            block[f"attn.b_{name}"] = (self.n_heads, d_head)
        block |= {"attn.W_O": (self.n_heads, d_head, d), "attn.b_O": (d,)}
        if not self.attn_only:
            block |= {"mlp.W_in": (d, d_mlp), "mlp.b_in": (d_mlp,)}
            block |= {"mlp.W_out": (d_mlp, d), "mlp.b_out": (d,)}
        norms = ["ln1"] * (not self.skip_ln1) + ["ln2"] * (not self.attn_only)
        block |= {f"{ln}.{weight}": (d,) for ln in norms for weight in norm}
        return {
            "embed.W_E": (self.d_vocab, d),
            "pos_embed.W_pos": (self.n_ctx, d),
            **{
                ".".join(("blocks", str(layer), name)): shape
                for layer in range(self.n_layers)
                for name, shape in block.items()
            },
            **{f"ln_final.{weight}": (d,) for weight in norm},
            "unembed.W_U": (d, self.d_vocab),
            "unembed.b_U": (self.d_vocab,),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ToyConfig:
        """Return the config written by `dataclasses.asdict`, with exactly its keys."""
        names = [f.name for f in fields(cls)]
        check_keys("ToyConfig", record, names)
        missing = [name for name in names if name not in record]
        if missing:
            raise PrefixInterpError(f"ToyConfig lacks {missing[0]!r}; give all of its fields")
        return cls(**record)


class Toy(HookedTransformer):
    """A toy: a HookedTransformer that knows the config it was built from.

    Attributes:
        toy_config: the shape; its first `n_prefix` positions are kept for a prefix.
    """

    def __init__(self, cfg: ToyConfig) -> None:
        with quiet_deprecation():
            super().__init__(cfg.hooked())
        if cfg.skip_ln1:
            for block in self.blocks:
                block.ln1 = nn.Identity()
            self.setup()  # drops the removed norms' hook points from the model's list
        self.unembed.b_U.requires_grad_(False)
        self.toy_config = cfg


def build_toy(cfg: ToyConfig, seed: int = 0) -> Toy:
    """Return a fresh toy with minGPT's initialisation, the same bits for the same seed.

    Weights and embeddings have standard deviation 0.02, projections that write into the residual
    stream 0.02 / sqrt(2 n_layers); biases are 0, norms 1. The unembedding's bias, which minGPT does
    not have, is 0 and frozen.

    Args:
        cfg: the shape.
        seed: any integer.

    Example:
        >>> pi.build_toy(pi.ToyConfig(n_layers=2, d_model=64), seed=1).cfg.n_layers
        2
    """
    model = Toy(cfg)
    rng = derive_generator(seed, "init")
    residual_std = 0.02 / math.sqrt(2 * cfg.n_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "w":
                parameter.fill_(1.0)
            elif leaf.startswith("b"):
                parameter.zero_()
            else:
                std = residual_std if leaf in ("W_O", "W_out") else 0.02
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * std)
    return model


def toy_config(model: Model) -> ToyConfig:
    """Return the config a toy was built from.

    Raises:
        PrefixInterpError: `model` was not made by `build_toy` or `load_toy`.
    """
    if not isinstance(model, Toy):
        raise PrefixInterpError(
            f"model={type(model).__name__} is not a toy of this package; make it with build_toy "
            "or load_toy"
        )
    return model.toy_config


def save_toy(model: Model, path: str | Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a toy as `<path>/model.safetensors` and `<path>/model.json`; return the folder.

    Args:
        model: a toy.
        path: a folder, made if missing.
        metadata: any JSON values, e.g. recipe, seed, accuracies.

    Raises:
        PrefixInterpError: not a toy, or the folder cannot be written (no partial files are left).
    """
    record = {
        "format": max(SCHEMAS),
        "config": asdict(toy_config(model)),
        "model_id": model_id(model),
        "metadata": dict(metadata or {}),
    }
    return save_folder(path, STEM, dict(model.named_parameters()), record)


def read_toy(path: str | Path) -> tuple[Toy, dict[str, Any]]:
    """Return the toy in the folder `path` and the metadata it was saved with.

    Raises:
        PrefixInterpError: missing, corrupted or foreign files, unknown keys, wrong shapes. Files of
            an older version, which have no checksum, are read with a warning.
    """
    configs: list[ToyConfig] = []

    def shapes(record: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        configs.append(ToyConfig.from_dict(record["config"]))
        return configs[-1].shapes

    tensors, record = load_folder(path, STEM, SCHEMAS, shapes)
    if len({x.dtype for x in tensors.values()}) > 1:
        raise PrefixInterpError(f"path={str(path)!r} mixes several precisions; save it again")
    if not all(bool(torch.isfinite(x).all()) for x in tensors.values()):
        raise PrefixInterpError(f"path={str(path)!r} has weights that are NaN or infinite")
    model = Toy(configs[-1])
    model.cfg.dtype = tensors["embed.W_E"].dtype
    nn.Module.to(model, model.cfg.dtype)  # TransformerLens's own takes minutes at 200 layers
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model, record["metadata"]
