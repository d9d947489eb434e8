"""`Context`: the common base of prefix and soft prompt, with their files and model checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_keys, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import has_id, model_id
from prefix_interp.models.support import check_supported
from prefix_interp.records import Schema, Schemas, check_record
from prefix_interp.seeds import derive_seed
from prefix_interp.storage import load_folder, save_folder

Self = TypeVar("Self", bound="Context")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Context(ABC):
    """Vectors learned for a frozen model, and the settings that define their meaning.

    `Prefix` and `SoftPrompt` are the two kinds; both go through `attach`, `evaluate` and `sweep`.

    Attributes:
        model_id: fingerprint of the model it was tuned for; None fits any model of its shape.
        metadata: any JSON values, e.g. task, recipe, seed, accuracies.
    """

    STEM: ClassVar[str]  # name of the files, and of the context in messages
    SCHEMAS: ClassVar[Schemas]  # of the record in the files; the newest is written
    TENSORS: ClassVar[tuple[str, ...]]  # fields that may hold tensors
    SETTINGS: ClassVar[tuple[str, ...]]  # fields that say what the tensors mean

    model_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Return the shape that each tensor must have for `model`."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        named = {name: getattr(self, name) for name in self.TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings that define the tensors' meaning, by name: JSON values."""
        return {name: getattr(self, name) for name in self.SETTINGS}

    @property
    def keeps_positions(self) -> bool:
        """Return whether the content keeps the positions it has without the context."""
        return False

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

    def __repr__(self) -> str:
        """Return one line that leaves out the values in the tensors."""
        sizes = {key: getattr(self, key) for key in ("n_layers", "n_slots", "n_parameters")}
        origin = {"model_id": self.model_id, "task": self.metadata.get("task")}
        usual = (("positions", "shift"), ("key_form", "projected"))
        settings = {k: v for k, v in self.settings.items() if (k, v) not in usual}
        shown = {**settings, **sizes, **{k: v for k, v in origin.items() if v is not None}}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def check_fits(self, model: Model) -> None:
        """Raise unless this context fits `model`.

        Raises:
            PrefixInterpError: layers, shape, dtype or device differ, or it was tuned for other
                weights.
        """
        check_supported(model)
        host, expected = host_of(model), self.shapes(model)
        host.prepare()
        for name, tensor in self.tensors.items():
            check_finite(name, tensor)  # checked again, since tensors are mutable
            if tuple(tensor.shape) != expected[name]:
                raise PrefixInterpError(
                    f"{self.STEM}.{name} has shape {tuple(tensor.shape)} but this model needs "
                    f"{expected[name]}; use the model it was tuned for"
                )
            if tensor.dtype != host.dtype or tensor.device.type != host.device.type:
                raise PrefixInterpError(
                    f"{self.STEM}.{name} is {tensor.dtype} on {tensor.device} but the model is "
                    f"{host.dtype} on {host.device}; convert it with {self.STEM}.to(model)"
                )
        if self.model_id is not None and not has_id(model, self.model_id):
            raise PrefixInterpError(
                f"{self.STEM}.model_id={self.model_id!r} is not this model's {model_id(model)!r}: "
                f"it was tuned for other weights; if that is wanted, use "
                f"{self.STEM}.for_any_model()"
            )

    def to(self: Self, model: Model) -> Self:
        """Return the same context in the dtype and on the device of `model`."""
        return replace(self, **{k: host_of(model).cast(v) for k, v in self.tensors.items()})

    def for_any_model(self: Self) -> Self:
        """Return the same vectors without `model_id`, to attach them to another model."""
        return replace(self, model_id=None)

    def save(self, path: str | Path) -> Path:
        """Write the tensors and a JSON file that describes them; return the folder `path`.

        The files are called `prefix` or `soft_prompt`, so that a folder can hold one of each.

        Raises:
            PrefixInterpError: the folder cannot be written, or `model_id` or `metadata` is nothing
                that `load` would take; nothing is left half-written.
        """
        record = {
            "format": max(self.SCHEMAS),
            **self.settings,
            "model_id": self.model_id,
            "metadata": dict(self.metadata),
        }
        check_record(path, record, self.SCHEMAS)
        return save_folder(path, self.STEM, self.tensors, record)

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Return the context of this kind in the folder `path`.

        Raises:
            PrefixInterpError: files missing, truncated, altered, or of another kind. Files of an
                older version, which have no checksum, are read with a warning.
        """
        tensors, record = load_folder(path, cls.STEM, cls.SCHEMAS)
        check_keys(f"path={str(path)!r}, {cls.STEM}.safetensors,", tensors, cls.TENSORS)
        if not tensors:
            raise PrefixInterpError(
                f"path={str(path)!r} holds no tensors of a {cls.STEM.replace('_', ' ')}; save it "
                "again"
            )
        record = cls._as_written_today(record)
        record.pop("format")
        return cls(**tensors, **record)

    @classmethod
    def _as_written_today(cls, record: dict[str, Any]) -> dict[str, Any]:
        """Return a record of an older format as `save` would write it now."""
        return record


def context_schema(format: int, **settings: Any) -> Schema:
    """Return what the record of a context holds.

    Args:
        format: number of the format.
        settings: the types of its own settings.
    """
    common = {"model_id": str | None, "metadata": dict[str, Any]}
    return Schema(format, settings | common)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise if `tensor` holds NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        raise PrefixInterpError(
            f"{name} holds NaN or infinity; a context must be finite: tune it again with a "
            "smaller learning rate"
        )


def start_seeds(seed: int, restarts: int) -> list[int]:
    """Return the seed of each random start; the first is `seed` itself.

    Args:
        seed: any integer.
        restarts: how many starts, at least 1.

    Raises:
        PrefixInterpError: no starts.
    """
    check_positive("restarts", restarts)
    return [derive_seed(seed, "restart", i) if i else seed for i in range(restarts)]
