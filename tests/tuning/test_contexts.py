"""One engine tunes prefixes and soft prompts: what is trained, kept, resumed and refused."""

from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.model import model_id
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import DigitTask
from prefix_interp.tuning.contexts import frozen
from prefix_interp.tuning.evaluate import answer_scores
from tests.helpers import assert_close, raw_model, toy

TASK = DigitTask("tiny", ("sort_ascending",), length=2, n_digits=3)
KINDS = {
    "residual": lambda model, recipe, **how: pi.tune_prefix(model, TASK, 2, recipe=recipe, **how),
    "kv": lambda model, recipe, **how: pi.tune_prefix(
        model, TASK, 2, recipe=recipe, parameterization="kv", **how
    ),
    "prompt": lambda model, recipe, **how: pi.tune_soft_prompt(
        model, TASK, 2, recipe=recipe, **how
    ),
    "suffix": lambda model, recipe, **how: pi.tune_soft_prompt(
        model, TASK, 2, recipe=recipe, position=2, **how
    ),
    "suffix at every layer": lambda model, recipe, **how: pi.tune_soft_prompt(
        model, TASK, 2, recipe=recipe, position=2, layers="all", **how
    ),
}
every_kind = pytest.mark.parametrize("tune", KINDS.values(), ids=KINDS)


def smoke(**changes):
    return pi.Recipe.from_preset("smoke", "prefix", **changes)


def start_of(fit, model, seed=0, std=1.0):
    """The noise that a fit started from, drawn again."""
    context = fit.context
    settings = {k: v for k, v in context.settings.items() if k != "key_form"}  # the model's own
    return type(context).random(model, context.n_slots, seed, **settings, std=std)


def train_loss(model, context):
    """The loss that tuning lowers: on the few sequences of the train split."""
    losses = answer_scores(model, TASK.sample(200, split="train"), context).loss
    return float(losses.mean())


def bits(context):
    return [x.detach().numpy().tobytes() for x in context.tensors.values()]


@pytest.fixture
def model():
    return toy(dtype=torch.float32, d_model=16, n_content=3, d_vocab=5)


@every_kind
def test_tuning_lowers_the_loss_and_moves_the_context_alone(model, tune):
    weights = {n: p.clone() for n, p in model.named_parameters()}
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    model.train()
    fit = tune(model, smoke(steps=60, lr=0.1), progress=False)
    assert train_loss(model, fit.context) < train_loss(model, start_of(fit, model)) - 0.1
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags and model.training
    assert fit.evaluation == pi.evaluate(model, TASK, fit.context)


@every_kind
def test_a_fit_says_how_it_was_made(model, tune):
    recipe = smoke(steps=3, lr=0.02, init_std=0.5)
    fit = tune(model, recipe, seed=4, progress=False)
    assert fit.context.model_id == model_id(model) and fit.start == 0 and fit.recipe == recipe
    assert fit.context.metadata == {
        "task": "tiny", "preset": "smoke", "seed": 4, "start": 0, "recipe": recipe.to_dict(),
    }  # fmt: skip
    assert fit.history["run"].unique().tolist() == ["start=0 lr=0.02"]
    assert fit.train_loss == fit.history["loss"].iloc[-1] and len(fit.history) == 3
    own = replace(recipe, preset=None)
    assert tune(model, own, seed=4, progress=False).context.metadata["preset"] is None


@every_kind
def test_the_preset_is_its_recipe_and_a_recipe_replaces_it(model, tune):
    named = tune(model, None, preset="smoke", progress=False)
    given = tune(model, smoke(), preset="paper", progress=False)
    assert named.recipe == given.recipe == smoke() and bits(named.context) == bits(given.context)


@every_kind
def test_the_training_loss_is_that_of_the_attached_start(model, tune):
    # One step at no rate to speak of: the loss is the start's on the first batch.
    fit = tune(model, smoke(steps=1, lr=1e-12, init_std=0.3), seed=1, progress=False)
    batch = TASK.sample_from(derive_generator(1, "batches", "tiny", 0), 16 * 50, "train")
    tokens, answers = batch.tokens[:16], batch.answers[:16]
    start = start_of(fit, model, seed=1, std=0.3)
    with torch.no_grad(), pi.attach(model, start):
        logits = model(tokens)[:, -2:]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), answers)
    assert_close(torch.tensor(fit.train_loss), loss, 1e-6)
    for name, tensor in fit.context.tensors.items():
        assert_close(tensor, start.tensors[name], 1e-6)


@pytest.mark.parametrize("kind", ["residual", "kv", "prompt"])
def test_a_sweep_is_every_start_at_every_rate_as_if_alone(model, kind):
    if kind == "prompt":
        starts = pi.SoftPrompt.random_starts(model, 2, 2, 3, position=1)
    else:
        starts = pi.Prefix.random_starts(model, 2, 2, 3, kind)
    recipe = smoke(steps=10, precision="float32")
    rates = [0.01, 0.1, 0.1000001]  # two that look alike in short keep their own history
    fits = pi.sweep(model, TASK, starts, rates, recipe=recipe, seed=3, progress=False)
    assert [(f.start, f.recipe.lr) for f in fits] == [(i, r) for i in (0, 1) for r in rates]
    assert len({f.history["run"].iloc[0] for f in fits}) == 6
    for fit in fits:
        assert len(fit.history) == 10 and fit.context.metadata["start"] == fit.start
    for fit in (fits[1], fits[3]):
        (alone,) = pi.sweep(
            model, TASK, [starts[fit.start]], [fit.recipe.lr],
            recipe=recipe, seed=3, progress=False,
        )  # fmt: skip
        for name, tensor in fit.context.tensors.items():
            assert_close(tensor, alone.context.tensors[name], 1e-4)
        assert fit.train_loss == pytest.approx(alone.train_loss, rel=1e-4)


def test_restarts_are_tuned_from_where_they_start(model):
    starts = pi.Prefix.random_starts(model, 1, 3, std=0.5)
    recipe = smoke(steps=1, init_std=0.5)
    fits = pi.sweep(model, TASK, starts, [1e-6], recipe=recipe, progress=False)
    for i, (fit, start) in enumerate(zip(fits, starts, strict=True)):
        assert fit.start == i and torch.allclose(fit.prefix.vectors, start.vectors, atol=1e-5)
    alone = pi.tune_prefix(model, TASK, recipe=replace(recipe, lr=1e-6), progress=False)
    assert torch.equal(alone.prefix.vectors, fits[0].prefix.vectors)


def test_starts_may_be_anything_that_fits(model):
    """A context that was tuned before is a start: a sweep goes on from it, and leaves it alone."""
    first = pi.tune_prefix(model, TASK, recipe=smoke(steps=40, lr=0.1), progress=False)
    before = first.prefix.vectors.clone()
    (again,) = pi.sweep(
        model, TASK, [first.context], [1e-12], recipe=smoke(steps=1), progress=False
    )
    assert_close(again.prefix.vectors, before, 1e-6)
    assert torch.equal(first.prefix.vectors, before)
    real = pi.SoftPrompt.from_tokens(model, torch.tensor([3]), 2)
    (fit,) = pi.sweep(model, TASK, [real], [0.1], recipe=smoke(steps=30), progress=False)
    assert fit.context.settings == real.settings
    assert train_loss(model, fit.context) < train_loss(model, real)


@pytest.mark.parametrize("kind", ["residual", "suffix"])
def test_a_sweep_is_resumed_with_the_same_bits(model, kind, tmp_path):
    if kind == "residual":
        starts = pi.Prefix.random_starts(model, 1, 2)
    else:
        starts = pi.SoftPrompt.random_starts(model, 1, 2, position=2)
    file, how = tmp_path / "c.safetensors", dict(recipe=smoke(steps=6), progress=False)
    whole = pi.sweep(model, TASK, starts, [0.01, 0.1], **how)
    first = pi.sweep(model, TASK, starts, [0.01, 0.1], checkpoint=file, **how)
    again = pi.sweep(model, TASK, starts, [0.01, 0.1], checkpoint=file, **how)
    for a, b, c in zip(whole, first, again, strict=True):
        assert bits(a.context) == bits(b.context) == bits(c.context)
        assert a.history.equals(b.history) and a.history.equals(c.history)


def test_a_checkpoint_of_another_sweep_is_refused(model, tmp_path):
    """Whatever is changed, one thing at a time, the kept work is another training's."""
    file, starts = tmp_path / "c.safetensors", pi.SoftPrompt.random_starts(model, 1, 2)

    def run(model=model, task=TASK, starts=starts, lrs=(0.01, 0.1), seed=0, **changes):
        recipe = smoke(**({"steps": 2} | changes))
        return pi.sweep(
            model, task, starts, lrs, recipe=recipe, seed=seed, checkpoint=file, progress=False
        )

    run()
    nudged = replace(starts[1], vectors=starts[1].vectors + 1e-6)
    other = toy(seed=1, dtype=torch.float32, d_model=16, n_content=3, d_vocab=5)
    for change in [
        {"model": other},
        {"task": DigitTask("tiny", ("sort_descending",), length=2, n_digits=3)},
        {"starts": [starts[0], nudged]},
        {"starts": starts[::-1]},
        {"starts": starts[:1]},
        {"starts": [replace(s, position=1) for s in starts]},
        {"starts": pi.Prefix.random_starts(model, 1, 2)},
        {"lrs": (0.01, 0.2)},
        {"lrs": (0.1, 0.01)},
        {"seed": 1},
        {"steps": 3},
        {"batch_size": 8},
        {"weight_decay": 0.5},
        {"schedule": "constant"},
        {"precision": "bfloat16"},
    ]:
        with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
            run(**change)
    run()


def test_one_layer_tells_where_a_soft_prompt_is_written(tmp_path):
    """In one layer both kinds of soft prompt have vectors of one shape: their name tells."""
    model = toy(dtype=torch.float32, n_layers=1, d_model=16, n_content=3, d_vocab=5)
    start = pi.SoftPrompt.random(model, 1)
    how = dict(recipe=smoke(steps=1), checkpoint=tmp_path / "c.safetensors", progress=False)
    pi.sweep(model, TASK, [start], [0.01], **how)
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        pi.sweep(model, TASK, [replace(start, layers="all")], [0.01], **how)


def test_frozen_restores_after_an_error(model):
    model.W_E.requires_grad_(False)
    model.train()
    with pytest.raises(RuntimeError), frozen(model):
        assert not any(p.requires_grad for p in model.parameters()) and not model.training
        raise RuntimeError
    assert model.W_pos.requires_grad and not model.W_E.requires_grad and model.training


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "fats"}, "did you mean 'fast'"),
        ({"n_slots": 0}, "n_slots=0"),
        ({"n_slots": -1}, "n_slots=-1"),
        ({"parameterization": "keyvalue"}, "parameterization='keyvalue'"),
        ({"task": "sort_asc"}, "task='sort_asc'"),
    ],
)
def test_bad_input_to_tune_prefix(model, change, message):
    arguments = {"task": TASK, "preset": "smoke", "progress": False, **change}
    with pytest.raises(pi.PrefixInterpError, match=message):
        pi.tune_prefix(model, **arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": 3}, "position=3 must be between 0 and 2"),
        ({"position": -1}, "position=-1"),
        ({"layers": "layers"}, "layers='layers' is unknown"),
        ({"n_slots": True}, "n_slots=True"),
    ],
)
def test_bad_input_to_tune_soft_prompt(model, change, message):
    with pytest.raises(pi.PrefixInterpError, match=message):
        pi.tune_soft_prompt(model, TASK, preset="smoke", progress=False, **change)


def test_bad_sweeps_are_one_line(model):
    prefix, prompt = pi.Prefix.random(model, 1), pi.SoftPrompt.random(model, 1)
    full = raw_model(n_ctx=3, dtype=torch.float32)
    for arguments, message in [
        ((model, TASK, [], [0.1]), "starts are empty"),
        ((model, TASK, [prefix], []), "lrs=.. must hold at least one"),
        ((model, TASK, [prefix], [0.1, 0.1]), "all different"),
        ((model, TASK, [prefix], [-1.0]), "lr=-1.0"),
        ((model, TASK, [prefix], [float("nan")]), "lr=nan"),
        ((model, TASK, [prefix, prompt], [0.1]), "one kind with one setting"),
        ((model, TASK, [prefix, pi.Prefix.random(model, 1, 0, "kv")], [0.1]), "one setting"),
        ((model, TASK, [prompt, replace(prompt, position=1)], [0.1]), "one setting"),
        ((model, TASK, [prefix, pi.Prefix.random(model, 2)], [0.1]), "1 and 2 slots"),
        ((model, TASK, [replace(prefix, model_id="x")], [0.1]), "other weights"),
        ((full, TASK, [pi.SoftPrompt.random(full, 1)], [0.1]), "needs 3 content positions"),
        ((full, TASK, [pi.Prefix.random(full, 1)], [0.1]), "needs 3 content positions"),
    ]:
        with pytest.raises(pi.PrefixInterpError, match=message) as error:
            pi.sweep(*arguments, preset="smoke", progress=False)
        assert "\n" not in str(error.value)
    with pi.attach(model, prefix), pytest.raises(pi.PrefixInterpError, match="has one already"):
        pi.sweep(model, TASK, [prefix], [0.1], preset="smoke", progress=False)


def test_the_prefix_of_a_fit_is_a_prefix(model):
    recipe = smoke(steps=1)
    fit = pi.tune_prefix(model, TASK, recipe=recipe, progress=False)
    assert fit.prefix is fit.context
    soft = pi.tune_soft_prompt(model, TASK, recipe=recipe, progress=False)
    with pytest.raises(pi.PrefixInterpError, match=r"SoftPrompt was tuned; use fit\.context"):
        _ = soft.prefix
