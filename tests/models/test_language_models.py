"""Language models under the port: what their own runs show, and Hugging Face without a bridge."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import prefix_interp as pi
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.host import host_of
from prefix_interp.models.model import clone, model_id
from tests import hub_oracle
from tests.helpers import assert_close, assert_far, forward_hooks
from tests.tiny_language_models import (
    KINDS,
    every_kind,
    hub_model,
    language_model,
    random_tokens,
)

Site = pi.Site
some_kinds = pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "opt"])


def cached(lm, tokens):
    with torch.no_grad():
        return host_of(lm).run_with_cache(tokens)


@every_kind
def test_the_wrapped_model_computes_what_it_computed(kind):
    tokens = random_tokens()
    want = hub_model(kind)(tokens).logits
    assert_close(language_model(kind)(tokens), want, 1e-6)


@every_kind
def test_sizes_and_kinds_are_those_that_a_run_shows(kind):
    lm = language_model(kind)
    host, tokens = host_of(lm), random_tokens()
    logits, cache = cached(lm, tokens)
    last = host.n_layers - 1
    assert Site.Z.at(last) in cache and Site.Z.at(last + 1) not in cache
    assert cache[Site.Z.at(0)].shape == (2, 7, host.n_heads, host.d_head)
    assert cache[Site.K.at(0)].shape == (2, 7, host.n_kv_heads, host.d_head)
    assert cache[Site.RESID_PRE.at(0)].shape[-1] == host.d_model
    assert cache[Site.MLP_ACT.at(0)].shape[-1] == host.d_mlp
    assert logits.shape[-1] == host.d_vocab and logits.dtype == host.dtype
    assert host.learned_positions == (Site.POS_EMBED.at() in cache)
    assert host.has_resid_mid == (Site.RESID_MID.at(0) in cache) == (not host.parallel)
    assert not cache[Site.PATTERN.at(0)].triu(1).any() and host.causal
    assert host.n_ctx == 64 and host.n_reserved is None and not host.attn_only
    assert_close(host.embed(tokens), cache[Site.EMBED.at()], 1e-6)
    if host.learned_positions:
        assert_close(host.W_pos[:7].expand(2, -1, -1), cache[Site.POS_EMBED.at()], 1e-6)
    assert forward_hooks(lm)[1] == 0


@every_kind
def test_a_run_from_any_layer_is_the_rest_of_the_run(kind):
    lm = language_model(kind, torch.float64)
    host, tokens = host_of(lm), random_tokens()
    want, cache = cached(lm, tokens)
    before = forward_hooks(lm)
    for layer in range(host.n_layers):
        resid = cache[Site.RESID_PRE.at(layer)].clone().requires_grad_()
        with host.hooked([]):
            found = host.run_from(layer, resid)
        assert_close(found, want, 1e-6 if kind == "opt" else 1e-12)
        (slope,) = torch.autograd.grad(found.sum(), resid)
        assert slope.abs().max() > 0
    assert forward_hooks(lm) == before
    assert_close(lm(tokens), want, 1e-5)


@every_kind
def test_a_layer_computes_what_its_hooks_show(kind):
    lm = language_model(kind, torch.float64)
    host, tokens = host_of(lm), random_tokens()
    _, cache = cached(lm, tokens)
    for layer in range(host.n_layers):
        attn = host.attention(layer)
        resid = cache[Site.RESID_PRE.at(layer)]
        for what, site in (("Q", Site.Q), ("K", Site.K), ("V", Site.V)):
            assert_close(attn.project(resid, what), cache[site.at(layer)], 1e-6)
        keys, values = attn.keys_values(resid)
        q = attn.scored_queries(cache[attn.query_site.at(layer)], 0)
        k = attn.seen_keys(cache[attn.key_site.at(layer)], 0)
        assert_close(keys, k, 1e-6)
        assert_close(values, cache[Site.V.at(layer)], 1e-6)
        scores = torch.stack(
            [attn.slot_scores(q[None, i : i + 1], expand_heads(k[i : i + 1], host.n_heads))[0, 0]
             for i in range(len(q))]
        )  # fmt: skip
        later = torch.ones(7, 7, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
        assert_close(pattern, cache[Site.PATTERN.at(layer)], 1e-6)
        if not attn.shows_scores:
            assert_close(attn.content_scores(q, k).softmax(-1), pattern, 1e-12)
        written = attn.written(cache[Site.Z.at(layer)]) + attn.b_O
        assert_close(written, cache[Site.ATTN_OUT.at(layer)], 1e-6)
        back = attn.seen_keys(attn.slot_keys(k), 0)
        assert_close(back, k, 1e-10)


@every_kind
def test_a_site_that_is_said_to_be_live_is(kind):
    lm = language_model(kind)
    host, tokens = host_of(lm), random_tokens()
    want, _ = cached(lm, tokens)
    for site in Site:
        name = site.at(0 if site.per_layer else None)

        def write(x, hook):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            return torch.where(x < -1e30, x, x + noise)

        found = want
        if name in host.points:
            with host.hooked([(name, write)]), torch.no_grad():
                found = lm(tokens)
        if host.is_live(site):
            assert_far(found, want)
        elif site is not Site.RESID_MID:
            assert torch.equal(found, want), site
    dead = {site.name for site in Site if not host.is_live(site)}
    rotated = {"ROT_Q", "ROT_K"}
    expected = {"RESID_MID"} | (set() if host.learned_positions else {"POS_EMBED"})
    expected |= rotated if kind in ("gpt2", "opt", "gpt_neox", "phi3") else set()
    expected |= {"ATTN_SCORES", "PATTERN"} if kind == "opt" else set()
    assert dead == expected


def test_a_write_between_attention_and_mlp_reaches_the_mlp_alone():
    lm = language_model("llama")
    host, tokens = host_of(lm), random_tokens()
    _, cache = cached(lm, tokens)
    held = (Site.MLP_OUT.at(2), lambda x, hook: cache[Site.MLP_OUT.at(2)])
    with host.hooked([(Site.RESID_MID.at(2), lambda x, hook: x * 0), held]), torch.no_grad():
        assert_close(lm(tokens), cached(lm, tokens)[0], 1e-6)  # a stream of zeros would show


@every_kind
@pytest.mark.parametrize("n_slots", [1, 4])
def test_every_way_to_put_in_a_prefix_gives_hugging_face_s_logits(kind, n_slots):
    lm, hf, tokens = language_model(kind), hub_model(kind), random_tokens()
    prefix = pi.Prefix.random(lm, n_slots, parameterization="kv")
    want = hub_oracle.run(hf, tokens, prefix)
    for method in ("slots", "mixture"):
        with pi.attach(lm, prefix, method), torch.no_grad():
            assert_close(lm(tokens), want, 1e-4)
    assert_far(lm(tokens), want)


@every_kind
@pytest.mark.parametrize("parameterization", ["kv", "residual"])
def test_equations_6_and_7_hold_in_every_head(kind, parameterization):
    lm, tokens = language_model(kind, torch.float64), random_tokens(3, 6)
    prefix = pi.Prefix.random(lm, 3, parameterization=parameterization)
    pair = pi.run_pair(lm, prefix, tokens)
    parts = pi.decompose_attention(pair)
    # OPT's own softmax, in float32, is out of reach of hooks.
    tolerance = 1e-6 if kind == "opt" else 1e-12
    assert max(parts.max_errors().values()) < tolerance
    assert float(parts.propagated[0].abs().max()) < tolerance
    assert float(parts.gate.max()) > 0.05
    for layer in (0, 2):
        for head in range(4):
            assert pi.bias_subspace(lm, prefix, tokens, layer, head).rank <= (
                3 if tolerance < 1e-9 else 8
            )
    # Eq. 7 by hand, of one head and query, from keys and values alone.
    host, layer, head, query = host_of(lm), 1, 2, 4
    attn = host.attention(layer)
    keys, values = (expand_heads(x, 4)[:, head] for x in prefix.keys_values(lm)[layer])
    own = pair.on[attn.key_site.at(layer)], pair.on[Site.V.at(layer)]
    q = attn.scored_queries(pair.on[attn.query_site.at(layer)], 3)[0, query, head]
    k = attn.seen_keys(expand_heads(own[0], 4), 3)[0, : query + 1, head]
    scores = torch.cat([keys, k]) @ q / attn.scale
    z = scores.softmax(0) @ torch.cat([values, expand_heads(own[1], 4)[0, : query + 1, head]])
    assert_close(z, pair.on[Site.Z.at(layer)][0, query, head], tolerance * 100)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_content_that_keeps_its_positions(kind):
    lm, hf, tokens = language_model(kind), hub_model(kind), random_tokens()
    prefix = pi.Prefix.random(lm, 2, parameterization="kv", positions="keep")
    # Where keys rotate they say their own positions, so the content stands behind them anyway.
    want = hub_oracle.run(hf, tokens, prefix, start=2 if kind == "llama" else 0)
    for method in ("slots", "mixture"):
        with pi.attach(lm, prefix, method), torch.no_grad():
            assert_close(lm(tokens), want, 1e-4)
    pair = pi.run_pair(lm, prefix, tokens)
    assert_close(pair.logits_off, hf(tokens).logits, 1e-4)
    assert max(pi.decompose_attention(pair).max_errors().values()) < 1e-5


@pytest.mark.parametrize("baseline", ["masked", "placeholder", "unshifted"])
def test_every_baseline_is_a_run_of_hugging_face(baseline):
    for kind in ("gpt2", "opt", "llama"):
        lm, hf, tokens = language_model(kind), hub_model(kind), random_tokens()
        prefix = pi.Prefix.random(lm, 2, parameterization="kv")
        found = pi.run_pair(lm, prefix, tokens, baseline).logits_off
        pads = torch.cat([torch.zeros(2, 2, dtype=torch.long), tokens], dim=1)
        want = {
            "masked": hub_oracle.run(hf, tokens, n_slots=2),
            "placeholder": hf(pads).logits[:, 2:],
            "unshifted": hf(tokens).logits,
        }
        assert_close(found, want[baseline], 1e-4)


def test_hooks_of_the_user_act_beside_the_prefix():
    lm, tokens = language_model("llama"), random_tokens()
    prefix = pi.Prefix.random(lm, 2, parameterization="kv")
    with pi.attach(lm, prefix), torch.no_grad():
        logits, cache = lm.run_with_cache(tokens)
        assert cache[Site.PATTERN.at(1)].shape == (2, 4, 9, 9)
        cut = (Site.Z.at(1), lambda z, hook: z * 0)
        assert_far(lm.run_with_hooks(tokens, fwd_hooks=[cut]), logits)
    found = lm.run_with_hooks(tokens, fwd_hooks=pi.prefix_hooks(lm, prefix))
    assert torch.equal(found, logits)


@some_kinds
def test_padding_on_the_right_is_not_seen(kind):
    lm, tokens = language_model(kind, torch.float64), random_tokens(1, 7)
    prefix = pi.Prefix.random(lm, 2, parameterization="kv")
    for method in ("slots", "mixture"):
        with pi.attach(lm, prefix, method), torch.no_grad():
            whole, part = lm(tokens), lm(tokens[:, :4])
        assert_close(whole[:, :4], part, 1e-6)


@some_kinds
def test_gradients_reach_the_prefix_by_both_ways(kind):
    lm, tokens = language_model(kind, torch.float64), random_tokens()
    drawn = pi.Prefix.random(lm, 2, parameterization="kv")
    found = []
    for method in ("slots", "mixture"):
        leaves = {k: v.clone().requires_grad_() for k, v in drawn.tensors.items()}
        with pi.attach(lm, pi.Prefix("kv", **leaves, key_form="scored"), method):
            loss = lm(tokens).square().mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves.values())]))
    assert_close(found[0], found[1], 1e-5)


@some_kinds
def test_a_soft_prompt_is_rows_of_embeddings(kind):
    lm, hf, tokens = language_model(kind), hub_model(kind), random_tokens()
    prompt = pi.SoftPrompt.random(lm, 3)
    rows = torch.cat([prompt.vectors.expand(2, -1, -1), hf.get_input_embeddings()(tokens)], dim=1)
    if kind == "gemma":
        rows[:, 3:] *= lm.cfg.d_model**0.5
    want = hf(inputs_embeds=rows).logits[:, 3:]
    with pi.attach(lm, prompt), torch.no_grad():
        assert_close(lm(tokens), want, 1e-4)
    every = pi.SoftPrompt.random(lm, 3, layers="all")
    with pi.attach(lm, every), torch.no_grad():
        front = lm(tokens)
    with pi.attach(lm, pi.Prefix("residual", vectors=every.vectors)), torch.no_grad():
        assert_close(front, lm(tokens), 1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["attention_mask", "past_key_values", "position_ids"])
def test_what_does_not_cover_the_slots_is_refused(name):
    lm, tokens = language_model("llama"), random_tokens()
    with pi.attach(lm, pi.Prefix.random(lm, 2, parameterization="kv")):
        with pytest.raises(pi.PrefixInterpError, match=f"{name} is given but does not cover the 2"):
            lm(tokens, **{name: torch.ones_like(tokens)})


def test_removed_hooks_and_generation_inside_the_block_are_noticed():
    lm, tokens = language_model("llama"), random_tokens()
    prefix = pi.Prefix.random(lm, 2, parameterization="kv")
    with pytest.raises(pi.PrefixInterpError, match="hooks were removed"), pi.attach(lm, prefix):
        lm.reset_hooks()
        lm(tokens)
    with pytest.raises(pi.PrefixInterpError, match="use_cache is given but"):
        with pi.attach(lm, prefix):
            lm.generate(tokens, max_new_tokens=2, verbose=False, stop_at_eos=False)
    assert forward_hooks(lm)[1] == 0


def test_a_prefix_of_another_kind_of_model_is_refused():
    lm = language_model("llama")
    prefix = pi.Prefix.random(lm, 2, parameterization="kv")
    projected = pi.Prefix("kv", keys=prefix.keys, values=prefix.values)
    with pytest.raises(pi.PrefixInterpError, match="key_form='projected' is how a HookedTrans"):
        with pi.attach(lm, projected):
            pass


def test_the_fingerprint_is_of_weights_and_settings():
    lm = language_model("llama")
    first = model_id(lm)
    assert model_id(language_model("llama")) == first != model_id(language_model("llama", seed=1))
    assert model_id(pi.to_dtype(language_model("llama"), torch.float64)) == first
    assert model_id(clone(lm)) == first
    assert model_id(language_model("llama", rms_norm_eps=1e-3)) != first
    with torch.no_grad():
        lm.original_model.model.layers[1].mlp.original_component.up_proj.weight[0, 0] += 1
    assert model_id(lm) != first


REFUSED = {
    "its positions are biases": ("bloom", dict(hidden_size=32, n_layer=2, n_head=4, vocab_size=99)),
    "cannot take a kv prefix": (
        "gpt_neo",
        dict(vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
             attention_types=[[["global"], 2]], max_position_embeddings=64),
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_exact_is_refused(why, monkeypatch):
    kind, settings = REFUSED[why]
    monkeypatch.setitem(KINDS, kind, settings)
    with pytest.raises(pi.PrefixInterpError, match=why):
        lm = language_model(kind)
        with pi.attach(lm, pi.Prefix.random(lm, 2, parameterization="kv")):
            pass


def test_a_text_longer_than_the_window_is_refused():
    lm = language_model("mistral", sliding_window=8)
    prefix = pi.Prefix.random(lm, 3, parameterization="kv")
    with pi.attach(lm, prefix):
        lm(random_tokens(1, 5))
        with pytest.raises(pi.PrefixInterpError, match="give at most 5"):
            lm(random_tokens(1, 6))


def test_a_rotation_that_depends_on_the_length_is_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(pi.PrefixInterpError, match="rotation depends on the length"):
        language_model("llama", rope_parameters=rope)


def test_attention_that_hooks_do_not_see_is_refused():
    from transformer_lens.model_bridge import TransformerBridge

    from tests.tiny_language_models import tokenizer

    config = LlamaConfig(**KINDS["llama"], attn_implementation="sdpa")
    config.architectures = ["LlamaForCausalLM"]
    hf = LlamaForCausalLM(config)
    lm = TransformerBridge.boot_transformers(
        "own", hf_model=hf, tokenizer=tokenizer(), device="cpu"
    )
    with pytest.raises(pi.PrefixInterpError, match="attention is not eager"):
        pi.Prefix.random(lm, 2)
