import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.baselines import masked_hooks
from prefix_interp.prefixes.gates import check_gates, shared_softmax
from prefix_interp.prefixes.inject import mixture_hooks
from prefix_interp.prefixes.layout import offset_hooks
from tests.helpers import architectures, assert_close, raw_model, tokens_for

Site = pi.Site
SOME = settings(max_examples=25)


def drawn(shape, seed=0):
    """Gates with some heads off, some on and the rest in between."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=rng, dtype=torch.float64) * 2 - 0.5
    return values.clamp(0, 1)


def run(model, prefix, tokens, method="slots", gates=None):
    with torch.no_grad(), pi.attach(model, prefix, method, gates):
        return model(tokens)


def head_by_hand(q, keys, values, slots, weights):
    """One head at one query: softmax over content and slots, each slot's exp times its gate."""
    pairs = [(q @ k / len(q) ** 0.5, v, 1.0) for k, v in zip(keys, values, strict=True)]
    for (k, v), gate in zip(slots, weights, strict=True):
        if gate != 0:  # a gate of 0 takes the key and the value out
            pairs.append((q @ k / len(q) ** 0.5, v, gate))
    masses = [gate * math.exp(score) for score, _, gate in pairs]
    return sum(m * v for m, (_, v, _) in zip(masses, pairs, strict=True)) / sum(masses)


@pytest.mark.parametrize("settings", [{}, {"n_heads": 4, "n_key_value_heads": 2}])
@pytest.mark.parametrize("kind", ["some heads off", "one head on", "fractions"])
def test_a_gated_head_is_one_without_these_keys_and_values(settings, kind):
    model = raw_model(seed=1, **settings)
    n_heads, n, length = model.cfg.n_heads, 3, 4
    prefix, tokens = pi.Prefix.random(model, n, seed=2), tokens_for(model, 2, length)
    gates = torch.ones(2, n_heads, n, dtype=torch.float64)
    if kind == "some heads off":
        gates[0, 1] = gates[1, 0] = 0
        gates[1, 1, 2] = 0
    elif kind == "one head on":
        gates = gates * 0
        gates[0, 1] = 1
    else:
        gates = drawn(gates.shape)
    with torch.no_grad(), pi.attach(model, prefix, gates=gates):
        cache = model.run_with_cache(tokens)[1]
    for layer in range(2):
        q, k, v, z = (
            cache[s.at(layer)][:, n:] for s in (Site.Q, Site.K, Site.V, Site.Z)
        )  # content
        keys, values = (x.detach() for x in prefix.keys_values(model)[layer])
        groups = n_heads // k.shape[2]
        for b, h, i in itertools.product(range(2), range(n_heads), range(length)):
            own = h // groups
            slots = [(keys[s, own], values[s, own]) for s in range(n)]
            expected = head_by_hand(
                q[b, i, h], k[b, : i + 1, own], v[b, : i + 1, own], slots, gates[layer, h].tolist()
            )
            assert_close(z[b, i, h], expected, 1e-10)


@SOME
@given(architectures(), st.integers(0, 99), st.integers(1, 4), st.booleans())
def test_slots_and_mixture_agree_at_any_gates(arch, seed, n_slots, per_slot):
    model = raw_model(seed, **arch)
    tokens = tokens_for(model, 2, 4, seed)
    prefix = pi.Prefix.random(model, n_slots, seed, "kv")
    shape = (arch["n_layers"], arch["n_heads"]) + (n_slots,) * per_slot
    gates = drawn(shape, seed)
    found = [run(model, prefix, tokens, method, gates) for method in ("slots", "mixture")]
    assert_close(*found, 1e-10)


@SOME
@given(architectures(), st.integers(0, 99), st.integers(1, 4))
def test_all_off_is_the_masked_baseline_bit_for_bit(arch, seed, n_slots):
    """Slots against masked slots, the mixture against content that stands behind no slots."""
    model = raw_model(seed, **arch)
    tokens = tokens_for(model, 2, 4, seed)
    prefix = pi.Prefix.random(model, n_slots, seed, "kv", std=2.0)
    none = torch.zeros(arch["n_layers"], arch["n_heads"])
    with torch.no_grad():
        masked = model.run_with_hooks(tokens, fwd_hooks=masked_hooks(model, n_slots))
        content = model.run_with_hooks(tokens, fwd_hooks=offset_hooks(model, n_slots))
    assert torch.equal(run(model, prefix, tokens, "slots", none), masked)
    assert torch.equal(run(model, prefix, tokens, "mixture", none), content)
    for method in ("slots", "mixture"):
        kept = run(model, prefix, tokens, method, none + 1)
        assert torch.equal(kept, run(model, prefix, tokens, method))


def gated_sum(model, prefix, tokens):
    slots = prefix.keys_values(model)
    rng = torch.Generator().manual_seed(9)
    weights = torch.randn(*tokens.shape, model.cfg.d_vocab, generator=rng, dtype=torch.float64)

    def value(gates):
        hooks = mixture_hooks(model, 2, slots.__getitem__, gates)
        return (model.run_with_hooks(tokens, fwd_hooks=hooks) * weights).sum()

    return value


@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
def test_slopes_in_the_gates_are_finite_differences(at):
    """At gate 0 too, where the softmax of the slots injection has none."""
    model = raw_model(seed=3, gain=0.7).requires_grad_(False)
    prefix = pi.Prefix.random(model, 2, 4, "kv", std=0.5)
    value = gated_sum(model, prefix, tokens_for(model, 2, 4))
    gates = torch.full((2, 2, 2), at, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(value(gates), gates)
    step, start = 1e-4, gates.detach()
    for i in itertools.product(range(2), range(2), range(2)):
        unit = torch.zeros_like(start)
        unit[i] = step
        # One-sided, of fourth order, so that gates stay at 0 or above.
        f = [value(start + k * unit) for k in range(5)]
        difference = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / (12 * step)
        assert float(slopes[i]) == pytest.approx(float(difference), rel=1e-5, abs=1e-7)
    assert slopes.abs().min() > 1e-4


@pytest.mark.parametrize("method", ["slots", "mixture"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dominating_slot_can_be_dropped(method, dtype):
    model = raw_model(seed=1, dtype=dtype)
    tokens = tokens_for(model)
    with torch.no_grad():
        for block in model.blocks:  # every query is 500 in its first direction, and so is slot 0
            block.attn.W_Q[..., 0] = 0
            block.attn.b_Q[..., 0] = 500.0
    prefix = pi.Prefix.random(model, 2, 2, "kv")
    prefix.keys[..., 0] = 0
    prefix.keys[:, 0, :, 0] = 4.0
    cache = model.run_with_cache(tokens)[1]
    score = cache[Site.Q.at(0)][0, 0, 0] @ prefix.keys[0, 0, 0] / 2
    assert float(score) > 900
    gates = torch.ones(2, 2, 2, dtype=dtype)
    gates[..., 0] = 0
    rest = pi.Prefix("kv", None, prefix.keys[:, 1:], prefix.values[:, 1:])
    got = run(model, prefix, tokens, method, gates)
    # The one slot that is left stands one position earlier, so only what it holds may matter.
    hooks = mixture_hooks(model, 1, rest.keys_values(model).__getitem__)
    hooks = [h for h in hooks if h[0] != Site.POS_EMBED.at()] + offset_hooks(model, 2)
    with torch.no_grad():
        expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
    assert_close(got, expected, 1e-10 if dtype == torch.float64 else 1e-5)
    only = run(model, prefix, tokens, method, 1 - gates)
    assert torch.isfinite(only).all() and not torch.equal(only, got)


def test_shared_softmax_against_one_softmax():
    rng = torch.Generator().manual_seed(0)
    content = torch.randn(3, 4, 5, generator=rng, dtype=torch.float64) * 5  # batch query key
    scores = torch.randn(3, 4, 2, generator=rng, dtype=torch.float64) * 5
    gates = torch.tensor([0.0, 0.4], dtype=torch.float64)
    for own in (None, gates):
        mass, keep, _ = shared_softmax(content.logsumexp(-1), scores, own)
        gated = scores if own is None else scores + own.log()
        expected = torch.cat([content, gated], -1).softmax(-1)
        assert_close(mass, expected[..., 5:], 1e-12)
        assert_close(keep, expected[..., :5].sum(-1), 1e-12)
    far = torch.tensor([[1e3, -1e3]], dtype=torch.float64)
    gates = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    mass, keep, _ = shared_softmax(torch.zeros(1, dtype=torch.float64), far, gates)
    assert mass.tolist() == [[0.0, 0.0]] and keep.tolist() == [1.0]
    (slopes,) = torch.autograd.grad(mass.sum(), gates)
    assert torch.isfinite(slopes).all()


def test_a_stack_of_gates_is_one_gate_after_the_other():
    model = raw_model(seed=1)
    prefix, tokens = pi.Prefix.random(model, 2, 2), tokens_for(model, 2, 4)
    stack = drawn((3, 2, 2, 2))
    hooks = mixture_hooks(model, prefix.n_slots, prefix.keys_values(model).__getitem__, stack)
    with torch.no_grad():
        got = model.run_with_hooks(tokens.repeat(3, 1), fwd_hooks=hooks).unflatten(0, (3, 2))
    for one, gates in zip(got, stack, strict=True):
        assert_close(one, run(model, prefix, tokens, "slots", gates), 1e-10)


def test_gates_for_heads_stand_for_all_their_slots():
    model = raw_model()
    assert check_gates(model, 3, None) is None
    heads = torch.tensor([[0.0, 1.0], [0.25, 0.5]])
    full = check_gates(model, 3, heads)
    assert full.shape == (2, 2, 3) and full.dtype == model.W_E.dtype
    for slot in range(3):
        assert torch.equal(full[..., slot], heads.double())


@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 2), (2, 2, 1), (2, 2, 4), (1, 2, 2, 3), ()])
def test_bad_shapes(shape, unchecked):
    model = raw_model()
    prefix = pi.Prefix.random(model, 3)
    message = r"give \(2, 2\) \(layer, head\) or \(2, 2, 3\) \(layer, head, slot\)"
    with pytest.raises(pi.PrefixInterpError, match=message):
        pi.prefix_hooks(model, prefix, gates=torch.ones(shape))
    with pytest.raises(pi.PrefixInterpError, match=message):
        with pi.attach(model, prefix, gates=torch.ones(shape)):
            pass
    assert not getattr(model, "_prefix_interp_attached", False)


@pytest.mark.parametrize("value", [-0.1, 1.001, float("nan"), float("inf")])
def test_bad_values(value):
    model = raw_model()
    gates = torch.ones(2, 2)
    gates[0, 1] = value
    with pytest.raises(pi.PrefixInterpError, match="between 0"):
        pi.prefix_hooks(model, pi.Prefix.random(model, 3), gates=gates)
