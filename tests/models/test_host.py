"""The port against the model itself: what its own run shows at its hooks, and explicit loops."""

import ast
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.host import host_of
from tests.helpers import (
    architectures,
    assert_close,
    forward_hooks,
    raw_model,
    relative_error,
    tokens_for,
    toy,
)

MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=20)
ROOT = Path(pi.__file__).parent.parent
Site = pi.Site


def run(arch, seed):
    model = raw_model(seed, **arch)
    tokens = tokens_for(model, batch=2, length=5, seed=seed)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    return model, host_of(model), tokens, logits, cache


# --- sizes and kinds ----------------------------------------------------------------------------


@MANY
@given(architectures(), st.integers(0, 99))
def test_sizes_and_kinds_are_those_that_a_run_shows(arch, seed):
    _, host, tokens, logits, cache = run(arch, seed)
    (batch, length), last = tokens.shape, host.n_layers - 1
    assert Site.Z.at(last) in cache and Site.Z.at(last + 1) not in cache
    assert cache[Site.Z.at(0)].shape == (batch, length, host.n_heads, host.d_head)
    shown = host.n_heads if host.ungroups_heads else host.n_kv_heads
    assert cache[Site.K.at(0)].shape == (batch, length, shown, host.d_head)
    assert host.n_kv_heads == arch.get("n_key_value_heads", arch["n_heads"])
    assert cache[Site.RESID_PRE.at(0)].shape[-1] == host.d_model
    assert logits.shape[-1] == host.d_vocab and logits.dtype == host.dtype
    assert host.attn_only == (Site.MLP_OUT.at(0) not in cache)
    assert host.has_resid_mid == (Site.RESID_MID.at(0) in cache)
    assert host.d_mlp == (0 if host.attn_only else cache[Site.MLP_ACT.at(0)].shape[-1])
    if not host.attn_only:
        assert host.parallel == (not host.has_resid_mid)
    assert host.learned_positions == (Site.POS_EMBED.at() in cache)
    ahead = cache[Site.PATTERN.at(0)].triu(1)
    assert host.causal == (not ahead.any())
    assert host.norms_attention_out == (host.attention(0).norm_behind is not None)
    assert host.settings["n_heads"] == str(arch["n_heads"]) and "device" not in host.settings


def test_cast_gives_the_precision_of_the_model():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        host = host_of(raw_model(dtype=dtype))
        assert host.dtype == dtype and host.cast(torch.ones(2, dtype=torch.float64)).dtype == dtype


def test_a_tokenizer_that_pads_on_the_left_is_seen(monkeypatch):
    model = raw_model()
    assert not host_of(model).pads_left
    for side in ("left", "right"):
        tokenizer = type("Tokenizer", (), {"padding_side": side})()
        monkeypatch.setattr(model, "tokenizer", tokenizer, raising=False)
        assert host_of(model).pads_left == (side == "left")


@pytest.mark.usefixtures("unchecked")
def test_another_kind_of_model_is_refused():
    with pytest.raises(pi.PrefixInterpError, match="model=Linear is not supported"):
        host_of(torch.nn.Linear(2, 2))


# --- positions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: toy(n_prefix=3, n_content=7), raw_model])
@pytest.mark.parametrize("n_slots", [1, 3, 5])
@pytest.mark.parametrize("before", [0, 2])
def test_every_row_has_the_position_that_the_layout_says(make, n_slots, before):
    model, n_content = make(), 6
    host, reserved = host_of(model), 3 if make is not raw_model else None
    table = model.W_pos.detach()
    assert host.n_reserved == reserved
    expected, slot, content = [], 0, 0
    for row in range(n_slots + n_content):
        is_slot = before <= row < before + n_slots
        if reserved is None:
            expected.append(table[row])
        elif is_slot:
            expected.append(table[min(slot, reserved - 1)] if before == 0 else table[0] * 0)
        else:
            expected.append(table[reserved + content])
        slot, content = slot + is_slot, content + (not is_slot)
    assert torch.equal(host.position_rows(n_slots, n_content, before), torch.stack(expected))
    if before == 0:
        assert torch.equal(host.slot_positions(n_slots), torch.stack(expected[:n_slots]))
        assert torch.equal(
            host.content_positions(n_slots, n_content), torch.stack(expected[n_slots:])
        )
        start = host.content_start(n_slots)
        assert torch.equal(table[start], expected[n_slots])
        assert host.room(n_slots) == len(table) - start
        assert len(host.content_positions(n_slots, host.room(n_slots))) == host.room(n_slots)
        with pytest.raises(pi.PrefixInterpError, match=f"give at most {host.room(n_slots)}"):
            host.content_positions(n_slots, host.room(n_slots) + 1)


@FEW
@given(architectures(), st.integers(0, 99))
def test_embed_gives_what_stands_at_the_embedding(arch, seed):
    model, host, tokens, _, cache = run(arch, seed)
    assert torch.equal(host.embed(tokens), cache[Site.EMBED.at()])
    if not host.norms_embedding:
        assert torch.equal(host.embed(tokens), model.embed.W_E[tokens])
    assert torch.equal(host.W_E, model.embed.W_E)


# --- attention ----------------------------------------------------------------------------------


@MANY
@given(architectures(), st.integers(0, 99))
def test_projections_are_what_the_model_shows_at_its_queries_keys_and_values(arch, seed):
    model, host, _, _, cache = run(arch, seed)
    for layer in range(host.n_layers):
        before = forward_hooks(model)
        for what, site in (("Q", Site.Q), ("K", Site.K), ("V", Site.V)):
            found = host.attention(layer).project(cache[Site.RESID_PRE.at(layer)], what)
            assert found.shape[2] == (host.n_heads if what == "Q" else host.n_kv_heads)
            shown = cache[site.at(layer)]
            assert_close(expand_heads(found, shown.shape[2]), shown, 1e-12)
        assert forward_hooks(model) == before


@MANY
@given(architectures(), st.integers(0, 99))
def test_scores_and_outputs_are_what_the_model_makes_of_its_queries_keys_and_values(arch, seed):
    _, host, _, _, cache = run(arch, seed)
    for layer in range(host.n_layers):
        attn = host.attention(layer)
        q = attn.scored_queries(cache[Site.Q.at(layer)], start=0)
        k = attn.scored_keys(expand_heads(cache[Site.K.at(layer)], host.n_heads))
        scores = attn.slot_scores(q[:, None], k)[:, 0]  # each sequence has slots of its own
        shown = cache[Site.ATTN_SCORES.at(layer)]
        seen = shown.isfinite()
        assert seen.any(-1).all()
        assert_close(scores[seen], shown[seen], 1e-10)

        pattern, z = cache[Site.PATTERN.at(layer)], torch.zeros_like(cache[Site.Z.at(layer)])
        values = attn.weighed_values(cache[Site.V.at(layer)])
        for head in range(host.n_heads):
            for b in range(len(z)):
                z[b, :, head] = pattern[b, head] @ values[b, :, head]
        assert_close(z, cache[Site.Z.at(layer)], 1e-10)

        out = attn.b_O + sum(z[:, :, h] @ attn.W_O[h] for h in range(host.n_heads))
        assert_close(attn.written(z) + attn.b_O, out, 1e-12)
        out = out if attn.norm_behind is None else attn.norm_behind(out)
        assert_close(out, cache[Site.ATTN_OUT.at(layer)], 1e-10)


def test_rotation_starts_at_the_position_that_is_given():
    model = raw_model(positional_embedding_type="rotary", rotary_dim=4)
    attn = host_of(model).attention(0)
    rows = torch.randn(1, 1, 2, 4, dtype=torch.float64).repeat(1, 6, 1, 1)
    assert_close(attn.scored_queries(rows[:, :2], 4), attn.scored_queries(rows, 0)[:, 4:])
    assert_close(attn.scored_keys(rows[:, :2], 4), attn.scored_keys(rows)[:, 4:])
    assert relative_error(attn.scored_keys(rows)[:, 1], rows[:, 1]) > 1e-3
    plain = host_of(raw_model()).attention(0)
    assert torch.equal(plain.scored_keys(rows, 4), rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_scores_have_the_digits_of_float32_at_least(dtype):
    attn = host_of(raw_model(dtype=dtype)).attention(0)
    q, k = torch.randn(2, 3, 5, 2, 4).to(dtype), torch.randn(2, 3, 2, 4).to(dtype)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert attn.slot_scores(q, k).dtype == expected


@pytest.mark.parametrize("n_heads", [2, 4, 8])
def test_each_head_has_the_key_value_head_of_its_group(n_heads):
    x = torch.randn(3, 5, 2, 4)
    found = expand_heads(x, n_heads)
    assert found.shape == (3, 5, n_heads, 4)
    for head in range(n_heads):
        assert torch.equal(found[:, :, head], x[:, :, head * 2 // n_heads])


@FEW
@given(architectures(), st.integers(0, 99))
def test_a_stack_of_residual_vectors_gives_each_ones_keys_and_values(arch, seed):
    model = raw_model(seed, **arch)
    host, rng = host_of(model), torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, host.n_layers, 2, host.d_model, generator=rng, dtype=torch.float64)
    stacked = host.keys_values({"vectors": vectors})
    for i in range(3):
        for layer in range(host.n_layers):
            # Put in as the residual stream of one sequence, the model shows its own.
            seen = {}
            hooks = [
                (s.at(layer), lambda x, hook, s=s, seen=seen: seen.update({s: x}))
                for s in (Site.K, Site.V)
            ]
            with model.hooks(fwd_hooks=hooks):
                model(vectors[i, layer][None], start_at_layer=layer)
            for own, site in zip(stacked[layer], (Site.K, Site.V), strict=True):
                assert_close(expand_heads(own[i], seen[site].shape[2])[None], seen[site], 1e-12)
    free = {name: torch.randn(host.n_layers, 2, 1, 4, generator=rng) for name in ("keys", "values")}
    for layer, (k, v) in enumerate(host.keys_values(free)):
        assert torch.equal(k, free["keys"][layer]) and torch.equal(v, free["values"][layer])


def test_gradients_flow_to_the_vectors():
    host = host_of(raw_model())
    vectors = torch.randn(2, 1, 8, dtype=torch.float64, requires_grad=True)

    def flat(v):
        return torch.cat([x.flatten() for pair in host.keys_values({"vectors": v}) for x in pair])

    assert torch.autograd.gradcheck(flat, (vectors,))


def test_projecting_slots_calls_no_hook_of_the_content():
    model, called = raw_model(use_qk_norm=True), []
    host = host_of(model)
    norms = [name for name in model.hook_dict if ".ln1." in name or ".k_norm." in name]
    with model.hooks(
        fwd_hooks=[(name, lambda x, hook: called.append(hook.name)) for name in norms]
    ):
        host.keys_values({"vectors": torch.randn(2, 1, 8, dtype=torch.float64)})
        host.attention(0).scored_keys(torch.randn(1, 1, 2, 4, dtype=torch.float64))
        assert called == []
        model(tokens_for(model))
    assert set(called) == set(norms)


# --- runs ---------------------------------------------------------------------------------------


@MANY
@given(architectures(), st.integers(0, 99))
def test_a_run_from_a_layer_ends_as_the_whole_run_does(arch, seed):
    model, host, _, logits, cache = run(arch, seed)
    before = forward_hooks(model)
    for layer in range(host.n_layers):
        resid = cache[Site.RESID_PRE.at(layer)]
        assert_close(host.run_from(layer, resid), logits, 1e-10)
        rows = []
        hooks = [
            (Site.Q.at(layer), lambda q, hook, rows=rows: rows.append(tuple(q.shape[:2]))),
            (Site.Z.at(layer), lambda z, hook, layer=layer: cache[Site.Z.at(layer)]),
        ]
        with model.hooks(fwd_hooks=hooks):
            assert_close(host.run_from(layer, resid, skip_attention=True), logits, 1e-10)
        assert rows == [(1, 1)]
    assert forward_hooks(model) == before


@FEW
@given(architectures(), st.integers(0, 99))
@example(dict(n_heads=4, n_key_value_heads=2, ungroup_grouped_query_attention=True), 0)
@example(dict(n_heads=4, n_key_value_heads=2, ungroup_grouped_query_attention=False), 0)
def test_a_run_in_two_parts_ends_as_the_whole_run_and_its_cache_holds_what_attention_says(
    arch, seed
):
    _, host, tokens, logits, shown = run(arch, seed)
    assume(host.causal and not host.norms_embedding)
    resid = shown[Site.RESID_PRE.at(0)]
    cache = host.empty_cache(len(tokens))
    with torch.no_grad():
        parts = [x.contiguous() for x in resid.split([2, 3], dim=1)]
        parts = [host.run_from(0, x, cache=cache) for x in parts]
    assert_close(torch.cat(parts, dim=1), logits, 1e-10)
    for layer in range(host.n_layers):
        attn, entry = host.attention(layer), cache.entries[layer]
        assert_close(attn.cached_keys(shown[Site.K.at(layer)]), entry.past_keys, 1e-10)
        assert_close(attn.cached_values(shown[Site.V.at(layer)]), entry.past_values, 1e-10)


@FEW
@given(architectures(), st.integers(0, 99))
def test_final_norm_and_unembedding_lead_from_the_last_stream_to_the_logits(arch, seed):
    model, host, _, logits, cache = run(arch | dict(output_logits_soft_cap=-1.0), seed)
    last = cache[Site.RESID_POST.at(host.n_layers - 1)]
    last = last if host.final_norm is None else host.final_norm(last)
    assert_close(last @ host.W_U + model.b_U, logits, 1e-10)


def test_the_guard_watches_every_layer_and_the_embedding():
    model = raw_model(n_layers=3)
    host, seen = host_of(model), []
    handles = [host.embedding.register_forward_hook(lambda *_: seen.append("embed"))]
    for i, block in enumerate(host.blocks):
        handles.append(block.register_forward_hook(lambda *_, i=i: seen.append(i)))
    model(tokens_for(model))
    assert seen == ["embed", 0, 1, 2]


# --- who may ask a model itself -----------------------------------------------------------------

_PRIVATE = {"cfg", "_apply_qk_norm", "q_norm", "k_norm", "clip_qkv", "ln1", "ln1_post", "ln_final"}
_WEIGHTS = {"blocks", "W_E", "W_pos", "W_U", "W_Q", "W_K", "W_V", "W_O", "b_Q", "b_O", "embed"}
# Transformers whose weights are written by hand: who wrote them knows what they hold.
_WRITERS = ("prefix_interp/theory/constructions/", "analyses/universality/kernel_head.py")
_CODE = [
    p for folder in ("prefix_interp", "analyses") for p in sorted((ROOT / folder).rglob("*.py"))
]


def _is_port(node):
    """Whether an attribute is one of the port's: `host.W_E`, `host_of(model).attention(0).W_O`."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in ("host", "host_of", "attn")


@pytest.mark.parametrize("path", _CODE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_outside_models_a_model_is_asked_through_its_port(path):
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("prefix_interp/models/"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and not _is_port(node.value):
            assert node.attr not in _PRIVATE, f"{name}:{node.lineno} reads .{node.attr}"
            known = node.attr not in _WEIGHTS or name.startswith(_WRITERS)
            assert known, f"{name}:{node.lineno} reads .{node.attr}"
        if isinstance(node, ast.ImportFrom):
            imported = {alias.name for alias in node.names}
            assert "HookedTransformer" not in imported, f"{name}:{node.lineno} imports it"
