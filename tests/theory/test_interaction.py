"""Interactions of input tokens against loops, and models for which they are known."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.theory.interaction import interaction
from tests.helpers import architectures, assert_close, raw_model, tokens_for, toy
from tests.tiny_language_models import language_model, random_tokens


def case(n=5, length=5, n_out=2, seed=1, **settings):
    model = raw_model(seed, n_layers=1, **settings)
    return model, pi.Batch(
        tokens_for(model, n, length, seed), tokens_for(model, n, n_out, seed + 1)
    )


def centred(logits, answer):
    return logits[answer] - logits.mean()


def by_loop(run, batch, found):
    """f(i, j) - f(i) - f(j) + f(), one sequence and one pair at a time."""
    n, n_out = batch.answers.shape
    size = len(found.positions)
    values, alone = torch.zeros(n, n_out, size, size), torch.zeros(n, n_out, size)
    values, alone = values.double(), alone.double()

    def f(b, which):
        tokens = batch.tokens[b].clone()
        for i in which:
            tokens[found.positions[i]] = found.swapped[b, i]
        logits = run(tokens[None])[0, -n_out:].detach()
        return torch.stack([centred(x, a) for x, a in zip(logits, batch.answers[b], strict=True)])

    for b in range(n):
        none = f(b, ())
        for i in range(size):
            alone[b, :, i] = f(b, (i,)) - none
        for i, j in combinations(range(size), 2):
            both = f(b, (i, j)) - f(b, (i,)) - f(b, (j,)) + none
            values[b, :, i, j] = values[b, :, j, i] = both
    return values, alone


@pytest.mark.parametrize("with_prefix", [False, True])
def test_it_is_that_of_a_loop(with_prefix):
    model, batch = case()
    prefix = pi.Prefix.random(model, 2, seed=3) if with_prefix else None

    def run(tokens):
        if prefix is None:
            return model(tokens)
        with pi.attach(model, prefix):
            return model(tokens)

    found = interaction(model, batch, prefix, progress=False)
    assert found.positions == (0, 1, 2, 3)  # position 3 predicts the first answer
    values, alone = by_loop(run, batch, found)
    assert_close(found.values, values, 1e-9)
    assert_close(found.alone, alone, 1e-9)
    assert found.values.abs().max() > 1e-2
    frame = found.to_dataframe()
    assert len(frame) == 2 * 6
    for row in frame.to_dict("records"):
        o, i, j = row["output"], row["first"], row["second"]
        assert row["interaction"] == pytest.approx(float((values[:, o, i, j] ** 2).mean() ** 0.5))
        assert row["alone_second"] == pytest.approx(float((alone[:, o, j] ** 2).mean() ** 0.5))
    pairs = torch.stack([values[..., i, j] for i, j in combinations(range(4), 2)])
    expected = ((pairs**2).mean() / (alone**2).mean()) ** 0.5
    assert found.relative == pytest.approx(float(expected))


def test_a_model_that_adds_up_its_inputs_has_none():
    """Even attention, no norm, no MLP: logits are a sum over inputs. A prefix leaves it one."""
    model, batch = case(attn_only=True, normalization_type=None)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
        model.blocks[0].attn.b_Q.zero_()
    prefix = pi.Prefix.random(model, 2, seed=3)
    for context in (None, prefix):
        found = interaction(model, batch, context, progress=False)
        assert found.values.abs().max() < 1e-12 < 1e-2 < found.alone.abs().max()
        assert found.relative < 1e-12


@given(architectures(), st.integers(0, 99))
def test_it_is_symmetric_and_later_positions_do_not_reach_earlier_answers(arch, seed):
    model = raw_model(seed, **arch)
    batch = pi.Batch(tokens_for(model, 4, 4, seed), tokens_for(model, 4, 2, seed))
    found = interaction(model, batch, positions=[0, 1, 3], seed=seed, progress=False)
    assert torch.equal(found.values, found.values.mT)
    assert not found.values.diagonal(dim1=-2, dim2=-1).any()
    if arch["attention_dir"] == "causal":  # the first answer is read at position 2
        scale = found.alone.abs().max()
        assert found.alone[:, 0, 2].abs().max() <= 1e-12 * scale
        assert found.values[:, 0, 2].abs().max() <= 1e-12 * scale
    own = batch.tokens[:, list(found.positions)]
    assert (found.swapped != own).all()
    for i in range(3):
        assert set(found.swapped[:, i].tolist()) <= set(own[:, i].tolist())


def test_measurements_of_the_same_swaps_can_be_compared():
    model, batch = case()
    prefix = pi.Prefix.random(model, 2, seed=3)
    plain, on = (interaction(model, batch, c, progress=False) for c in (None, prefix))
    assert torch.equal(plain.swapped, on.swapped)
    change = on.minus(plain)
    assert_close(change.values, on.values - plain.values, 0)
    assert_close(change.alone, on.alone - plain.alone, 0)
    assert plain.similarity(plain) == pytest.approx(1)
    a, b = on.values.flatten(), plain.values.flatten()
    assert on.similarity(plain) == pytest.approx(float(a @ b / (a.norm() * b.norm())))
    for other in (
        interaction(model, batch, seed=1, progress=False),
        interaction(model, batch, positions=[0, 1], progress=False),
        interaction(model, batch.part(slice(4)), progress=False),
    ):
        with pytest.raises(PrefixInterpError, match="other swaps"):
            on.minus(other)
        with pytest.raises(PrefixInterpError, match="other swaps"):
            on.similarity(other)


def test_a_toys_content_stays_at_its_place():
    model = toy(n_layers=1)
    batch = pi.Batch(tokens_for(model, 4, 5), tokens_for(model, 4, 2))
    found = interaction(model, batch, progress=False)

    def run(tokens):  # the toy's reserved positions are skipped
        resid = model.W_E[tokens] + model.W_pos[2 : 2 + tokens.shape[1]]
        return model(resid, start_at_layer=0)

    values, _ = by_loop(run, batch, found)
    assert_close(found.values, values, 1e-9)


def test_answers_that_are_not_there_do_not_count():
    model, batch = case(n=4)
    answers = batch.answers.clone()
    answers[0, 1] = -100
    positions = torch.tensor([[2, 4]] * 4)
    full = interaction(model, batch._replace(positions=positions), progress=False)
    ragged = batch._replace(answers=answers, positions=positions)
    found = interaction(model, ragged, progress=False)
    assert found.positions == (0, 1, 2)
    assert not found.values[0, 1].any() and torch.equal(found.values[1:], full.values[1:])
    mean = full.values[1:, 1].square().mean(0).sqrt()
    assert_close(found.strength(1), mean, 1e-12)
    assert torch.equal(found.strength(0), full.strength(0))


def test_a_soft_prompt_and_a_language_model():
    model = language_model("llama", torch.float64)
    batch = pi.Batch(random_tokens(3, 5), random_tokens(3, 1))
    soft = pi.SoftPrompt.random(model, 2, seed=0)
    for context in (None, soft, pi.Prefix.random(model, 2, parameterization="kv", seed=0)):
        found = interaction(model, batch, context, progress=False)
        assert found.values.shape == (3, 1, 5, 5) and found.relative > 1e-3


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 5], "positions=5 must be between 0 and 4"),
        ([0], r"positions=\[0\] are no pairs"),
        ([1, 1], r"positions=\[1, 1\] are no pairs"),
        ([0, 2], "positions name 2, which holds the same token"),
    ],
)
def test_positions_that_cannot_be_swapped_are_refused(positions, message):
    model, batch = case()
    batch.tokens[:, 2] = 3
    with pytest.raises(PrefixInterpError, match=message):
        interaction(model, batch, positions=positions, progress=False)
    assert interaction(model, batch, progress=False).positions == (0, 1, 3)
    with pytest.raises(PrefixInterpError, match="output=2"):
        interaction(model, batch, progress=False).strength(2)
