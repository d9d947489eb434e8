"""What all constructions share: encoding, greedy runs, and the tools that work on any model."""

import numpy as np
import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.attach import attach
from prefix_interp.tasks import Batch
from prefix_interp.theory.constructions import (
    any_map,
    any_map_of_pairs,
    any_map_to_sequences,
    any_sequence,
)
from prefix_interp.theory.constructions.behaviours import all_behaviours, random_behaviours
from prefix_interp.views.attention import AttentionView, attention_figure, attention_view

SMALL = {
    "any_sequence": lambda **more: any_sequence(5, 4, **more),
    "any_map": lambda **more: any_map(4, **more),
    "any_map_to_sequences": lambda **more: any_map_to_sequences(4, 3, **more),
    "any_map_of_pairs": lambda **more: any_map_of_pairs(3, **more),
}
every = pytest.mark.parametrize("build", SMALL.values(), ids=SMALL)


def by_hand(model, slots, tokens):
    """The logits of a transformer without norms, from its weights, in numpy with loops."""
    w = {k: p.detach().numpy() for k, p in model.named_parameters()}
    x = (
        np.concatenate([slots, w["embed.W_E"][tokens]])
        + w["pos_embed.W_pos"][: len(slots) + len(tokens)]
    )
    for block in range(model.cfg.n_layers):
        attn = {k.rsplit(".", 1)[1]: v for k, v in w.items() if f"blocks.{block}.attn." in k}
        mlp = {k.rsplit(".", 1)[1]: v for k, v in w.items() if f"blocks.{block}.mlp." in k}
        written = np.zeros_like(x)
        for head in range(model.cfg.n_heads):
            for i in range(len(x)):
                query = x[i] @ attn["W_Q"][head]
                scores = np.array([query @ (x[j] @ attn["W_K"][head]) for j in range(i + 1)])
                share = np.exp(scores - scores.max())
                mixed = (share / share.sum()) @ x[: i + 1]
                written[i] += mixed @ attn["W_V"][head] @ attn["W_O"][head]
        x = x + written
        hidden = np.maximum(x @ mlp["W_in"] + mlp["b_in"], 0)
        x = x + hidden @ mlp["W_out"] + mlp["b_out"]
    return x @ w["unembed.W_U"] + w["unembed.b_U"]


@pytest.mark.parametrize("decoder", ["parabola", "distance"])
@every
def test_logits_are_those_of_the_weights(build, decoder):
    built = build(decoder=decoder)
    (behaviour,) = random_behaviours(built, 1, seed=1)
    prompt = built.encode(behaviour)
    tokens = torch.arange(1, built.n_in + built.n_out) % built.n_tokens
    with torch.no_grad(), attach(built.model, prompt, predict_first=True):
        logits = built.model(tokens[None])[0]
    expected = by_hand(built.model, prompt.vectors[0].numpy(), tokens.numpy())
    np.testing.assert_allclose(logits, expected[built.n_slots - 1 :], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("offset", [-0.5, 5.0])
@every
def test_greedy_runs_are_those_of_one_prompt_at_a_time(build, offset):
    """Token by token through `attach`, right or wrong; and one pass knows which."""
    built = build(temperature=max(0.0, build().smallest_temperature + offset))
    behaviours = torch.cat([random_behaviours(built, 3, seed=2), built.hardest[None]])
    inputs = built.inputs()
    out = built.run(behaviours)
    for behaviour, rows in zip(behaviours, out, strict=True):
        tokens = inputs
        with torch.no_grad(), attach(built.model, built.encode(behaviour), predict_first=True):
            for _ in range(built.n_out):
                following = built.model(tokens)[:, -1].argmax(-1, keepdim=True)
                tokens = torch.cat([tokens, following], dim=1)
        assert torch.equal(tokens[:, built.n_in :], rows)
    same = (out == built.wanted(behaviours)).all(-1)
    assert torch.equal(built.right(behaviours), same)
    assert same.all() == (offset > 0 or built.smallest_temperature == 0)


@every
def test_chunks_do_not_change_what_comes_out(build, monkeypatch):
    built = build()
    behaviours = random_behaviours(built, 5, seed=3)
    whole = built.run(behaviours), built.right(behaviours)
    monkeypatch.setattr("prefix_interp.theory.constructions.construction._NUMBERS", 700)
    assert torch.equal(built.run(behaviours), whole[0])
    assert torch.equal(built.right(behaviours), whole[1])


@every
def test_what_is_wanted_is_read_off_the_table(build):
    built = build()
    (behaviour,) = random_behaviours(built, 1, seed=4)
    answers = built.wanted(behaviour[None])[0]
    for row, x in zip(answers, built.inputs().tolist(), strict=True):
        expected = behaviour[tuple(x)] if x else behaviour
        assert torch.equal(row, expected.reshape(-1))


@every
def test_blocks_of_coordinates_are_disjoint_and_written_once(build):
    built = build()
    spans = list(built.coordinates.values())
    assert sorted(i for span in spans for i in span) == list(range(built.model.cfg.d_model))
    tokens, positions = built.coordinates["token"], built.coordinates["position"]
    written = list(built.model.embed.W_E.any(0).nonzero().flatten())
    assert all(int(i) in tokens for i in written)
    assert built.model.pos_embed.W_pos.any(0).nonzero().flatten().tolist() == list(positions)
    targets = [tokens, positions]
    for block in built.model.blocks:
        for w in (block.attn.W_O, block.mlp.W_out):
            targets.append(w.flatten(0, -2).any(0).nonzero().flatten().tolist())
    flat = [int(i) for target in targets for i in target]
    assert len(flat) == len(set(flat))
    # Heads behind the first block do nothing, which the greedy runs rely on.
    later = [b.attn for b in built.model.blocks][1:]
    assert not any(w.any() for attn in later for w in (attn.W_Q, attn.W_V, attn.W_O, attn.b_O))


def test_caches_patches_and_figures_as_of_any_model():
    built = any_map(6)
    one, other = random_behaviours(built, 2, seed=5)
    tokens = built.inputs()
    with torch.no_grad(), attach(built.model, built.encode(other)):
        _, donor = built.model.run_with_cache(tokens)
    site, head = pi.Site.Z.at(0), built.heads.index("answer")

    def patch(z, hook):
        z[:, :, head] = donor[site][:, :, head]
        return z

    with torch.no_grad(), attach(built.model, built.encode(one)):
        logits = built.model.run_with_hooks(tokens, fwd_hooks=[(site, patch)])
    assert torch.equal(logits[:, -1].argmax(-1), other), "the head carries the behaviour"

    pattern = donor[pi.Site.PATTERN.at(0)]
    view = AttentionView("any map", ["x"], pattern[..., 1:, :1], pattern[..., 1:, 1:])
    assert view.gate[0, head, 0] > 0.99 and view.gate[0, 1 - head, 0] < 0.01
    assert attention_figure(view, head=head).axes


def test_a_one_block_construction_takes_its_virtual_token_as_a_prefix():
    """What stands at the embedding is all that block 0 sees, so a residual prefix is the same."""
    built = any_map_to_sequences(5, 2)
    (behaviour,) = random_behaviours(built, 1, seed=6)
    slots = built.encode(behaviour).vectors + built.model.W_pos[: built.n_slots].detach()
    prefix = pi.Prefix("residual", vectors=slots)
    answers = built.wanted(behaviour[None])[0]
    tokens = torch.cat([built.inputs(), answers[:, :-1]], dim=1)
    with torch.no_grad(), pi.attach(built.model, prefix):
        assert torch.equal(built.model(tokens).argmax(-1), answers)
    view = attention_view(pi.run_pair(built.model, prefix, tokens))
    assert view.slots.shape == (1, 2, 2, 2) and attention_figure(view).axes
    batch = Batch(tokens, answers, torch.zeros(len(tokens), dtype=torch.long))
    grid = pi.patch_heads(built.model, prefix, batch, n=5, progress=False)
    by_head = dict(zip(built.heads, grid.to_dataframe()["effect"], strict=True))
    assert by_head["answer"] > 10 * abs(by_head["input"])


@every
def test_bad_input_is_refused_in_one_line(build, unchecked):
    built = build()
    good = built.hardest[None]
    cases = {
        "shape": (good[..., :-1], None),
        "outside the": (good + 1, None),
        "floating": (good.double(), None),
        "stack of at least 1": (good[:0], None),
    }
    if built.n_in:
        cases["inputs"] = (good, built.inputs() - 1)
    for words, (behaviours, inputs) in cases.items():
        words = {"floating": "float64"}.get(words, words)
        with pytest.raises(pi.PrefixInterpError, match=words) as error:
            built.run(behaviours, inputs)
        assert "\n" not in str(error.value)
    for settings in ({"temperature": -1.0}, {"temperature": float("nan")}, {"decoder": "parbola"}):
        with pytest.raises(pi.PrefixInterpError, match=next(iter(settings))):
            build(**settings)


def test_prompts_save_and_load_and_say_how_many_there_are(tmp_path):
    built = any_sequence(3, 2)
    assert built.n_behaviours == len(all_behaviours(built)) == 9
    prompt = built.encode(torch.tensor([2, 1]))
    again = type(prompt).load(prompt.save(tmp_path))
    assert torch.equal(again.vectors, prompt.vectors)
    assert torch.equal(built.encode([2, 1]).vectors, prompt.vectors)
    assert prompt.vectors[0, 0, list(built.coordinates["token"])].tolist() == [2 / 3, 1 / 3]
