"""`SoftPrompt`: free vectors among the tokens, in front of the content or inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError, check_choice, check_keys, check_positive
from prefix_interp.models.host import host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.support import check_supported
from prefix_interp.prefixes.layout import check_vocabulary
from prefix_interp.prefixes.prefix import check_finite
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import load_folder, save_folder

STEM = "soft_prompt"
Level = Literal["embedding", "layers"]


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Learned rows among the embedded tokens: a soft prompt, or a suffix if content stands before.

    - ``level="embedding"`` (prompt tuning): the vectors stand where token embeddings stand, once.
      Deeper layers see what the model makes of them, which depends on the content before them.
    - ``level="layers"``: at every layer they replace the attention's input at the slots, queries
      included, so that they never depend on the content. In front of it this is a residual
      `Prefix`; behind some of it, a per-layer suffix.

    A soft prompt's own rows are read: the last slot predicts the content token behind it, which a
    `Prefix` leaves to the content token in front.

    Attributes:
        vectors: one row a slot, for ``"layers"`` one a layer and slot: ``layer slot d_model``,
            with a layer axis of 1 for ``"embedding"``.
        after: content tokens that stand before the slots; 0 for a prompt, a task's `length` for a
            suffix between input and output.
        level: ``"embedding"`` or ``"layers"``.
        model_id: fingerprint of the model it was tuned for; None fits any model of its shape.
        metadata: anything JSON can hold.

    Raises:
        PrefixInterpError: wrong number of axes, NaN or infinity, a negative `after`.
    """

    vectors: Float[Tensor, "layer slot d_model"]
    after: int = 0
    level: Level | str = "embedding"
    model_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("level", self.level, get_args(Level))
        x = self.vectors
        if x.ndim != 3 or 0 in x.shape or not x.is_floating_point():
            raise PrefixInterpError(
                f"vectors have shape {tuple(x.shape)} and dtype {x.dtype}; they must be floating "
                "point with 3 axes of at least 1: layer, slot, d_model"
            )
        if self.level == "embedding" and len(x) != 1:
            raise PrefixInterpError(
                f"vectors have {len(x)} layers but level='embedding' puts them in once; give a "
                "layer axis of 1, or level='layers'"
            )
        check_finite("vectors", x)
        if isinstance(self.after, bool) or not isinstance(self.after, int) or self.after < 0:
            raise PrefixInterpError(f"after={self.after!r} must be a whole number of at least 0")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as a `Prefix` does."""
        return {"vectors": self.vectors}

    @property
    def n_slots(self) -> int:
        """Return the number of rows."""
        return self.vectors.shape[1]

    @property
    def n_parameters(self) -> int:
        """Return how many numbers were learned."""
        return self.vectors.numel()

    @classmethod
    def random(
        cls,
        model: HookedTransformer,
        n_slots: int,
        seed: int = 0,
        *,
        after: int = 0,
        level: Level | str = "embedding",
        std: float = 1.0,
    ) -> SoftPrompt:
        """Return rows of normal noise in the model's shape and dtype.

        Args:
            model: gives the shape.
            n_slots: rows, at least 1.
            seed: any integer.
            after: content tokens before them.
            level: ``"embedding"`` or ``"layers"``.
            std: standard deviation.

        Raises:
            PrefixInterpError: bad arguments, or a model that no slots fit.
        """
        check_positive("n_slots", n_slots)
        check_choice("level", level, get_args(Level))
        check_supported(model)
        rng = derive_generator(seed, "soft-prompt", level)
        host = host_of(model)
        shape = (_n_layers(model, level), n_slots, host.d_model)
        return cls(host.cast(torch.randn(shape, generator=rng)) * std, after, level)

    @classmethod
    def from_tokens(
        cls, model: HookedTransformer, tokens: Int[Tensor, " slot"], after: int = 0
    ) -> SoftPrompt:
        """Return the hard prompt of `tokens`: rows that hold their embeddings.

        Args:
            model: gives the embeddings.
            tokens: at least one.
            after: content tokens before them.

        Raises:
            PrefixInterpError: tokens outside the vocabulary.
        """
        if tokens.ndim != 1:
            raise PrefixInterpError(f"tokens have shape {tuple(tokens.shape)}; give one axis: slot")
        check_vocabulary(model, tokens)
        with torch.no_grad():  # the embedding may hold a norm of its own
            return cls(host_of(model).embed(tokens[None]), after)

    def check_fits(self, model: HookedTransformer) -> None:
        """Raise unless this is a soft prompt for `model`.

        Raises:
            PrefixInterpError: another shape, dtype or device, or tuned for other weights.
        """
        check_supported(model)
        check_finite("vectors", self.vectors)  # again: tensors can be written into
        host, x = host_of(model), self.vectors
        shape = (_n_layers(model, self.level), self.n_slots, host.d_model)
        if tuple(x.shape) != shape:
            raise PrefixInterpError(
                f"soft_prompt.vectors has shape {tuple(x.shape)} but this model needs {shape}; "
                "use the model it was tuned for"
            )
        if x.dtype != host.dtype or x.device.type != host.device.type:
            raise PrefixInterpError(
                f"soft_prompt.vectors is {x.dtype} on {x.device} but the model is {host.dtype} "
                f"on {host.device}; convert it with soft_prompt.to(model)"
            )
        if self.model_id is not None and self.model_id != model_id(model):
            raise PrefixInterpError(
                f"soft_prompt.model_id={self.model_id!r} is not this model's "
                f"{model_id(model)!r}: it was tuned for other weights; if that is wanted, use "
                "soft_prompt.for_any_model()"
            )

    def to(self, model: HookedTransformer) -> SoftPrompt:
        """Return the same rows in the dtype and on the device of `model`."""
        return replace(self, vectors=host_of(model).cast(self.vectors))

    def for_any_model(self) -> SoftPrompt:
        """Return the same rows without `model_id`, to attach them to another model."""
        return replace(self, model_id=None)

    def save(self, path: str | Path) -> Path:
        """Write `<path>/soft_prompt.safetensors` and `<path>/soft_prompt.json`; return the folder.

        Raises:
            PrefixInterpError: the folder cannot be written; nothing is left half-written.
        """
        record = {"format": 1, "after": self.after, "level": self.level, "model_id": self.model_id}
        record["metadata"] = dict(self.metadata)
        return save_folder(path, STEM, {"vectors": self.vectors}, record)

    @classmethod
    def load(cls, path: str | Path) -> SoftPrompt:
        """Return the soft prompt in the folder `path`.

        Raises:
            PrefixInterpError: files missing, truncated, corrupted or with unknown keys.
        """
        tensors, record = load_folder(path, STEM)
        keys = ["format", "after", "level", "model_id", "metadata"]
        check_keys(f"{path}/{STEM}.json", record, keys)
        whole = record.get("format") == 1 and set(record) == set(keys)
        if not whole or set(tensors) != {"vectors"}:
            raise PrefixInterpError(f"path={str(path)!r} is no soft prompt of format 1; save again")
        record.pop("format")
        return cls(tensors["vectors"], **record)


def _n_layers(model: HookedTransformer, level: Level | str) -> int:
    return 1 if level == "embedding" else host_of(model).n_layers
