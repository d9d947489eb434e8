import pytest
import torch
import torch.nn.functional as F

import prefix_interp as pi
from prefix_interp.tuning.prefixes import sweep_prefixes
from prefix_interp.tuning.sweep import frozen

SMALL = pi.ToyConfig(n_heads=2, d_model=32)


@pytest.fixture(scope="module")
def fit():
    return pi.pretrain(SMALL, "add_one", preset="smoke", steps=300, progress=False)


def test_pretraining_learns_and_repeats_to_the_bit(fit):
    assert fit.evaluation.loss < fit.history["loss"].iloc[0] / 2
    again = pi.pretrain(SMALL, "add_one", preset="smoke", steps=300, progress=False)
    for a, b in zip(fit.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = pi.pretrain(SMALL, "add_one", preset="smoke", steps=5, seed=1, progress=False)
    assert not torch.equal(fit.model.W_E, other.model.W_E)


def test_the_reported_loss_is_a_teacher_forced_cross_entropy(fit):
    # The loop spares the last MLP the input positions; the plain model must agree.
    task = pi.get_task("add_one")
    batch = task.sample(500, split="train", seed=9)
    pads = torch.zeros(500, 1, dtype=torch.long)
    short = pi.pretrain(SMALL, task, preset="paper", steps=1, lr=1e-9, progress=False)
    with torch.no_grad():
        logits = short.model(torch.cat([pads, batch.tokens], 1))[:, -task.length :]
    expected = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten()).item()
    assert short.history["loss"].iloc[0] == pytest.approx(expected, rel=0.02)


def test_fine_tuning_leaves_the_original_alone(fit):
    before = {k: v.clone() for k, v in fit.model.named_parameters()}
    tuned = pi.fine_tune(fit.model, "add_two", preset="smoke", steps=200, progress=False)
    assert tuned.evaluation.loss < pi.evaluate(fit.model, "add_two").loss
    assert all(torch.equal(v, before[k]) for k, v in fit.model.named_parameters())
    assert not tuned.model.b_U.any(), "minGPT has no bias there"


@pytest.mark.parametrize("parameterization", ["residual", "kv"])
def test_prefix_tuning_trains_the_prefix_alone(fit, parameterization):
    before = {k: v.clone() for k, v in fit.model.named_parameters()}
    flags = {k: v.requires_grad for k, v in fit.model.named_parameters()}
    options = {"parameterization": parameterization, "preset": "smoke", "progress": False}
    got = pi.tune_prefix(fit.model, "add_two", 2, steps=150, lr=0.1, **options)
    start = pi.Prefix.random(fit.model, 2, 0, parameterization)
    assert got.evaluation.loss < pi.evaluate(fit.model, "add_two", start).loss
    assert all(torch.equal(v, before[k]) for k, v in fit.model.named_parameters())
    assert {k: v.requires_grad for k, v in fit.model.named_parameters()} == flags
    assert got.prefix.parameterization == parameterization and got.prefix.n_slots == 2
    assert got.prefix.model_id is not None and got.prefix.metadata["task"] == "add_two"


def test_a_sweep_equals_tuning_one_by_one(fit):
    options = {"parameterization": "kv", "preset": "smoke", "steps": 30, "progress": False}
    swept = sweep_prefixes(fit.model, "add_two", 2, [0.01, 0.1], **options)
    for each in swept:
        alone = pi.tune_prefix(fit.model, "add_two", 2, lr=each.recipe.lr, **options)
        # bfloat16 products of another batch shape may round differently.
        assert torch.allclose(each.prefix.keys, alone.prefix.keys, atol=2e-2)
        assert each.history["run"].unique().tolist() == [f"start=0 lr={each.recipe.lr:g}"]


def test_frozen_restores_after_an_error(fit):
    with pytest.raises(RuntimeError), frozen(fit.model):
        assert not any(p.requires_grad for p in fit.model.parameters())
        raise RuntimeError
    assert fit.model.W_E.requires_grad


def test_dropout_of_the_paper_preset_acts():
    task = "add_one"
    a = pi.pretrain(SMALL, task, preset="paper", steps=3, progress=False)
    assert a.recipe.dropout == 0.1 and a.recipe.steps == 3
    assert a.model.training is False and not any(h.fwd_hooks for h in a.model.hook_points())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "fats"}, "did you mean 'fast'"),
        ({"n_slots": 0}, "n_slots=0"),
        ({"n_slots": -1}, "n_slots=-1"),
        ({"parameterization": "keyvalue"}, "parameterization='keyvalue'"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"steps": 0}, "steps=0"),
        ({"task": "sort_asc"}, "task='sort_asc'"),
    ],
)
def test_bad_input(fit, change, message):
    arguments = {"task": "add_one", "preset": "smoke", "progress": False, **change}
    task = arguments.pop("task")
    with pytest.raises(pi.PrefixInterpError, match=message):
        pi.tune_prefix(fit.model, task, arguments.pop("n_slots", 1), **arguments)


def test_a_task_that_does_not_fit_the_model_is_refused():
    with pytest.raises(pi.PrefixInterpError, match="needs 11 tokens"):
        pi.pretrain(pi.ToyConfig(d_vocab=9, d_model=8), "add_one", preset="smoke")
    with pytest.raises(pi.PrefixInterpError, match="needs 19 content positions"):
        pi.pretrain(pi.ToyConfig(n_content=9, d_model=8), "add_one", preset="smoke")
