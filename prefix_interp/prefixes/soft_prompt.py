"""`SoftPrompt`: free vectors among the tokens, in front of the content or inside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.support import check_supported
from prefix_interp.prefixes.context import Context, check_finite, context_schema, start_seeds
from prefix_interp.prefixes.layout import check_vocabulary
from prefix_interp.prefixes.peft import prompt_fields, write_prompt
from prefix_interp.records import Schemas
from prefix_interp.seeds import derive_generator

Layers = Literal["embedding", "all"]
# Seeds and files of format 1 use another word for "all".
_LAYERS_1 = {"embedding": "embedding", "all": "layers"}


@dataclass(frozen=True, eq=False, repr=False)
class SoftPrompt(Context):
    """Learned rows among the embedded tokens: a soft prompt, or a suffix after some content.

    - ``layers="embedding"`` (prompt tuning): the vectors are inserted once, among the token
      embeddings. Deeper layers see what the model computes from them and the content before them.
    - ``layers="all"``: at every layer the vectors replace the attention's input at the slots, for
      queries too, so they never depend on the content. Before all content this is a residual
      `Prefix`; after some of it, a per-layer suffix.

    A soft prompt's own rows are read: its last slot predicts the next content token. With a
    `Prefix` the content token before predicts it.

    Attributes:
        vectors: one row per slot, for ``"all"`` one per layer and slot: ``layer slot d_model``,
            with a layer axis of 1 for ``"embedding"``.
        position: number of content tokens before the slots; 0 for a prompt, a task's `length` for a
            suffix between input and output.
        layers: ``"embedding"`` or ``"all"``.
        model_id: see `Context`.
        metadata: see `Context`.

    Raises:
        PrefixInterpError: wrong number of axes, NaN or infinity, a negative `position`.

    Example:
        >>> prompt = pi.SoftPrompt.random(model, n_slots=2, position=3)
        >>> prompt.n_slots, prompt.position, prompt.layers
        (2, 3, 'embedding')
    """

    STEM: ClassVar[str] = "soft_prompt"
    SCHEMAS: ClassVar[Schemas] = {
        1: context_schema(1, after=int, level=Literal["embedding", "layers"]),
        **{number: context_schema(number, position=int, layers=Layers) for number in (2, 3)},
    }
    TENSORS: ClassVar[tuple[str, ...]] = ("vectors",)
    SETTINGS: ClassVar[tuple[str, ...]] = ("position", "layers")

    vectors: Float[Tensor, "layer slot d_model"]
    position: int = 0
    layers: Layers | str = "embedding"

    def __post_init__(self) -> None:
        check_choice("layers", self.layers, get_args(Layers))
        x = self.vectors
        if x.ndim != 3 or 0 in x.shape or not x.is_floating_point():
            raise PrefixInterpError(
                f"vectors have shape {tuple(x.shape)} and dtype {x.dtype}; they must be floating "
                "point with 3 axes of at least 1: layer, slot, d_model"
            )
        if self.layers == "embedding" and len(x) != 1:
            raise PrefixInterpError(
                f"vectors have {len(x)} layers but layers='embedding' puts them in once; give a "
                "layer axis of 1, or layers='all'"
            )
        check_finite("vectors", x)
        check_position(self.position)

    @classmethod
    def random(
        cls,
        model: Model,
        n_slots: int,
        seed: int = 0,
        *,
        position: int = 0,
        layers: Layers | str = "embedding",
        std: float = 1.0,
    ) -> SoftPrompt:
        """Return rows of normal noise in the model's shape and dtype.

        Args:
            model: defines the shape.
            n_slots: number of rows, at least 1.
            seed: any integer.
            position: number of content tokens before them.
            layers: ``"embedding"`` or ``"all"``.
            std: standard deviation.

        Raises:
            PrefixInterpError: bad arguments, or a model that no slots fit.
        """
        check_positive("n_slots", n_slots)
        check_choice("layers", layers, get_args(Layers))
        check_supported(model)
        rng = derive_generator(seed, "soft-prompt", _LAYERS_1[layers])
        noise = torch.randn(_shape(model, n_slots, layers), generator=rng)
        return cls(host_of(model).cast(noise) * std, position, layers)

    @classmethod
    def random_starts(
        cls,
        model: Model,
        n_slots: int,
        restarts: int = 1,
        seed: int = 0,
        *,
        position: int = 0,
        layers: Layers | str = "embedding",
        std: float = 1.0,
    ) -> list[SoftPrompt]:
        """Return soft prompts of noise, to tune from with `sweep`.

        The first is ``SoftPrompt.random`` with `seed` itself.

        Args:
            model: defines the shape.
            n_slots: number of rows, at least 1.
            restarts: number of soft prompts, at least 1.
            seed: any integer; the other starts derive theirs from it.
            position: number of content tokens before them.
            layers: ``"embedding"`` or ``"all"``.
            std: standard deviation.

        Raises:
            PrefixInterpError: bad arguments, or a model that no slots fit.
        """
        return [
            cls.random(model, n_slots, each, position=position, layers=layers, std=std)
            for each in start_seeds(seed, restarts)
        ]

    @classmethod
    def from_tokens(
        cls, model: Model, tokens: Int[Tensor, " slot"], position: int = 0
    ) -> SoftPrompt:
        """Return the hard prompt of `tokens`: rows that hold their embeddings.

        Args:
            model: source of the embeddings.
            tokens: at least one.
            position: number of content tokens before them.

        Raises:
            PrefixInterpError: tokens outside the vocabulary.
        """
        if tokens.ndim != 1:
            raise PrefixInterpError(f"tokens have shape {tuple(tokens.shape)}; give one axis: slot")
        check_vocabulary(model, tokens)
        with torch.no_grad():  # the embedding may include a norm
            return cls(host_of(model).embed(tokens[None]), position)

    @classmethod
    def from_peft(cls, adapter: Any, model: Model) -> SoftPrompt:
        """Return the soft prompt that PEFT tuned, by prompt tuning or p-tuning.

        Its metadata hold PEFT's configuration. A folder is read without PEFT.

        Args:
            adapter: the folder that PEFT's `save_pretrained` wrote, or a PeftModel.
            model: the language model it was tuned for, from `load_pretrained`.

        Raises:
            PrefixInterpError: as `Prefix.from_peft`.

        Example:
            >>> lm = load_pretrained(tiny_llama())
            >>> folder = pi.SoftPrompt.random(lm, n_slots=5).to_peft("mine", lm)
            >>> pi.SoftPrompt.from_peft(folder, lm).n_slots
            5
        """
        return cls(model_id=model_id(model), **prompt_fields(adapter, model))

    def to_peft(self, folder: str | Path, model: Model) -> Path:
        """Write the soft prompt as an adapter of PEFT's prompt tuning; return the folder.

        Args:
            folder: may hold another adapter, which is replaced.
            model: the language model it was tuned for.

        Raises:
            PrefixInterpError: it does not fit `model`, which must be a language model; it is no
                prompt in front at the embedding; or the folder cannot be written.
        """
        if self.layers != "embedding" or self.position:
            raise PrefixInterpError(
                f"soft_prompt has layers={self.layers!r} and position={self.position}, but PEFT's "
                "prompts stand in front at the embedding; write one with layers='embedding' and "
                "position=0"
            )
        self.check_fits(model)
        return write_prompt(folder, model, self.vectors[0], self.metadata)

    def shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Return the shape that the vectors must have for `model`."""
        return {"vectors": _shape(model, self.n_slots, self.layers)}

    @classmethod
    def _as_written_today(cls, record: dict[str, Any]) -> dict[str, Any]:
        if record["format"] != 1:
            return record
        new = {"position": record.pop("after"), "layers": record.pop("level")}
        if new["layers"] == _LAYERS_1["all"]:
            new["layers"] = "all"
        return record | new


def check_position(position: object) -> None:
    """Raise unless `position` is a number of content tokens.

    Raises:
        PrefixInterpError: negative, or not a whole number.
    """
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise PrefixInterpError(f"position={position!r} must be a whole number of at least 0")


def _shape(model: Model, n_slots: int, layers: Layers | str) -> tuple[int, int, int]:
    host = host_of(model)
    return (1 if layers == "embedding" else host.n_layers, n_slots, host.d_model)
