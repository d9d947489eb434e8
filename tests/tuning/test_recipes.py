import json
from dataclasses import replace

import pytest

import prefix_interp as pi
from prefix_interp.tuning.recipes import (
    PRESETS,
    Recipe,
    chosen_precision,
    preset_recipes,
    preset_settings,
)


def test_the_paper_preset_is_the_published_protocol():
    paper = preset_recipes("paper")
    steps = {stage: recipe.steps for stage, recipe in paper.items()}
    assert steps == {"pretrain": 20_000, "fine_tune": 10_000, "prefix": 40_000}
    for recipe in paper.values():
        assert recipe.lr == 5e-4 and recipe.batch_size == 64 and recipe.schedule == "constant"
        assert recipe.baseline == "placeholder" and recipe.precision == "float32"
    assert paper["pretrain"].dropout == paper["fine_tune"].dropout == 0.1
    assert paper["prefix"].dropout == 0.0 and paper["prefix"].weight_decay == 0.01


@pytest.mark.parametrize("preset", PRESETS)
def test_every_recipe_says_where_it_comes_from(preset):
    for stage, recipe in preset_recipes(preset).items():
        assert recipe.preset == preset and Recipe.from_preset(preset, stage) == recipe
        assert Recipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
        settings = preset_settings(preset)[stage]  # a run chooses its own precision
        assert settings | {"precision": "float32"} == recipe.to_dict() != settings
    assert preset_settings(preset)["name"] == preset


def test_a_preset_means_the_same_on_every_processor_and_auto_says_what_it_chose(monkeypatch):
    for preset in PRESETS:
        assert {recipe.precision for recipe in preset_recipes(preset).values()} == {"float32"}
    for measured in ("float32", "bfloat16"):
        monkeypatch.setattr("prefix_interp.tuning.recipes.fastest_precision", lambda m=measured: m)
        recipe = Recipe.from_preset("fast", "prefix", precision="auto")
        assert recipe.precision == measured and recipe.to_dict()["precision"] == measured
        assert chosen_precision("float32") == "float32"


def test_changing_a_preset():
    recipe = Recipe.from_preset("fast", "prefix", lr=0.5, steps=None)
    assert recipe == replace(PRESETS["fast"]["prefix"], lr=0.5) and recipe.preset == "fast"
    for arguments, changes, message in [
        (("fats", "prefix"), {}, "preset='fats' is unknown .did you mean 'fast'"),
        (("fast", "prefixes"), {}, "stage='prefixes' is unknown .did you mean 'prefix'"),
        (("fast", "prefix"), {"lrr": 1}, "recipe field='lrr' is unknown"),
        (("fast", "prefix"), {"lr": -1.0}, "lr=-1.0 must be a number"),
    ]:
        with pytest.raises(pi.PrefixInterpError, match=message) as error:
            Recipe.from_preset(*arguments, **changes)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"lr": 0.0}, {"lr": float("inf")}, {"batch_size": 0}, {"dropout": 1.0},
     {"schedule": "linear"}, {"precision": "float16"}, {"weight_decay": -0.1}, {"init_std": 0.0},
     {"baseline": "mask"}],
)  # fmt: skip
def test_recipes_refuse_what_is_out_of_range(bad):
    with pytest.raises(pi.PrefixInterpError):
        Recipe(**{"steps": 10, "lr": 0.1, **bad})
