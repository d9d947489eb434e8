from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.theory.capacity import (
    count_distinct,
    hard_continuations,
    search_soft_tokens,
    soft_continuations,
)
from tests.helpers import architectures, assert_close, assert_far, raw_model, toy


def test_continuations_of_hard_tokens_are_those_of_plain_greedy_decoding():
    model = raw_model(dtype=torch.float64)
    found = hard_continuations(model, 6)
    tokens = torch.arange(model.cfg.d_vocab)[:, None]
    for _ in range(6):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(found, tokens[:, 1:])
    assert count_distinct(found) == len({tuple(row) for row in found.tolist()})


@given(settings=architectures(), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_cache_changes_nothing(settings, seed):
    model = raw_model(seed, **settings)
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(5, 1 + seed % 3, model.cfg.d_model, generator=rng).to(model.W_E)
    cached = soft_continuations(model, vectors, 4)
    seen = []
    # A hook is shown whole sequences, as `attach` would show it: nothing is cached.
    hook = (pi.Site.RESID_POST.at(0), lambda x, hook: seen.append(x.shape[1]))
    with model.hooks(fwd_hooks=[hook]):
        assert torch.equal(soft_continuations(model, vectors, 4), cached)
    assert seen == [vectors.shape[1] + i for i in range(4)]


def test_a_plain_torch_hook_is_not_passed_over():
    model = raw_model()
    prompts = torch.randn(20, 1, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    alone = soft_continuations(model, prompts.to(model.W_E), 4)
    centred = lambda module, args, out: out - out.mean(dim=1, keepdim=True)  # noqa: E731
    handle = model.blocks[0].register_forward_hook(centred)
    with model.hooks(fwd_hooks=[(pi.Site.RESID_POST.at(0), lambda x, hook: None)]):
        recomputed = soft_continuations(model, prompts.to(model.W_E), 4)
    assert torch.equal(soft_continuations(model, prompts.to(model.W_E), 4), recomputed)
    assert not torch.equal(recomputed, alone)
    handle.remove()


def test_a_tokenizer_that_pads_on_the_left_is_refused():
    model = raw_model()
    model.tokenizer = SimpleNamespace(padding_side="left", pad_token_id=5, bos_token_id=1)
    with pytest.raises(pi.PrefixInterpError, match="padding_side='left'"):
        search_soft_tokens(model, torch.tensor([[3, 1], [0, 1]]), steps=1, progress=False)
    model.tokenizer.padding_side = "right"
    hooks = soft_hooks(model, torch.randn(1, 1, model.cfg.d_model).to(model.W_E))
    model.tokenizer.padding_side = "left"  # between the making of hooks and the call
    with pytest.raises(pi.PrefixInterpError, match="padding_side='left'"):
        model.run_with_hooks(torch.tensor([[5]]), fwd_hooks=hooks)


@pytest.mark.parametrize("make", [raw_model, toy])
def test_a_search_makes_the_model_emit_targets(make):
    rng = torch.Generator().manual_seed(0)
    model = make(dtype=torch.float32, d_model=16)
    # What other soft tokens call up can be reached.
    targets = soft_continuations(model, 3 * torch.randn(4, 1, 16, generator=rng), 2)
    found = search_soft_tokens(model, targets, steps=150, lr=0.1, progress=False)
    start = search_soft_tokens(model, targets, steps=1, lr=1e-9, progress=False)
    assert float(found.losses.mean()) < float(start.losses.mean()) - 0.3
    assert found.reached == sum(map(torch.equal, found.emitted, targets)) >= 1
    assert torch.equal(found.emitted, soft_continuations(model, found.vectors, 2))
    assert found.distinct <= 4 and model.W_E.grad is None


def test_a_target_ends_as_it_would_beside_any_others():
    model, targets = raw_model(), torch.tensor([[3, 1], [5, 0], [2, 2]])
    others = torch.tensor([[3, 1], [0, 7], [9, 9]])
    found, beside = (
        search_soft_tokens(model, each, steps=5, progress=False) for each in (targets, others)
    )
    assert_close(found.vectors[0], beside.vectors[0], 1e-8)
    assert_far(found.vectors[1], beside.vectors[1])


@pytest.mark.parametrize(
    ("targets", "how", "message"),
    [
        (torch.tensor([[1, 99]]), {}, "outside the vocabulary"),
        (torch.zeros(1, 17, dtype=torch.long), {}, "at most 16"),
        (torch.zeros(0, 2, dtype=torch.long), {}, "at least one row"),
        (torch.zeros(1, 2, dtype=torch.long), {"steps": 0}, "steps=0"),
        (torch.zeros(1, 2, dtype=torch.long), {"lr": 0.0}, "lr=0.0"),
    ],
)
def test_bad_input(targets, how, message):
    with pytest.raises(pi.PrefixInterpError, match=message):
        search_soft_tokens(raw_model(), targets, progress=False, **how)
    with pytest.raises(pi.PrefixInterpError, match="at most"):
        hard_continuations(raw_model(), 99)


@pytest.mark.usefixtures("unchecked")
def test_soft_prompts_that_cannot_be_meant_are_refused():
    model = raw_model()
    for shape in ((3, 8), (0, 1, 8), (3, 0, 8), (3, 1, 7)):
        with pytest.raises(pi.PrefixInterpError, match="vectors have shape"):
            soft_continuations(model, torch.ones(shape).double(), 2)
    with pytest.raises(pi.PrefixInterpError, match="NaN"):
        soft_continuations(model, torch.full((1, 1, 8), torch.nan).double(), 2)
    with pytest.raises(pi.PrefixInterpError, match="give one axis"):
        hard_continuations(model, 2, torch.ones(2, 2).long())
    with pytest.raises(pi.PrefixInterpError, match=r"as torch\.int64"):
        search_soft_tokens(model, torch.ones(2, 2, dtype=torch.uint8), progress=False)


def test_a_search_starts_where_it_is_told_and_stops_when_it_is_there():
    rng = torch.Generator().manual_seed(0)
    model = raw_model(dtype=torch.float32, d_model=16)
    known = 3 * torch.randn(4, 1, 16, generator=rng)
    targets = soft_continuations(model, known, 2)
    there = search_soft_tokens(
        model, targets, starts=known, until_reached=True, steps=50, progress=False
    )
    assert torch.equal(there.vectors, known) and there.reached == 4  # nothing was left to search
    moved = search_soft_tokens(model, targets, starts=known, steps=5, progress=False)
    assert_far(moved.vectors, known)
    # What is reached early stays as it is while others are searched for.
    mixed = torch.cat([known[:2], torch.randn(2, 1, 16, generator=rng)])
    found = search_soft_tokens(
        model, targets, starts=mixed, until_reached=True, steps=150, progress=False
    )
    assert torch.equal(found.vectors[:2], known[:2])
    assert_far(found.vectors[2:], mixed[2:])
    alone = search_soft_tokens(
        model, targets[2:], starts=mixed[2:], until_reached=True, steps=150, progress=False
    )
    assert_close(found.vectors[2:], alone.vectors, 1e-4)
    assert found.is_reached[:2].all()


def test_starts_of_another_shape_are_refused(unchecked):
    model = raw_model(dtype=torch.float32)
    with pytest.raises(pi.PrefixInterpError, match="starts have shape"):
        search_soft_tokens(model, torch.tensor([[1, 2]]), starts=torch.zeros(2, 1, 8), steps=1)
