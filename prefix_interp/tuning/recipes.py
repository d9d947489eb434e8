"""The recipes of every training in the package."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from prefix_interp.errors import check_choice, check_number, check_positive
from prefix_interp.models.device import fastest_precision
from prefix_interp.prefixes.baselines import Baseline

Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16", "auto"]
Stage = Literal["pretrain", "fine_tune", "prefix"]


@dataclass(frozen=True)
class Recipe:
    """One training run: AdamW with betas (0.9, 0.95) and gradients clipped to norm 1.

    Attributes:
        steps: optimiser steps.
        lr: peak learning rate.
        batch_size: sequences per step, all fresh.
        weight_decay: applies to matrices of attention, MLP and unembedding, or to the context.
        schedule: ``"constant"``, or ``"cosine"`` after a linear warm-up of 5% of the steps.
        dropout: minGPT's, by hooks; used when training weights, not contexts.
        precision: of matrix products. ``"bfloat16"`` autocasts them, on every machine; ``"auto"``
            becomes the one that this processor multiplies faster (`fastest_precision`).
        init_std: contexts start from N(0, init_std^2); weights start as `build_toy` sets them.
        baseline: meaning of "no prefix" while weights are trained and scored.
        preset: name of the preset that the recipe is based on; None for your own recipe.

    Example:
        >>> pi.Recipe.from_preset("smoke", "prefix", steps=2).steps
        2
    """

    steps: int
    lr: float
    batch_size: int = 64
    weight_decay: float = 0.1
    schedule: Schedule | str = "cosine"
    dropout: float = 0.0
    precision: Precision | str = "float32"
    init_std: float = 1.0
    baseline: Baseline | str = "masked"
    preset: str | None = None

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        check_positive("batch_size", self.batch_size)
        check_number("lr", self.lr, low_open=True)
        check_number("weight_decay", self.weight_decay)
        check_number("dropout", self.dropout, 0.0, 0.9)
        check_number("init_std", self.init_std, low_open=True)
        check_choice("schedule", self.schedule, get_args(Schedule))
        # Every recipe says what it does, so "auto" is decided here.
        object.__setattr__(self, "precision", chosen_precision(self.precision))
        check_choice("baseline", self.baseline, get_args(Baseline))

    @classmethod
    def from_preset(cls, preset: str, stage: Stage | str, **changes: Any) -> Recipe:
        """Return the recipe of a preset, e.g. ``Recipe.from_preset("fast", "prefix", lr=0.1)``.

        Args:
            preset: ``"paper"``, ``"fast"`` or ``"smoke"``.
            stage: ``"pretrain"``, ``"fine_tune"`` or ``"prefix"`` (for soft prompts too).
            changes: new values for fields of `Recipe`; None leaves a field unchanged.

        Raises:
            PrefixInterpError: unknown names, or a value out of range.
        """
        recipes = preset_recipes(preset)
        check_choice("stage", stage, recipes)
        allowed = [f.name for f in fields(cls) if f.name != "preset"]
        for name in changes:
            check_choice("recipe field", name, allowed)
        return replace(recipes[stage], **{k: v for k, v in changes.items() if v is not None})

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        return asdict(self)


def chosen_precision(precision: Precision | str) -> str:
    """Return ``"float32"`` or ``"bfloat16"``: what was named, or the faster one for ``"auto"``.

    Raises:
        PrefixInterpError: unknown name.
    """
    check_choice("precision", precision, get_args(Precision))
    return fastest_precision() if precision == "auto" else precision


# The published protocol: 20k + 10k + 40k steps, dropout, placeholders attended to.
_PAPER = Recipe(20_000, 5e-4, schedule="constant", baseline="placeholder", preset="paper")
PRESETS: dict[str, dict[str, Recipe]] = {
    "paper": {
        "pretrain": replace(_PAPER, dropout=0.1),
        "fine_tune": replace(_PAPER, dropout=0.1, steps=10_000),
        "prefix": replace(_PAPER, weight_decay=0.01, steps=40_000),
    },
    # The same results in the fewest steps.
    "fast": {
        "pretrain": Recipe(3000, 2e-3, preset="fast"),
        "fine_tune": Recipe(1500, 1e-3, preset="fast"),
        "prefix": Recipe(2000, 3e-2, batch_size=32, weight_decay=0.0, preset="fast"),
    },
    # Takes seconds, for tests: the loss falls, but no task is learned.
    "smoke": {
        "pretrain": Recipe(30, 2e-3, batch_size=16, preset="smoke"),
        "fine_tune": Recipe(20, 1e-3, batch_size=16, preset="smoke"),
        "prefix": Recipe(20, 1e-2, batch_size=16, weight_decay=0.0, preset="smoke"),
    },
}


def preset_recipes(preset: str) -> dict[str, Recipe]:
    """Return the recipes of a preset by stage.

    Raises:
        PrefixInterpError: unknown name; the message gives the nearest one.
    """
    check_choice("preset", preset, PRESETS)
    return dict(PRESETS[preset])


def preset_settings(preset: str) -> dict[str, Any]:
    """Return a preset as JSON values: its name, and each stage's recipe but for the precision.

    A run of a study chooses its precision for all its trainings.
    """
    found: dict[str, Any] = {"name": preset}
    for stage, recipe in preset_recipes(preset).items():
        found[stage] = recipe.to_dict()
        del found[stage]["precision"]
    return found
