"""How long, how fast and with what: the recipes of every training in the package."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from prefix_interp.errors import PrefixInterpError, check_choice, check_number, check_positive
from prefix_interp.prefixes.baselines import Baseline

Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """One training run: AdamW with betas (0.9, 0.95) and gradients clipped to norm 1.

    Attributes:
        steps: optimiser steps.
        lr: peak learning rate.
        batch_size: sequences a step, all fresh.
        weight_decay: on matrices of attention, MLP and unembedding, or on the prefix.
        schedule: ``"constant"``, or ``"cosine"`` after a linear warm-up of 5% of the steps.
        dropout: minGPT's, by hooks.
        precision: ``"bfloat16"`` autocasts matrix products where the machine has them.
        init_std: a prefix starts from N(0, init_std^2); weights start as the toy was built.
    """

    steps: int
    lr: float
    batch_size: int = 64
    weight_decay: float = 0.1
    schedule: Schedule | str = "cosine"
    dropout: float = 0.0
    precision: Precision | str = "bfloat16"
    init_std: float = 1.0

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        check_positive("batch_size", self.batch_size)
        check_number("lr", self.lr, low_open=True)
        check_number("weight_decay", self.weight_decay)
        check_number("dropout", self.dropout, 0.0, 0.9)
        check_number("init_std", self.init_std, low_open=True)
        check_choice("schedule", self.schedule, ("constant", "cosine"))
        check_choice("precision", self.precision, ("float32", "bfloat16"))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Preset:
    """The recipes of one protocol, and what "no prefix" means while training under it."""

    name: str
    pretrain: Recipe
    fine_tune: Recipe
    prefix: Recipe
    baseline: Baseline


PRESETS = {
    # The published protocol: 20k + 10k + 40k steps, dropout, placeholders attended to.
    "paper": Preset(
        name="paper",
        pretrain=Recipe(20_000, 5e-4, schedule="constant", dropout=0.1, precision="float32"),
        fine_tune=Recipe(10_000, 5e-4, schedule="constant", dropout=0.1, precision="float32"),
        prefix=Recipe(40_000, 5e-4, weight_decay=0.01, schedule="constant", precision="float32"),
        baseline="placeholder",
    ),
    # The same results in the fewest steps.
    "fast": Preset(
        name="fast",
        pretrain=Recipe(3000, 2e-3),
        fine_tune=Recipe(1500, 1e-3),
        prefix=Recipe(2000, 3e-2, batch_size=32, weight_decay=0.0),
        baseline="masked",
    ),
    # Seconds, for tests: learns something, reaches nothing.
    "smoke": Preset(
        name="smoke",
        pretrain=Recipe(30, 2e-3, batch_size=16),
        fine_tune=Recipe(20, 1e-3, batch_size=16),
        prefix=Recipe(20, 1e-2, batch_size=16, weight_decay=0.0),
        baseline="masked",
    ),
}


def get_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        PrefixInterpError: unknown name; the message gives the nearest one.
    """
    check_choice("preset", name, PRESETS)
    return PRESETS[name]


def adjusted(recipe: Recipe, **changes: Any) -> Recipe:
    """Return `recipe` with the fields in `changes` replaced; None leaves a field as it is.

    Raises:
        PrefixInterpError: an unknown field or a value out of range.
    """
    known = {f.name for f in fields(Recipe)}
    for key in changes:
        check_choice("recipe field", key, known)
    given = {k: v for k, v in changes.items() if v is not None}
    try:
        return Recipe(**{**recipe.to_dict(), **given})
    except TypeError as error:
        raise PrefixInterpError(f"recipe cannot be changed by {given!r}: {error}") from None
