"""`Prefix`: the vectors of one prefix, with the parameterization that gives them meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError, check_choice, check_keys, check_positive
from prefix_interp.models.host import host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.support import check_supported
from prefix_interp.models.zoo import toy_folder
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import load_folder, save_folder

STEM = "prefix"
Parameterization = Literal["residual", "kv"]


@dataclass(frozen=True, eq=False)
class Prefix:
    """The learned context of a model: one set of vectors for each slot and layer.

    Two function classes, never to be mixed up:

    - ``"residual"`` (the paper): `vectors` stand in for the attention input of each layer at the
      slots, before the block's norm; the model's own weights make keys and values of them.
    - ``"kv"`` (PEFT): `keys` and `values` are free. Keys are stored as at `hook_k`: before
      rotation and before any query-key norm.

    Attributes:
        parameterization: ``"residual"`` or ``"kv"``.
        vectors: residual only.
        keys: kv only.
        values: kv only.
        model_id: fingerprint of the model it was tuned for; None fits any model of its shape.
        metadata: anything JSON can hold: task, recipe, seed, accuracies.

    Raises:
        PrefixInterpError: missing or superfluous tensors, wrong number of axes, NaN or infinity.
    """

    parameterization: Parameterization | str
    vectors: Float[Tensor, "layer slot d_model"] | None = None
    keys: Float[Tensor, "layer slot kv_head d_head"] | None = None
    values: Float[Tensor, "layer slot kv_head d_head"] | None = None
    model_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("parameterization", self.parameterization, get_args(Parameterization))
        wanted = ("vectors",) if self.parameterization == "residual" else ("keys", "values")
        for name, ndim in (("vectors", 3), ("keys", 4), ("values", 4)):
            tensor = getattr(self, name)
            if (tensor is not None) != (name in wanted):
                raise PrefixInterpError(
                    f"{name}={'a tensor' if tensor is not None else None} does not go with "
                    f"parameterization={self.parameterization!r}; give {' and '.join(wanted)}"
                )
            if tensor is None:
                continue
            if tensor.ndim != ndim or 0 in tensor.shape or not tensor.is_floating_point():
                raise PrefixInterpError(
                    f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; it must be "
                    f"floating point with {ndim} axes of at least 1: layer, slot, "
                    f"{'d_model' if ndim == 3 else 'kv_head, d_head'}"
                )
            check_finite(name, tensor)
        if self.keys is not None and self.values is not None:
            if self.keys.shape != self.values.shape:
                raise PrefixInterpError(
                    f"keys {tuple(self.keys.shape)} and values {tuple(self.values.shape)} differ "
                    "in shape; give one of each a slot"
                )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name: ``vectors``, or ``keys`` and ``values``."""
        named = {"vectors": self.vectors, "keys": self.keys, "values": self.values}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def n_layers(self) -> int:
        """Return the number of layers it has vectors for."""
        return next(iter(self.tensors.values())).shape[0]

    @property
    def n_slots(self) -> int:
        """Return the number of slots (the paper's n_S)."""
        return next(iter(self.tensors.values())).shape[1]

    @property
    def n_parameters(self) -> int:
        """Return how many numbers were learned."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @classmethod
    def random(
        cls,
        model: HookedTransformer,
        n_slots: int,
        seed: int = 0,
        parameterization: Parameterization | str = "residual",
        std: float = 1.0,
    ) -> Prefix:
        """Return a prefix of normal noise in the model's shape and dtype.

        Args:
            model: gives the shape.
            n_slots: slots, at least 1.
            seed: any integer.
            parameterization: ``"residual"`` or ``"kv"``.
            std: standard deviation (the paper starts its prefixes from N(0, 1)).

        Raises:
            PrefixInterpError: bad arguments, or a model that no prefix fits.
        """
        check_positive("n_slots", n_slots)
        check_choice("parameterization", parameterization, get_args(Parameterization))
        check_supported(model)
        shapes = prefix_shapes(model, n_slots, parameterization)
        rng = derive_generator(seed, "prefix", parameterization)
        host = host_of(model)
        draws = {k: host.cast(torch.randn(s, generator=rng)) * std for k, s in shapes.items()}
        return cls(parameterization, **draws)

    def keys_values(
        self, model: HookedTransformer
    ) -> list[tuple[Float[Tensor, "slot kv_head d_head"], Float[Tensor, "slot kv_head d_head"]]]:
        """Return what each layer's slots hold at `hook_k` and `hook_v`, after norm and projection.

        Raises:
            PrefixInterpError: the prefix does not fit `model` (see `check_fits`).
        """
        self.check_fits(model)
        return host_of(model).keys_values(self.tensors)

    def check_fits(self, model: HookedTransformer) -> None:
        """Raise unless this is a prefix for `model`.

        Raises:
            PrefixInterpError: another number of layers, another shape, dtype or device, or
                tuned for a model with other weights.
        """
        check_supported(model)
        host = host_of(model)
        expected = prefix_shapes(model, self.n_slots, self.parameterization)
        for name, tensor in self.tensors.items():
            check_finite(name, tensor)  # again: tensors can be written into
            if tuple(tensor.shape) != expected[name]:
                raise PrefixInterpError(
                    f"prefix.{name} has shape {tuple(tensor.shape)} but this model needs "
                    f"{expected[name]}; use the model it was tuned for"
                )
            if tensor.dtype != host.dtype or tensor.device.type != host.device.type:
                raise PrefixInterpError(
                    f"prefix.{name} is {tensor.dtype} on {tensor.device} but the model is "
                    f"{host.dtype} on {host.device}; convert it with prefix.to(model)"
                )
        if self.model_id is not None and self.model_id != model_id(model):
            raise PrefixInterpError(
                f"prefix.model_id={self.model_id!r} is not this model's {model_id(model)!r}: it "
                "was tuned for other weights; if that is wanted, use prefix.for_any_model()"
            )

    def to(self, model: HookedTransformer) -> Prefix:
        """Return the same prefix in the dtype and on the device of `model`."""
        return replace(self, **{k: host_of(model).cast(v) for k, v in self.tensors.items()})

    def for_any_model(self) -> Prefix:
        """Return the same vectors without `model_id`, to attach them to another model."""
        return replace(self, model_id=None)

    def save(self, path: str | Path) -> Path:
        """Write `<path>/prefix.safetensors` and `<path>/prefix.json`; return the folder.

        Raises:
            PrefixInterpError: the folder cannot be written; nothing is left half-written.
        """
        record = {
            "format": 1,
            "parameterization": self.parameterization,
            "model_id": self.model_id,
            "metadata": dict(self.metadata),
        }
        return save_folder(path, STEM, self.tensors, record)

    @classmethod
    def load(cls, path: str | Path) -> Prefix:
        """Return the prefix in the folder `path`.

        Raises:
            PrefixInterpError: files missing, truncated, corrupted or with unknown keys.
        """
        tensors, record = load_folder(path, STEM)
        keys = ["format", "parameterization", "model_id", "metadata"]
        check_keys(f"{path}/{STEM}.json", record, keys)
        if record.get("format") != 1 or set(record) != set(keys):
            raise PrefixInterpError(f"path={str(path)!r} is no prefix of format 1; save it again")
        check_keys(f"{path}/{STEM}.safetensors", tensors, ["vectors", "keys", "values"])
        return cls(
            record["parameterization"],
            **tensors,
            model_id=record["model_id"],
            metadata=record["metadata"],
        )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise if `tensor` holds NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        raise PrefixInterpError(
            f"{name} holds NaN or infinity; a prefix must be finite: tune it again with a smaller "
            "learning rate"
        )


def load_prefixes(name_or_path: str | Path) -> dict[str, Prefix]:
    """Return the trained prefixes that ship with a toy of the zoo, by task name.

    A key is the task's name for the paper's prefix (residual), or
    ``<task>-<parameterization>-<n_slots>`` for a variant of it.

    Args:
        name_or_path: as for `load_toy`.

    Raises:
        PrefixInterpError: unknown toy, or corrupted files.
    """
    folder = toy_folder(name_or_path) / "prefixes"
    return {p.parent.name: Prefix.load(p.parent) for p in sorted(folder.glob(f"*/{STEM}.json"))}


def prefix_shapes(
    model: HookedTransformer, n_slots: int, parameterization: Parameterization | str
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a prefix with `n_slots` slots for `model`."""
    host = host_of(model)
    if parameterization == "residual":
        return {"vectors": (host.n_layers, n_slots, host.d_model)}
    shape = (host.n_layers, n_slots, host.n_kv_heads, host.d_head)
    return {"keys": shape, "values": shape}
