import re

import jaxtyping
import numpy as np
import pytest
import torch
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

import prefix_interp as pi
from prefix_interp.models.host import host_of
from prefix_interp.prefixes.inject import mixture_hooks, offset_hooks, prefix_cache, slot_hooks
from tests.helpers import assert_close, assert_far, forward_hooks, raw_model, tokens_for, toy

Site = pi.Site
METHODS = ["slots", "mixture"]


def attached(model, prefix, tokens, method="slots"):
    with pi.attach(model, prefix, method):
        return model(tokens)


@pytest.fixture
def model():
    return raw_model(seed=3)


@pytest.fixture
def prefix(model):
    return pi.Prefix.random(model, 3, seed=4)


@pytest.fixture
def tokens(model):
    return tokens_for(model)


# --- against other ways of doing the same -------------------------------------------------------


@pytest.mark.parametrize("norm", ["LN", "RMS", None])
@pytest.mark.parametrize("method", METHODS)
def test_residual_prefix_is_the_papers_overwriting_of_the_attention_input(norm, method):
    model = raw_model(seed=1, use_split_qkv_input=True, normalization_type=norm, n_layers=3)
    prefix, tokens = pi.Prefix.random(model, 3, seed=2), tokens_for(model)
    slots = torch.zeros(len(tokens), 3, dtype=torch.long)  # any token: nobody reads its residual

    def overwrite(layer):
        def hook(x, hook):  # batch pos head d_model
            x = x.clone()
            x[:, :3] = prefix.vectors[layer][None, :, None, :]
            return x

        return [(f"blocks.{layer}.hook_{name}_input", hook) for name in ("k", "v")]

    hooks = [hook for layer in range(3) for hook in overwrite(layer)]
    theirs = model.run_with_hooks(torch.cat([slots, tokens], 1), fwd_hooks=hooks)[:, 3:]
    assert_close(attached(model, prefix, tokens, method), theirs)
    assert_far(model(tokens), theirs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parameterization", ["residual", "kv"])
def test_one_layer_by_hand(parameterization, method):
    """Every query's softmax over slots and content written out in numpy."""
    model = raw_model(seed=5, n_layers=1, attn_only=True, normalization_type=None)
    prefix = pi.Prefix.random(model, 2, seed=6, parameterization=parameterization)
    tokens, n = tokens_for(model), 2
    w = {k: v.numpy(force=True) for k, v in model.named_parameters()}
    get = lambda name: w[f"blocks.0.attn.{name}"]  # noqa: E731
    logits = np.zeros((*tokens.shape, model.cfg.d_vocab))
    for b, row in enumerate(tokens.tolist()):
        x = np.stack([w["embed.W_E"][t] + w["pos_embed.W_pos"][n + i] for i, t in enumerate(row)])
        for i in range(len(row)):
            out = x[i] + get("b_O")
            for h in range(model.cfg.n_heads):
                query = x[i] @ get("W_Q")[h] + get("b_Q")[h]
                keys = [x[j] @ get("W_K")[h] + get("b_K")[h] for j in range(i + 1)]
                values = [x[j] @ get("W_V")[h] + get("b_V")[h] for j in range(i + 1)]
                for s in range(n):
                    if parameterization == "residual":
                        vector = prefix.vectors[0, s].numpy()
                        keys.append(vector @ get("W_K")[h] + get("b_K")[h])
                        values.append(vector @ get("W_V")[h] + get("b_V")[h])
                    else:
                        keys.append(prefix.keys[0, s, h].numpy())
                        values.append(prefix.values[0, s, h].numpy())
                weights = [np.exp(query @ k / np.sqrt(model.cfg.d_head)) for k in keys]
                z = sum(a * v for a, v in zip(weights, values, strict=True)) / sum(weights)
                out = out + z @ get("W_O")[h]
            logits[b, i] = out @ w["unembed.W_U"] + w["unembed.b_U"]
    assert_close(attached(model, prefix, tokens, method), torch.tensor(logits), 1e-12)


def test_a_stack_of_prefixes_is_each_of_them_on_its_own_block_of_the_batch(model):
    prefixes = [pi.Prefix.random(model, 3, seed=s) for s in range(3)]
    tokens = tokens_for(model, batch=6)
    stack = host_of(model).keys_values({"vectors": torch.stack([p.vectors for p in prefixes])})
    logits = model.run_with_hooks(tokens, fwd_hooks=mixture_hooks(model, 3, stack.__getitem__))
    for i, prefix in enumerate(prefixes):
        assert_close(logits[2 * i : 2 * i + 2], attached(model, prefix, tokens[2 * i : 2 * i + 2]))


@pytest.mark.parametrize("hooks", [slot_hooks, mixture_hooks])
def test_the_gradient_is_that_of_finite_differences(hooks):
    model = raw_model(seed=2, n_layers=2, d_model=6, d_head=2, n_heads=2)
    tokens, vectors = tokens_for(model, 1, 3), pi.Prefix.random(model, 1, seed=1).vectors

    def f(v):
        return model.run_with_hooks(
            tokens,
            fwd_hooks=hooks(
                model, 1, lambda i: host_of(model).layer_keys_values({"vectors": v}, i)
            ),
        )

    assert torch.autograd.gradcheck(f, (vectors.clone().requires_grad_(),), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("dtype, tol", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_the_injections_agree_in_lower_precision_too(dtype, tol):
    model = raw_model(seed=3, dtype=dtype, gain=1.0)
    prefix, tokens = pi.Prefix.random(model, 3, seed=4), tokens_for(model)
    slots, mixture = (attached(model, prefix, tokens, m) for m in METHODS)
    assert slots.dtype == mixture.dtype == dtype
    assert_close(mixture.double(), slots.double(), tol)


# --- every way of calling the model -------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_all_ways_of_calling_agree(model, prefix, tokens, method):
    expected = attached(model, prefix, tokens, method)
    hooks = pi.prefix_hooks(model, prefix, method)
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), expected)
    with pi.attach(model, prefix, method) as same:
        assert same is model
        assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=[]), expected)
        logits, cache = model.run_with_cache(tokens)
        assert torch.equal(logits, expected)
        loss = model(tokens, return_type="loss")
    picked = expected[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert_close(loss.double(), -picked.mean(), 1e-6)
    assert cache[Site.Q.at(1)].shape[1] == (5 + 3 if method == "slots" else 5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_generation_token_by_token(method, positions):
    """A loop of calls is generation with the cache; model.generate skips hooks and is refused."""
    model = raw_model(seed=3, positional_embedding_type=positions)
    prefix, tokens = pi.Prefix.random(model, 3, seed=4), tokens_for(model)
    loop = cached = tokens
    cache = prefix_cache(model, prefix, 2)
    for _ in range(4):
        best = attached(model, prefix, loop, method)[:, -1].argmax(-1, keepdim=True)
        loop = torch.cat([loop, best], 1)
        ones = torch.ones_like(cached)
        best = model(cached, past_kv_cache=cache, attention_mask=ones)[:, -1].argmax(-1)
        cached = torch.cat([cached, best[:, None]], 1)
    assert torch.equal(loop, cached)
    for use_cache in (False, True):
        with pi.attach(model, prefix, method), pytest.raises(pi.PrefixInterpError, match="prefix"):
            model.generate(tokens, 4, stop_at_eos=False, use_past_kv_cache=use_cache)


def test_a_call_that_stops_early_or_fails_does_not_disturb_the_next(model, prefix, tokens):
    def fail(x, hook):
        raise ZeroDivisionError

    with pi.attach(model, prefix):
        expected, cache = model.run_with_cache(tokens)
        early = model(tokens[:, :4], stop_at_layer=1)
        assert torch.equal(model(cache[Site.RESID_PRE.at(1)], start_at_layer=1), expected)
        assert early.shape[1] == 4 + 3
        with pytest.raises(ZeroDivisionError):
            model.run_with_hooks(tokens, fwd_hooks=[(Site.Z.at(0), fail)])
        # One sequence alone: the processor may add up in another order.
        assert_close(model(cache[Site.RESID_PRE.at(1)][:1], start_at_layer=1), expected[:1], 1e-12)
        assert torch.equal(model(tokens), expected)


def test_caches_hold_the_slots_first(model, prefix, tokens):
    with pi.attach(model, prefix):
        _, cache = model.run_with_cache(tokens)
    for layer, (keys, values) in enumerate(prefix.keys_values(model)):
        assert torch.equal(cache[Site.K.at(layer)][:, :3], keys.expand(2, -1, -1, -1))
        assert torch.equal(cache[Site.V.at(layer)][:, :3], values.expand(2, -1, -1, -1))
        assert cache[Site.PATTERN.at(layer)].shape == (2, 2, 8, 8)
        assert (cache[Site.PATTERN.at(layer)][:, :, 3:, :3].sum(-1) > 1e-6).all()
    assert cache[Site.RESID_POST.at(0)].shape[1] == 8
    assert cache[Site.RESID_POST.at(1)].shape[1] == 5
    assert torch.equal(cache[Site.EMBED.at()][:, :3], torch.zeros(2, 3, 8, dtype=torch.float64))
    assert torch.equal(cache[Site.EMBED.at()][:, 3:], model.W_E[tokens])
    assert torch.equal(cache[Site.POS_EMBED.at()][1], model.W_pos[:8])


@pytest.mark.parametrize("gqa", [None, 1])
def test_the_mixture_writes_nothing_else_into_the_cache(gqa):
    """Its own use of the query-key norms must not reach their hooks."""
    model = raw_model(seed=3, use_qk_norm=True, n_layers=1, n_key_value_heads=gqa)
    prefix, tokens = pi.Prefix.random(model, 3, seed=4), tokens_for(model)
    hooks = offset_hooks(model, 3)
    with model.hooks(fwd_hooks=hooks):
        _, plain = model.run_with_cache(tokens)
    with pi.attach(model, prefix, "mixture"):
        _, cache = model.run_with_cache(tokens)
    for norm in ("q_norm", "k_norm"):
        for point in ("hook_scale", "hook_normalized"):
            name = f"blocks.0.attn.{norm}.{point}"
            assert_close(cache[name], plain[name], 1e-12)


def test_a_users_hook_on_a_norm_never_sees_the_slots(model, prefix, tokens):
    seen = []
    with model.hooks(fwd_hooks=[("blocks.0.ln1.hook_scale", lambda x, hook: seen.append(x.shape))]):
        with pi.attach(model, prefix, "mixture"):
            model(tokens)
        prefix_cache(model, prefix, 2)
    assert seen == [(2, 5, 1)] * 3  # for queries, keys and values


def test_start_at_layer_takes_a_cached_residual(model, prefix, tokens):
    with pi.attach(model, prefix):
        logits, cache = model.run_with_cache(tokens)
        again = model(cache[Site.RESID_PRE.at(1)], start_at_layer=1)
    assert torch.equal(again, logits)
    with pi.attach(model, prefix, "mixture"):
        logits, cache = model.run_with_cache(tokens)
        assert torch.equal(model(cache[Site.RESID_PRE.at(1)], start_at_layer=1), logits)


def test_hooks_of_a_user_see_the_prefix_and_may_write(model, prefix, tokens):
    def ablate(z, hook):
        return z * torch.tensor([0.0, 1.0])[:, None]

    outputs = []
    for method in METHODS:
        with pi.attach(model, prefix, method):
            outputs.append(model.run_with_hooks(tokens, fwd_hooks=[(Site.Z.at(0), ablate)]))
    assert_close(outputs[1], outputs[0])
    assert_far(outputs[0], attached(model, prefix, tokens))


# --- nothing left behind ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind(model, prefix, tokens, method):
    model.add_hook(Site.Z.at(0), lambda z, hook: None)  # a user's own stays
    before, plain = forward_hooks(model), model(tokens)
    with pi.attach(model, prefix, method):
        assert forward_hooks(model) != before
        model.run_with_cache(tokens)
    assert forward_hooks(model) == before
    assert torch.equal(model(tokens), plain)
    with pytest.raises(ZeroDivisionError), pi.attach(model, prefix, method):
        model(tokens)
        raise ZeroDivisionError
    with pytest.raises(pi.PrefixInterpError), pi.attach(model, prefix, method):
        model(tokens + 100)
    assert forward_hooks(model) == before
    assert torch.equal(model(tokens), plain)


def test_a_refused_prefix_leaves_nothing_behind(model, prefix, tokens):
    before = forward_hooks(model)
    other = pi.Prefix.random(raw_model(n_layers=1), 2)
    with pytest.raises(pi.PrefixInterpError, match="shape"), pi.attach(model, other):
        raise AssertionError("attached")
    assert forward_hooks(model) == before
    with pi.attach(model, prefix):  # and the model is free for the next one
        model(tokens)


def test_a_second_prefix_is_refused_inside_a_block(model, prefix, tokens):
    with pi.attach(model, prefix):
        expected = model(tokens)
        with pytest.raises(pi.PrefixInterpError, match="already"), pi.attach(model, prefix):
            raise AssertionError("attached")
        with pytest.raises(pi.PrefixInterpError, match="already"):
            pi.prefix_hooks(model, prefix)
        assert torch.equal(model(tokens), expected)  # the first one still works
    attached(model, prefix, tokens)


@pytest.mark.parametrize("method", METHODS)
def test_taking_the_hooks_off_inside_a_block_is_noticed(model, prefix, tokens, method):
    before = forward_hooks(model)
    with pytest.raises(pi.PrefixInterpError, match="reset_hooks"):
        with pi.attach(model, prefix, method):
            model(tokens)
            model.reset_hooks()
            model(tokens)
    assert forward_hooks(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_it_is_noticed_without_an_embedding_too(model, prefix, tokens, method):
    with pi.attach(model, prefix, method):
        _, cache = model.run_with_cache(tokens)
        model.reset_hooks()
        with pytest.raises(pi.PrefixInterpError, match=r"layer 1.*reset_hooks"):
            model(cache[Site.RESID_PRE.at(1)], start_at_layer=1)


# --- what is refused ----------------------------------------------------------------------------


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 300


def test_masks_and_caches_are_refused(model, prefix, tokens):
    with pi.attach(model, prefix):
        with pytest.raises(pi.PrefixInterpError, match="attention_mask"):
            model(tokens, attention_mask=torch.ones_like(tokens))
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 2)
        with pytest.raises(pi.PrefixInterpError, match=r"past_kv_cache|attention_mask"):
            model(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens))


@pytest.mark.parametrize("bad", [-1, 13, 99])
@pytest.mark.parametrize("method", METHODS)
def test_tokens_outside_the_vocabulary_are_refused(model, prefix, tokens, method, bad):
    tokens[1, 2] = bad
    with pi.attach(model, prefix, method), pytest.raises(pi.PrefixInterpError, match=str(bad)):
        model(tokens)
    with pytest.raises(pi.PrefixInterpError, match="0 to 12"):
        pi.run_pair(model, prefix, tokens)


@pytest.mark.parametrize("method", METHODS)
def test_content_may_fill_the_context_and_no_more(model, prefix, method):
    attached(model, prefix, tokens_for(model, length=13), method)
    with pytest.raises(pi.PrefixInterpError, match="at most 13"):
        attached(model, prefix, tokens_for(model, length=14), method)
    hooks = pi.prefix_hooks(model, prefix, method)
    with pytest.raises(pi.PrefixInterpError, match="at most 13"):
        model.run_with_hooks(tokens_for(model, length=14), fwd_hooks=hooks)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), torch.zeros(0, 3).long(),
            torch.zeros(2, 3, dtype=torch.bool)]
)  # fmt: skip
def test_tokens_that_are_none_are_refused(model, prefix, bad):
    with pytest.raises(pi.PrefixInterpError, match="batch, pos") as error:
        pi.run_pair(model, prefix, bad)
    assert one_line(error)


def test_annotations_are_checked_in_these_tests(model, prefix, tokens):
    """Of every argument and return value: --jaxtyping-packages in pyproject.toml does it."""
    with pytest.raises(jaxtyping.TypeCheckError):
        pi.run_pair(model, prefix, tokens.double())
    with pytest.raises(jaxtyping.TypeCheckError):
        pi.Prefix.random(model, "2")


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_method_is_refused(model, prefix):
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'mixture'"):
        pi.prefix_hooks(model, prefix, "mixtures")
    with pytest.raises(pi.PrefixInterpError, match="method"), pi.attach(model, prefix, "cache"):
        pass


@pytest.mark.parametrize(
    "arch, reason",
    [
        (dict(use_attention_sinks=True), "sink"),
        (dict(use_logn_attn=True, positional_embedding_type="rotary"), "position"),
        (dict(use_local_attn=True, window_size=3, attn_types=["global", "local"]), "window_size"),
        (dict(positional_embedding_type="shortformer"), "shortformer"),
        (dict(positional_embedding_type="alibi"), "alibi"),
    ],
)
def test_models_that_no_prefix_fits_are_refused(arch, reason):
    model = raw_model(**arch)
    prefix = pi.Prefix("residual", torch.ones(2, 1, 8, dtype=torch.float64))
    for use in (
        lambda: pi.Prefix.random(model, 1),
        lambda: attached(model, prefix, tokens_for(model)),
        lambda: pi.run_pair(model, prefix, tokens_for(model)),
        lambda: prefix_cache(model, prefix, 2),
    ):
        with pytest.raises(pi.PrefixInterpError, match=reason) as error:
            use()
        assert one_line(error)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_hooked_transformer_is_refused():
    with pytest.raises(pi.PrefixInterpError, match="HookedTransformer") as error:
        pi.Prefix.random(torch.nn.Linear(2, 2), 1)
    assert one_line(error)


def test_a_local_layer_list_that_is_all_global_is_fine():
    model = raw_model(use_local_attn=True, window_size=3, attn_types=["global", "global"])
    attached(model, pi.Prefix.random(model, 2), tokens_for(model))


def test_the_cache_is_refused_where_transformerlens_has_none():
    model = raw_model(n_key_value_heads=1, ungroup_grouped_query_attention=True)
    with pytest.raises(pi.PrefixInterpError, match="ungroup_grouped_query_attention"):
        prefix_cache(model, pi.Prefix.random(model, 2), 2)
    with pytest.raises(pi.PrefixInterpError, match="use attach"):
        model = toy(n_prefix=2)
        prefix_cache(model, pi.Prefix.random(model, 3), 2)


# --- toys keep their content where it was trained -----------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_a_toy_takes_a_prefix_of_any_length(n, method):
    model = toy(n_prefix=2)
    tokens = tokens_for(model, length=7)
    prefix = pi.Prefix.random(model, n, seed=1)
    assert host_of(model).content_start(n) == 2
    with pi.attach(model, prefix, method):
        logits, cache = model.run_with_cache(tokens)
    positions = cache[Site.POS_EMBED.at()][0]
    assert torch.equal(positions[-7:], model.W_pos[2:9])
    assert logits.shape == (2, 7, 11)
    # A prefix of one slot repeated is the same as the slot with its attention logit raised: the
    # only trace of the length is log(n) in the mass, never a position.
    off = pi.run_pair(model, prefix, tokens)
    expected = model.run_with_hooks(
        tokens,
        fwd_hooks=[(Site.POS_EMBED.at(), lambda x, hook: model.W_pos[2:9].expand(2, -1, -1))],
    )
    assert_close(off.logits_off, expected, 1e-12)
    for x in (off.off, off.held):
        assert torch.equal(x[Site.POS_EMBED.at()][0], model.W_pos[2:9])


def test_every_error_is_of_the_family_and_one_line(model, prefix):
    with pytest.raises(pi.PrefixInterpError) as error, pi.attach(model, prefix):
        model(tokens_for(model, length=14))
    assert one_line(error) and re.search("14 positions", str(error.value))
