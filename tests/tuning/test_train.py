from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import prefix_interp as pi
from prefix_interp.tasks import DigitTask

SMALL = pi.ToyConfig(n_heads=2, d_model=32)


def smoke(stage, **changes):
    return pi.Recipe.from_preset("smoke", stage, **changes)


@pytest.fixture(scope="module")
def fit():
    return pi.pretrain(SMALL, "add_one", recipe=smoke("pretrain", steps=300), progress=False)


def test_pretraining_learns_and_repeats_to_the_bit(fit):
    assert fit.evaluation.loss < fit.history["loss"].iloc[0] / 2
    again = pi.pretrain(SMALL, "add_one", recipe=smoke("pretrain", steps=300), progress=False)
    for a, b in zip(fit.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = pi.pretrain(SMALL, "add_one", recipe=smoke("pretrain", steps=5), seed=1, progress=False)
    assert not torch.equal(fit.model.W_E, other.model.W_E)


def test_the_reported_loss_is_a_teacher_forced_cross_entropy(fit):
    # The loop spares the last MLP the input positions; the plain model must agree.
    task = pi.get_task("add_one")
    batch = task.sample(500, split="train", seed=9)
    pads = torch.zeros(500, 1, dtype=torch.long)
    recipe = pi.Recipe.from_preset("paper", "pretrain", steps=1, lr=1e-9)
    short = pi.pretrain(SMALL, task, recipe=recipe, progress=False)
    with torch.no_grad():
        logits = short.model(torch.cat([pads, batch.tokens], 1))[:, -task.length :]
    expected = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten()).item()
    assert short.history["loss"].iloc[0] == pytest.approx(expected, rel=0.02)


def test_fine_tuning_leaves_the_original_alone(fit):
    before = {k: v.clone() for k, v in fit.model.named_parameters()}
    tuned = pi.fine_tune(fit.model, "add_two", recipe=smoke("fine_tune", steps=200), progress=False)
    assert tuned.evaluation.loss < pi.evaluate(fit.model, "add_two").loss
    assert all(torch.equal(v, before[k]) for k, v in fit.model.named_parameters())
    assert not tuned.model.b_U.any(), "minGPT has no bias there"


def test_dropout_of_the_paper_preset_acts():
    task = "add_one"
    recipe = pi.Recipe.from_preset("paper", "pretrain", steps=3)
    a = pi.pretrain(SMALL, task, recipe=recipe, progress=False)
    plain = pi.pretrain(SMALL, task, recipe=replace(recipe, dropout=0.0), progress=False)
    assert not torch.equal(a.model.W_U, plain.model.W_U)
    assert a.recipe.dropout == 0.1 and a.recipe.steps == 3
    assert a.model.training is False and not any(h.fwd_hooks for h in a.model.hook_points())


def test_the_baseline_of_the_recipe_is_trained_and_scored_with():
    """Placeholders are attended to: their embedding moves, which it does not where they are not."""
    fits = {}
    for baseline in ("masked", "placeholder", "unshifted"):
        task = DigitTask("ones", ("add_one",), length=4, n_digits=4)
        recipe = smoke("pretrain", steps=3, baseline=baseline)
        fits[baseline] = pi.pretrain(SMALL, task, recipe=recipe, progress=False)
        score = pi.evaluate(fits[baseline].model, task, baseline=baseline)
        assert fits[baseline].evaluation == score
    start = pi.build_toy(SMALL).W_pos
    moved = {k: (fit.model.W_pos - start).abs().sum(dim=1) > 0 for k, fit in fits.items()}
    assert [bool(m[0]) for m in moved.values()] == [False, True, True]  # position 0 is the slot's
    assert [bool(m[7]) for m in moved.values()] == [True, True, False]  # 4 inputs, 3 outputs fed


def test_a_checkpoint_of_another_baseline_is_refused(tmp_path):
    file = tmp_path / "c.safetensors"
    recipe = smoke("pretrain", steps=2)
    pi.pretrain(SMALL, "add_one", recipe=recipe, checkpoint=file, progress=False)
    other = replace(recipe, baseline="placeholder")
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        pi.pretrain(SMALL, "add_one", recipe=other, checkpoint=file, progress=False)
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        model = pi.build_toy(SMALL)
        pi.fine_tune(model, "add_one", recipe=recipe, checkpoint=file, progress=False)


def test_a_task_that_does_not_fit_the_model_is_refused():
    with pytest.raises(pi.PrefixInterpError, match=r"from 0 to \d, outside the vocabulary of 5"):
        pi.pretrain(pi.ToyConfig(d_vocab=5, d_model=8), "add_one", preset="smoke")
    with pytest.raises(pi.PrefixInterpError, match="needs 19 content positions"):
        pi.pretrain(pi.ToyConfig(n_content=9, d_model=8), "add_one", preset="smoke")
