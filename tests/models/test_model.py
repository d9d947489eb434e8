import hashlib
import warnings

import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.model import clone, has_id, model_id, to_dtype, zero_model
from prefix_interp.models.toy import toy_config
from tests.helpers import assert_close, raw_model, tokens_for, toy


def test_clone_is_independent():
    model = toy()
    model.add_hook(pi.Site.Z.at(0), lambda z, hook: z * 0)
    copy, tokens = clone(model), tokens_for(model)
    assert toy_config(copy) == toy_config(model)
    assert not torch.equal(copy(tokens), model(tokens))  # the hook stays behind
    model.reset_hooks()
    assert torch.equal(copy(tokens), model(tokens))
    with torch.no_grad():
        copy.embed.W_E += 1
    assert not torch.equal(copy(tokens), model(tokens))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_dtype_converts_the_norms_too(dtype):
    model = pi.to_dtype(pi.build_toy(pi.ToyConfig(d_model=8)), dtype)
    _, cache = model.run_with_cache(tokens_for(model))
    for site in (pi.Site.RESID_PRE, pi.Site.Q, pi.Site.Z, pi.Site.RESID_POST):
        assert cache[site.at(0)].dtype == dtype
    assert model(tokens_for(model)).dtype == dtype


def test_model_id_sees_every_parameter_and_nothing_else():
    model = toy()
    before = model_id(model)
    model(tokens_for(model))
    model.add_hook(pi.Site.Z.at(0), lambda z, hook: None)
    assert model_id(model) == before == model_id(clone(model))
    for p in model.parameters():
        with torch.no_grad():
            p.view(-1)[0] += 1e-3
        after = model_id(model)
        assert after != before
        before = after


def rotary(**settings):
    return raw_model(positional_embedding_type="rotary", **settings)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.blocks[1].mlp.W_in.copy_(m.blocks[1].mlp.W_in.flip(0)),
        lambda m: m.blocks[1].mlp.W_in.data.copy_(m.blocks[1].mlp.W_in.data.flip(0)),
        lambda m: m.embed.W_E[3].add_(1e-6),
        lambda m: m.blocks[0].attn.rotary_sin.mul_(2),
        lambda m: setattr(m.blocks[1].attn, "attn_scale", 3 * m.blocks[1].attn.attn_scale),
        lambda m: setattr(m.cfg, "attn_scale", 3.0),
        lambda m: setattr(m.cfg, "rotary_base", 9999),
        lambda m: setattr(m.cfg, "attn_scores_soft_cap", 5.0),
        lambda m: setattr(m.blocks[0].attn, "W_Q", torch.nn.Parameter(m.blocks[0].attn.W_K + 1)),
        lambda m: m.blocks[0].attn.load_state_dict(m.blocks[1].attn.state_dict()),
    ],
)
def test_model_id_sees_every_change_of_the_function(change):
    model = rotary()
    before = model_id(model)
    with torch.no_grad():
        change(model)
    assert model_id(model) != before


def test_writes_that_bump_no_counter_are_seen_a_neuron_at_a_time():
    model = raw_model(d_mlp=256)
    matrix = model.blocks[1].mlp.W_in
    changes = [
        lambda: matrix.data[:, 7].fill_(5.0),
        lambda: matrix.detach().numpy().__setitem__((slice(None), 9), 5.0),
        lambda: matrix.data.copy_(matrix.data[:, torch.randperm(256)]),
        lambda: matrix.data[3].zero_(),
    ]
    for change in changes:
        before = model_id(model)
        change()
        assert model_id(model) != before


def test_shared_weights_and_norms_without_weights_count():
    ids = []
    for order in ([0, 1, 0, 1], [0, 1, 1, 0]):
        model, other = raw_model(n_layers=4), raw_model(n_layers=4)
        for i, j in enumerate(order):
            model.blocks[i].mlp = other.blocks[j].mlp
        ids.append(model_id(model))
    assert ids[0] != ids[1]
    folded = [raw_model(normalization_type=name) for name in ("LNPre", "RMSPre")]
    for model in folded:
        model.cfg.normalization_type = "LNPre"
    assert model_id(folded[0]) != model_id(folded[1])


def test_model_id_ignores_where_and_how_a_model_runs():
    model = rotary()
    before = model_id(model)
    model.set_use_attn_result(True)
    model.set_ungroup_grouped_query_attention(True)
    model.cfg.default_prepend_bos = not model.cfg.default_prepend_bos
    model.train()
    assert model_id(model) == before
    single = model_id(to_dtype(rotary(), torch.float32))
    assert single == model_id(to_dtype(to_dtype(rotary(), torch.float32), torch.float64))
    with torch.inference_mode():
        assert model_id(rotary()) == before


def test_an_id_of_version_0_2_is_recognised():
    model = toy()
    old = hashlib.sha256()
    for name, p in model.named_parameters():
        flat = p.detach().reshape(-1)
        old.update(name.encode() + str(tuple(p.shape)).encode())
        old.update(flat[:: max(1, len(flat) // 4096)].float().numpy().tobytes())
    assert has_id(model, old.hexdigest()[:16]) and has_id(model, model_id(model))
    assert not has_id(model, "0" * 16) and not has_id(model, "0" * 32) and not has_id(model, "")


def test_a_zero_model_computes_what_is_written_into_it_and_nothing_else():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zero_model(n_layers=1, n_heads=2, d_model=5, d_head=3, d_mlp=4, n_ctx=6, d_vocab=7)
    assert all(p.dtype == torch.float64 and not p.any() for p in model.parameters())
    tokens = torch.tensor([[6, 0, 3]])
    assert not model(tokens).any()
    rng = torch.Generator().manual_seed(0)
    w = {n: torch.randn(p.shape, generator=rng).double() for n, p in model.named_parameters()}
    model.load_state_dict(w, strict=False)
    x = w["embed.W_E"][tokens[0]] + w["pos_embed.W_pos"][:3]
    at, out = "blocks.0.attn.", x + w["blocks.0.attn.b_O"]
    for h in range(2):
        q, k, v = (x @ w[f"{at}W_{c}"][h] + w[f"{at}b_{c}"][h] for c in "QKV")
        scores = (q @ k.T).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)  # no scale
        out = out + scores.softmax(-1) @ v @ w[f"{at}W_O"][h]
    hidden = (out @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"]).relu()
    out = out + hidden @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"]
    assert_close(model(tokens)[0], out @ w["unembed.W_U"] + w["unembed.b_U"], 1e-12)
