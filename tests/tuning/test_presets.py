import pytest

import prefix_interp as pi
from prefix_interp.tuning.presets import PRESETS, Recipe, adjusted, get_preset


def test_the_paper_preset_is_the_published_protocol():
    paper = get_preset("paper")
    steps = (paper.pretrain.steps, paper.fine_tune.steps, paper.prefix.steps)
    assert steps == (20_000, 10_000, 40_000) and paper.baseline == "placeholder"
    for recipe in (paper.pretrain, paper.fine_tune, paper.prefix):
        assert recipe.lr == 5e-4 and recipe.batch_size == 64 and recipe.schedule == "constant"
    assert paper.pretrain.dropout == 0.1 and paper.prefix.dropout == 0.0


def test_adjusting():
    recipe = adjusted(PRESETS["fast"].prefix, lr=0.5, steps=None)
    assert recipe.lr == 0.5 and recipe.steps == PRESETS["fast"].prefix.steps
    with pytest.raises(pi.PrefixInterpError, match="recipe field='lrr' is unknown"):
        adjusted(recipe, lrr=1)


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"lr": 0.0}, {"lr": float("inf")}, {"batch_size": 0}, {"dropout": 1.0},
     {"schedule": "linear"}, {"precision": "float16"}, {"weight_decay": -0.1}],
)  # fmt: skip
def test_recipes_refuse_what_is_out_of_range(bad):
    with pytest.raises(pi.PrefixInterpError):
        Recipe(**{"steps": 10, "lr": 0.1, **bad})
