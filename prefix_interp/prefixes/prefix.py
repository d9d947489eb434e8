"""`Prefix`: the vectors of one prefix, with the parameterization that defines their meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.host import KeyForm, Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.support import check_supported
from prefix_interp.models.toy import STEM as TOY_STEM
from prefix_interp.models.zoo import list_toys, toy_folder
from prefix_interp.prefixes.context import Context, check_finite, context_schema, start_seeds
from prefix_interp.prefixes.peft import prefix_fields, write_prefix
from prefix_interp.records import Schemas
from prefix_interp.seeds import derive_generator

Parameterization = Literal["residual", "kv"]
Positions = Literal["shift", "keep"]
_FORMS = {"projected": "a HookedTransformer", "scored": "a language model"}


@dataclass(frozen=True, eq=False, repr=False)
class Prefix(Context):
    """The learned context of a model: one set of vectors for each slot and layer.

    Two function classes that must not be confused:

    - ``"residual"`` (the paper): `vectors` replace the attention input of each layer at the slots,
      before the block's norm. The model's own weights turn them into keys and values.
    - ``"kv"`` (PEFT): `keys` and `values` are free. Keys are stored as at `hook_k`, before
      rotation and before any query-key norm (`key_form` ``"projected"``), or, in a language model,
      as PEFT does: as they are multiplied with queries (``"scored"``), slot p at position p.

    Where positions are learned, the content stands behind the slots and so at other positions than
    without a prefix (``"shift"``, what PEFT does), or keeps its positions (``"keep"``), for models
    whose positions must not move. Toys keep theirs anyway, and where queries and keys rotate only
    distances count.

    Attributes:
        parameterization: ``"residual"`` or ``"kv"``.
        vectors: residual only.
        keys: kv only.
        values: kv only.
        positions: ``"shift"`` or ``"keep"``.
        key_form: ``"projected"`` or ``"scored"``, kv only.
        model_id: see `Context`.
        metadata: see `Context`.

    Raises:
        PrefixInterpError: missing or extra tensors, wrong number of axes, NaN or infinity.

    Example:
        >>> pi.Prefix.random(model, n_slots=2).n_parameters
        512
    """

    STEM: ClassVar[str] = "prefix"
    SCHEMAS: ClassVar[Schemas] = {
        **{number: context_schema(number, parameterization=Parameterization) for number in (1, 2)},
        3: context_schema(3, parameterization=Parameterization, positions=Positions),
        4: context_schema(
            4, parameterization=Parameterization, positions=Positions, key_form=KeyForm
        ),
    }
    TENSORS: ClassVar[tuple[str, ...]] = ("vectors", "keys", "values")
    SETTINGS: ClassVar[tuple[str, ...]] = ("parameterization", "positions", "key_form")

    parameterization: Parameterization | str
    vectors: Float[Tensor, "layer slot d_model"] | None = None
    keys: Float[Tensor, "layer slot kv_head d_head"] | None = None
    values: Float[Tensor, "layer slot kv_head d_head"] | None = None
    positions: Positions | str = "shift"
    key_form: KeyForm | str = "projected"

    def __post_init__(self) -> None:
        check_choice("key_form", self.key_form, get_args(KeyForm))
        check_choice("parameterization", self.parameterization, get_args(Parameterization))
        check_choice("positions", self.positions, get_args(Positions))
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
                    "in shape; give one of each per slot"
                )

    @classmethod
    def random(
        cls,
        model: Model,
        n_slots: int,
        seed: int = 0,
        parameterization: Parameterization | str = "residual",
        std: float = 1.0,
        positions: Positions | str = "shift",
    ) -> Prefix:
        """Return a prefix of normal noise in the model's shape and dtype.

        Args:
            model: defines the shape.
            n_slots: number of slots, at least 1.
            seed: any integer.
            parameterization: ``"residual"`` or ``"kv"``.
            std: standard deviation (the paper starts its prefixes from N(0, 1)).
            positions: ``"shift"`` or ``"keep"``.

        Raises:
            PrefixInterpError: bad arguments, or a model that no prefix fits.
        """
        check_positive("n_slots", n_slots)
        check_choice("parameterization", parameterization, get_args(Parameterization))
        check_supported(model)
        shapes = prefix_shapes(model, n_slots, parameterization)
        rng = derive_generator(seed, "prefix", parameterization)
        host = host_of(model)
        draws: dict[str, Any] = {
            k: host.cast(torch.randn(s, generator=rng)) * std for k, s in shapes.items()
        }
        form = host.key_form if parameterization == "kv" else "projected"
        return cls(parameterization, positions=positions, key_form=form, **draws)

    @classmethod
    def random_starts(
        cls,
        model: Model,
        n_slots: int,
        restarts: int = 1,
        seed: int = 0,
        parameterization: Parameterization | str = "residual",
        std: float = 1.0,
        positions: Positions | str = "shift",
    ) -> list[Prefix]:
        """Return prefixes of noise to tune from; the first is ``Prefix.random`` with `seed`.

        Args:
            model: defines the shape.
            n_slots: number of slots, at least 1.
            restarts: number of prefixes, at least 1.
            seed: any integer; the other starts derive theirs from it.
            parameterization: ``"residual"`` or ``"kv"``.
            std: standard deviation.
            positions: ``"shift"`` or ``"keep"``.

        Raises:
            PrefixInterpError: bad arguments, or a model that no prefix fits.
        """
        seeds = start_seeds(seed, restarts)
        return [
            cls.random(model, n_slots, each, parameterization, std, positions) for each in seeds
        ]

    @classmethod
    def from_peft(cls, adapter: Any, model: Model) -> Prefix:
        """Return the prefix that PEFT tuned, by prefix tuning (projected or not) or a cartridge.

        Its metadata hold PEFT's configuration, with the name of the base model. A folder is read
        without PEFT. Nothing tells whether a model of the same shape has the right weights.

        Args:
            adapter: the folder that PEFT's `save_pretrained` wrote, or a PeftModel.
            model: the language model it was tuned for, from `load_pretrained`.

        Raises:
            PrefixInterpError: files missing or damaged, pickled weights, another method, or an
                adapter of another model.

        Example:
            >>> lm = load_pretrained(tiny_llama())
            >>> folder = pi.Prefix.random(lm, 5, parameterization="kv").to_peft("mine", lm)
            >>> pi.Prefix.from_peft(folder, lm).n_slots
            5
        """
        found = prefix_fields(adapter, model)
        return cls("kv", key_form="scored", model_id=model_id(model), **found)

    def to_peft(self, folder: str | Path, model: Model) -> Path:
        """Write the prefix as an adapter of PEFT's prefix tuning; return the folder.

        ``PeftModel.from_pretrained`` loads it. A residual prefix is written as the keys and values
        that the model makes of it.

        Args:
            folder: may hold another adapter, which is replaced.
            model: the language model it was tuned for.

        Raises:
            PrefixInterpError: it does not fit `model`, which must be a language model; positions
                that PEFT would move; or the folder cannot be written.
        """
        if self.keeps_positions and host_of(model).learned_positions:
            raise PrefixInterpError(
                "prefix.positions='keep' is not possible in PEFT, which moves the content behind "
                "the slots; tune one with positions='shift'"
            )
        return write_prefix(folder, model, self.keys_values(model), self.metadata)

    @property
    def keeps_positions(self) -> bool:
        """Return whether the content keeps the positions it has without the prefix."""
        return self.positions == "keep"

    @classmethod
    def _as_written_today(cls, record: dict[str, Any]) -> dict[str, Any]:
        return {"positions": "shift", "key_form": "projected", **record}

    def check_fits(self, model: Model) -> None:
        """Raise unless this prefix fits `model`.

        Raises:
            PrefixInterpError: as in `Context.check_fits`, or keys in the form of another kind of
                model.
        """
        super().check_fits(model)
        wanted = host_of(model).key_form
        if self.parameterization == "kv" and self.key_form != wanted:
            raise PrefixInterpError(
                f"prefix.key_form={self.key_form!r} is how {_FORMS[self.key_form]} stores keys, "
                f"but this is {_FORMS[wanted]}; use the model it was tuned for"
            )

    def keys_values(
        self, model: Model
    ) -> list[tuple[Float[Tensor, "slot kv_head d_head"], Float[Tensor, "slot kv_head d_head"]]]:
        """Return each layer's slot keys and values, as at `hook_k` and `hook_v`.

        Raises:
            PrefixInterpError: the prefix does not fit `model` (see `check_fits`).
        """
        self.check_fits(model)
        return host_of(model).keys_values(self.tensors)

    def shapes(self, model: Model) -> dict[str, tuple[int, ...]]:
        """Return the shape that each tensor must have for `model`."""
        return prefix_shapes(model, self.n_slots, self.parameterization)


def load_prefixes(name_or_path: str | Path) -> dict[str, Prefix]:
    """Return the trained prefixes that ship with a toy of the zoo, by task name.

    A key is the task's name for the paper's prefix (residual), or
    ``<task>-<parameterization>-<n_slots>`` for a variant of it. A toy without prefixes gives an
    empty dictionary.

    Args:
        name_or_path: as for `load_toy`.

    Raises:
        PrefixInterpError: unknown toy, corrupted files, or a folder that is no toy's: the message
            says what it holds and what to call instead.

    Example:
        >>> pi.load_prefixes("four-skills-1l4h")["add_one"].n_slots
        1
    """
    folder = toy_folder(name_or_path)
    records = sorted(folder.glob(f"prefixes/*/{Prefix.STEM}.json"))
    if not records and not list(folder.glob(f"{TOY_STEM}.*")):
        raise PrefixInterpError(
            f"path={str(name_or_path)!r} is the folder of no toy: it {_found_in(folder)}"
        )
    return {record.parent.name: Prefix.load(record.parent) for record in records}


def _found_in(folder: Path) -> str:
    """Return what a folder holds that is no toy's, and what to do with it."""
    names = sorted(file.name for file in folder.iterdir())
    saved = {
        "prefix": "call pi.Prefix.load on it",
        "soft_prompt": "call pi.SoftPrompt.load on it",
        "result": "call load of the class that saved it, e.g. ContextFit of tuning.contexts",
    }
    for stem, what_to_do in saved.items():
        if any(name in (f"{stem}.json", f"{stem}.safetensors") for name in names):
            return f"holds a saved {stem.replace('_', ' ')}; {what_to_do}"
    if any(name.startswith("adapter_") for name in names):
        return "holds an adapter of PEFT; call pi.Prefix.from_peft on it, with its language model"
    inside = [file.parent.name for file in sorted(folder.glob(f"*/{Prefix.STEM}.json"))]
    if inside:
        return f"holds saved prefixes in folders; call pi.Prefix.load on each, e.g. {inside[0]!r}"
    held = f"holds {', '.join(map(repr, names[:3]))}" if names else "is empty"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    toys = ", ".join(map(repr, list_toys()))
    return f"{held}{more}; give the folder of a saved toy, or one of {toys}"


def prefix_shapes(
    model: Model, n_slots: int, parameterization: Parameterization | str
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a prefix with `n_slots` slots for `model`."""
    host = host_of(model)
    if parameterization == "residual":
        return {"vectors": (host.n_layers, n_slots, host.d_model)}
    shape = (host.n_layers, n_slots, host.n_kv_heads, host.d_head)
    return {"keys": shape, "values": shape}
