import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from tests.helpers import (
    architectures,
    assert_close,
    assert_far,
    forward_hooks,
    raw_model,
    tokens_for,
    toy,
)
from tests.tiny_language_models import language_model, random_tokens

Site = pi.Site


@given(settings=architectures(), seed=st.integers(0, 99), position=st.integers(0, 3))
@settings(max_examples=25)
def test_a_hard_prompt_is_its_tokens(settings, seed, position):
    # Real tokens among the content, in a plain run, are the oracle.
    model = raw_model(seed, **settings)
    tokens = tokens_for(model, length=5, seed=seed)
    hard = tokens_for(model, 1, 2, seed + 1)[0]
    whole = torch.cat([tokens[:, :position], hard.expand(2, -1), tokens[:, position:]], dim=1)
    expected = model(whole)
    with pi.attach(model, SoftPrompt.from_tokens(model, hard, position)):
        found = model(tokens)
    # Row i predicts content token i + 1: behind the slots, or at the last of them.
    rows = [i for i in range(position - 1)] + list(range(position + 1, whole.shape[1]))
    assert_close(found, expected[:, rows if position else rows[1:]])


@given(settings=architectures(), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_in_front_at_every_layer_it_is_a_residual_prefix(settings, seed):
    model = raw_model(seed, **settings)
    tokens = tokens_for(model, seed=seed)
    prefix = pi.Prefix.random(model, 3, seed)
    with pi.attach(model, prefix):
        expected = model(tokens)
    with pi.attach(model, SoftPrompt(prefix.vectors, layers="all")):
        assert_close(model(tokens), expected)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_behind_the_slots_a_suffix_at_every_layer_is_a_prefix_in_one_layer_alone(n_layers):
    model, position = toy(n_layers=n_layers, normalization="LN"), 3
    tokens = tokens_for(model, length=7)
    prefix = pi.Prefix.random(model, 2)
    with pi.attach(model, prefix):
        expected = model(tokens)[:, position:]
    with pi.attach(model, SoftPrompt(prefix.vectors, position, "all")):
        found = model(tokens)
    close = assert_close if n_layers == 1 else assert_far
    close(found[:, position:], expected)
    with pi.attach(model, prefix.for_any_model()):
        assert_far(found[:, :position], model(tokens)[:, :position])


def test_a_toy_keeps_the_positions_of_its_content():
    model, position = toy(), 3
    tokens = tokens_for(model, length=6)
    prompt = SoftPrompt.random(model, 2, position=position)
    seen = {}
    with pi.attach(model, prompt):
        for name in (Site.POS_EMBED.at(), Site.EMBED.at()):
            model.add_hook(name, lambda x, hook: seen.__setitem__(hook.name, x.clone()))
        model(tokens)
    model.reset_hooks()
    pos, embed = seen[Site.POS_EMBED.at()], seen[Site.EMBED.at()]
    assert torch.equal(pos[0, [0, 1, 2, 5, 6, 7]], model.W_pos[2:8])
    assert not pos[:, 3:5].any()
    assert torch.equal(embed[1, 3:5], prompt.vectors[0])


def test_the_first_row_predicts_the_first_token_and_content_may_be_empty():
    model = raw_model()
    prompt, tokens = SoftPrompt.random(model, 2), tokens_for(raw_model())
    with pi.attach(model, prompt, predict_first=True):
        whole, alone = model(tokens), model(tokens[:, :0])
    with pi.attach(model, prompt):
        assert_close(whole[:, 1:], model(tokens))
    assert whole.shape[1] == tokens.shape[1] + 1
    assert_close(alone[:, 0], whole[:, 0])  # causal: what follows changes nothing


@pytest.mark.parametrize("layers", ["embedding", "all"])
def test_a_stack_is_one_prompt_after_the_other_with_gradients(layers):
    model, position = toy(), 2
    tokens = tokens_for(model, 4, 5)
    prompts = [
        SoftPrompt.random(model, 2, seed, position=position, layers=layers) for seed in (1, 2)
    ]
    stack = torch.stack([p.vectors for p in prompts]).requires_grad_()
    found = model.run_with_hooks(tokens, fwd_hooks=soft_hooks(model, stack, position, layers))
    for i, prompt in enumerate(prompts):
        with pi.attach(model, prompt):
            assert_close(found[2 * i : 2 * i + 2], model(tokens[2 * i : 2 * i + 2]))
    (gradient,) = torch.autograd.grad(found[:2].square().sum(), stack)
    assert gradient[0].any() and not gradient[1].any()
    step = torch.zeros_like(stack)
    step[0, 0, 1, 3] = 1e-6
    ends = [
        model.run_with_hooks(tokens, fwd_hooks=soft_hooks(model, stack + d, position, layers))
        for d in (step, -step)
    ]
    slope = (ends[0][:2].square().sum() - ends[1][:2].square().sum()) / 2e-6
    assert_close(gradient[0, 0, 1, 3], slope, 1e-5)


@pytest.mark.parametrize("layers", ["embedding", "all"])
def test_it_leaves_nothing_behind(layers):
    model, tokens = raw_model(), tokens_for(raw_model())
    before, plain = forward_hooks(model), model(tokens)
    with pi.attach(model, SoftPrompt.random(model, 2, layers=layers, position=1)):
        model.run_with_cache(tokens)
    assert forward_hooks(model) == before and torch.equal(model(tokens), plain)


@pytest.mark.parametrize("layers", ["embedding", "all"])
def test_what_a_later_layer_holds_at_the_slots_depends_on_the_content_unless_it_is_overwritten(
    layers,
):
    model, position = toy(n_layers=2), 3
    one, two = tokens_for(model, 1, 5), tokens_for(model, 1, 5, seed=5)
    keys = []
    with pi.attach(model, SoftPrompt.random(model, 2, position=position, layers=layers)):
        for tokens in (one, two):
            keys.append(model.run_with_cache(tokens)[1][Site.K.at(1)][:, 3:5])
    (assert_far if layers == "embedding" else assert_close)(*keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(vectors=torch.ones(1, 0, 8)), "3 axes"),
        (dict(vectors=torch.ones(2, 1, 8)), "layer axis of 1"),
        (dict(vectors=torch.full((1, 1, 8), torch.nan)), "NaN"),
        (dict(position=-1), "position=-1"),
        (dict(layers="block"), "layers='block'"),
    ],
)
def test_what_cannot_be_a_soft_prompt_is_refused(change, message):
    with pytest.raises(pi.PrefixInterpError, match=message):
        SoftPrompt(**{"vectors": torch.ones(1, 2, 8)} | change)


def test_the_slots_own_row_is_refused_where_the_model_has_no_place_for_it():
    model, tokens = language_model("gpt2"), random_tokens()
    prompt = SoftPrompt.random(model, 2)
    with pytest.raises(pi.PrefixInterpError, match="shapes its output as its tokens"):
        with pi.attach(model, prompt, predict_first=True):
            model(tokens)
    for kind in ("llama", "opt"):
        other = language_model(kind)
        with pi.attach(other, SoftPrompt.random(other, 2), predict_first=True):
            assert other(tokens).shape[1] == tokens.shape[1] + 1


def test_what_does_not_fit_is_refused():
    model, tokens = raw_model(), tokens_for(raw_model())
    prompt = SoftPrompt.random(model, 2, position=3)

    def refused(prompt, message, tokens=tokens, predict_first=False):
        with pytest.raises(pi.PrefixInterpError, match=message):
            with pi.attach(model, prompt, predict_first=predict_first):
                model(tokens)
        assert torch.isfinite(model(tokens_for(model))).all()

    refused(prompt, "at least position=3", tokens[:, :2])
    refused(prompt, "predict_first=True does not go", predict_first=True)
    refused(SoftPrompt.random(model, 12), "at most 4")
    refused(SoftPrompt.random(raw_model(d_model=16), 1), "shape")
    refused(SoftPrompt(torch.ones(1, 1, 8)), "float32")
    refused(SoftPrompt(prompt.vectors, model_id="x"), "other weights")
    refused(prompt, "axes batch, pos", tokens[:, :0])
    with pytest.raises(pi.PrefixInterpError, match="outside the vocabulary"):
        SoftPrompt.from_tokens(model, torch.tensor([99]))
    with pi.attach(model, pi.Prefix.random(model, 1)), pytest.raises(pi.PrefixInterpError):
        with pi.attach(model, prompt):
            pass
    with pytest.raises(pi.PrefixInterpError, match=r"no effect|cannot be put"):
        with pi.attach(model, prompt):
            model.reset_hooks()
            model(tokens)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("vectors", "how", "message"),
    [
        (torch.ones(1, 2, 8), dict(layers="every"), "layers='every'"),
        (torch.ones(1, 2, 8), dict(position=-1), "position=-1"),
        (torch.ones(2, 2, 8), {}, "with 1 layer and"),
        (torch.ones(1, 2, 8), dict(layers="all"), "with 2 layers and"),
        (torch.ones(1, 2, 7), {}, "d_model of 8"),
        (torch.ones(1, 2, 8).float(), {}, "convert them"),
        (torch.ones(3, 1, 2, 8), {}, "no multiple of the 3 stacked prompts"),
    ],
)
def test_hooks_refuse_what_would_be_silently_wrong(vectors, how, message):
    model, tokens = raw_model(), tokens_for(raw_model(), 4)
    vectors = vectors if message == "convert them" else vectors.double()
    with pytest.raises(pi.PrefixInterpError, match=message):
        model.run_with_hooks(tokens, fwd_hooks=soft_hooks(model, vectors, **how))
