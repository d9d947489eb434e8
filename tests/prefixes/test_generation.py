"""Greedy text with a cache is that of a loop of whole runs, one sequence at a time."""

from contextlib import nullcontext

import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.host import host_of
from prefix_interp.prefixes.exact import check_exact, reads_cache
from prefix_interp.prefixes.generation import generate
from tests.helpers import raw_model, tokens_for, toy
from tests.tiny_language_models import every_kind, language_model, random_tokens

LENGTHS = torch.tensor([7, 3, 5])
NEW = 4


def loop(model, context, tokens, lengths, n_new=NEW):
    """What plain runs say, without a cache and without padding."""
    rows = []
    for row, length in zip(tokens, lengths.tolist(), strict=True):
        row = row[None, :length]
        under = (
            nullcontext()
            if context is None
            else pi.attach(model, context, predict_first=not length)
        )
        with under, torch.no_grad():
            for _ in range(n_new):
                row = torch.cat([row, model(row)[:, -1:].argmax(-1)], dim=1)
        rows.append(row[:, length:])
    return torch.cat(rows)


def contexts_for(model):
    return {
        "none": None,
        "residual": pi.Prefix.random(model, 2),
        "kv": pi.Prefix.random(model, 2, parameterization="kv"),
        "kept": pi.Prefix.random(model, 2, parameterization="kv", positions="keep"),
        "prompt": pi.SoftPrompt.random(model, 2),
        "deep": pi.SoftPrompt.random(model, 2, layers="all"),
        "suffix": pi.SoftPrompt.random(model, 2, position=3),
    }


def check_equal(model, tokens, *names):
    contexts = contexts_for(model)
    found = set()
    for name in names or contexts:
        said = generate(model, contexts[name], tokens, NEW, lengths=LENGTHS)
        assert torch.equal(said, loop(model, contexts[name], tokens, LENGTHS)), name
        found.add(tuple(said.flatten().tolist()))
    assert len(found) > 1


@every_kind
def test_a_language_model_continues_each_row_from_its_own_end(kind):
    names = () if kind in ("gpt2", "llama") else ("none", "kv", "prompt")
    check_equal(language_model(kind, gain=12.0), random_tokens(3), *names)


def test_so_do_toys_and_other_models():
    model = toy(n_content=12)
    check_equal(model, tokens_for(model, 3, 7))
    for settings in (
        dict(positional_embedding_type="rotary", rotary_dim=4, n_key_value_heads=1),
        dict(post_embedding_ln=True),
        dict(n_key_value_heads=1, ungroup_grouped_query_attention=True),
    ):
        model = raw_model(**settings)
        check_equal(model, tokens_for(model, 3, 7), "none", "residual", "prompt")


def test_padding_is_not_read():
    model = language_model("llama")
    prefix, tokens = pi.Prefix.random(model, 2), random_tokens(3)
    want = generate(model, prefix, tokens, NEW, lengths=LENGTHS)
    padding = torch.arange(7) >= LENGTHS[:, None]
    assert torch.equal(
        generate(model, prefix, tokens.masked_fill(padding, 1), NEW, lengths=LENGTHS), want
    )
    assert not torch.equal(generate(model, prefix, tokens, NEW), want)


def test_a_soft_prompt_needs_no_tokens():
    none, model = torch.zeros(2, 0, dtype=torch.long), toy(n_content=12)
    for layers in ("embedding", "all"):
        prompt = pi.SoftPrompt.random(model, 3, layers=layers, std=3.0)
        found = generate(model, prompt, none, NEW)
        assert torch.equal(found, loop(model, prompt, none, torch.tensor([0, 0])))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_neither_do_those_of_language_models(kind):
    model, none = language_model(kind, gain=12.0), torch.zeros(2, 0, dtype=torch.long)
    prompt = pi.SoftPrompt.random(model, 3, std=0.3)
    rows = prompt.vectors.expand(2, -1, -1)
    emitted = []
    for _ in range(NEW):
        with torch.no_grad():
            logits = model.original_model(inputs_embeds=rows).logits
            emitted.append(logits[:, -1].argmax(-1))
            rows = torch.cat([rows, model.embed(emitted[-1][:, None])], dim=1)
    assert torch.equal(generate(model, prompt, none, NEW), torch.stack(emitted, dim=1))


def test_a_row_ends_at_the_stop_token():
    model, tokens = language_model("qwen2", gain=12.0), random_tokens(4)
    free = generate(model, None, tokens, 8)
    stop = int(free[0, 2])
    found = generate(model, None, tokens, 8, stop=stop)
    for row, own in zip(free.tolist(), found.tolist(), strict=True):
        end = row.index(stop) if stop in row else 8
        assert own == row[:end] + [stop] * (8 - end)
    alone = generate(model, None, tokens[:1], 8, stop=stop)
    assert alone.tolist() == found[:1].tolist()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_hooks_of_the_users_see_whole_sequences(kind):
    model, tokens, seen = language_model(kind, gain=12.0), random_tokens(3), []
    prefix = pi.Prefix.random(model, 2)
    alone = generate(model, prefix, tokens, 3)
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def write(x, hook):
        seen.append(x.shape[1])
        return x + noise

    with model.hooks(fwd_hooks=[(pi.Site.RESID_PRE.at(1), write)]):
        found = generate(model, prefix, tokens, 3)
        assert seen == [9, 10, 11]
        assert torch.equal(found, loop(model, prefix, tokens, torch.tensor([7, 7, 7]), 3))
    assert not torch.equal(found, alone)
    assert torch.equal(generate(model, prefix, tokens, 3), alone)


def test_half_precision_runs():
    model = language_model("llama", torch.bfloat16)
    prefix = pi.Prefix.random(model, 2)
    assert generate(model, prefix, random_tokens(3), 4, lengths=LENGTHS).shape == (3, 4)


def test_texts_go_through_the_tokenizer_and_bring_their_lengths():
    model = language_model("llama", gain=12.0)
    prefix = pi.Prefix.random(model, 2)
    tokens = torch.tensor([[5, 7, 9, 11], [6, 8, 0, 0], [30, 31, 32, 0]])
    lengths = torch.tensor([4, 2, 3])
    found = generate(model, prefix, ["w5 w7 w9 w11", "w6 w8", "w30 w31 w32"], NEW)
    assert torch.equal(found, loop(model, prefix, tokens, lengths))
    assert torch.equal(generate(model, prefix, "w6 w8", NEW), found[1:2])
    with pytest.raises(pi.PrefixInterpError, match="texts bring their own"):
        generate(model, prefix, ["w6 w8"], NEW, lengths=torch.tensor([2]))


def test_bad_input_is_refused(unchecked):
    model, tokens = language_model("llama"), random_tokens(3)
    prefix = pi.Prefix.random(model, 2)
    for call, says in (
        (lambda: generate(model, prefix, tokens, 0), "max_new_tokens=0"),
        (lambda: generate(model, prefix, tokens, 57), "give at most 62"),
        (lambda: generate(model, prefix, tokens + 99, 1), "outside the vocabulary"),
        (lambda: generate(model, prefix, tokens[:, :0], 1), "axes batch, pos"),
        (lambda: generate(model, prefix, tokens, 1, stop=99), "stop=99"),
        (lambda: generate(model, prefix, tokens, 1, lengths=LENGTHS[:2]), "each of the 3 rows"),
        (lambda: generate(model, prefix, tokens, 1, lengths=LENGTHS + 1), "from 1 to 7"),
        (lambda: generate(model, prefix, tokens, 1, lengths=LENGTHS * 0), "from 1 to 7"),
        (lambda: generate(model, 3, tokens, 1), "context is a int"),
    ):
        with pytest.raises(pi.PrefixInterpError, match=says):
            call()
    with pi.attach(model, prefix), pytest.raises(pi.PrefixInterpError, match="has one already"):
        generate(model, None, tokens, 1)
    assert generate(model, prefix, tokens, 56).shape == (3, 56)  # just fits: the last is not fed


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen3"])
def test_a_model_that_ignores_its_cache_is_not_asked_for_it(kind, monkeypatch):
    model, tokens = language_model(kind, gain=12.0), random_tokens(3)
    prefix = pi.Prefix.random(model, 2)
    want = generate(model, prefix, tokens, NEW)
    other = language_model(kind, gain=12.0)
    forward = other.original_model.forward

    def without(*args, past_key_values=None, attention_mask=None, **kwargs):
        return forward(*args, **kwargs)

    monkeypatch.setattr(other.original_model, "forward", without)
    assert reads_cache(host_of(model)) and not reads_cache(host_of(other))
    check_exact(other, "kv")
    check_exact(other, "residual")
    assert torch.equal(generate(other, prefix, tokens, NEW), want)
