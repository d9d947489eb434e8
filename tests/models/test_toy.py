import copy
import json
import math
import time

import pytest
import torch
from torch import nn

import prefix_interp as pi
from prefix_interp.models import toy as toy_module
from prefix_interp.models.host import host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.toy import SCHEMAS, Toy, read_toy, save_toy, toy_config
from prefix_interp.models.zoo import list_toys
from prefix_interp.storage import load_folder, save_folder
from tests.helpers import assert_close, assert_far, raw_model, tokens_for, toy


class MinGPT(nn.Module):
    """minGPT written again in plain torch, reading the weights of a toy."""

    def __init__(self, model, cfg):
        super().__init__()
        self.w = {k: v.detach() for k, v in model.named_parameters()}
        self.cfg = cfg

    def norm(self, x, name):
        kind = self.cfg.normalization
        if kind == "none" or (self.cfg.skip_ln1 and name.endswith("ln1")):
            return x
        if kind == "RMS":
            return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * self.w[f"{name}.w"]
        centred = x - x.mean(-1, keepdim=True)
        var = centred.pow(2).mean(-1, keepdim=True)
        return centred / (var + 1e-5).sqrt() * self.w[f"{name}.w"] + self.w[f"{name}.b"]

    def attention(self, x, at):
        n, d = x.shape[1], self.cfg.d_model // self.cfg.n_heads
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        out = self.w[f"{at}.b_O"]
        for h in range(self.cfg.n_heads):
            q, k, v = (x @ self.w[f"{at}.W_{c}"][h] + self.w[f"{at}.b_{c}"][h] for c in "QKV")
            scores = (q @ k.transpose(1, 2) / d**0.5).masked_fill(future, -math.inf)
            out = out + scores.softmax(-1) @ v @ self.w[f"{at}.W_O"][h]
        return out

    def mlp(self, x, at):
        x = x @ self.w[f"{at}.W_in"] + self.w[f"{at}.b_in"]
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x @ self.w[f"{at}.W_out"] + self.w[f"{at}.b_out"]

    def forward(self, tokens):
        x = self.w["embed.W_E"][tokens] + self.w["pos_embed.W_pos"][: tokens.shape[1]]
        for layer in range(self.cfg.n_layers):
            at = f"blocks.{layer}"
            x = x + self.attention(self.norm(x, f"{at}.ln1"), f"{at}.attn")
            if not self.cfg.attn_only:
                x = x + self.mlp(self.norm(x, f"{at}.ln2"), f"{at}.mlp")
        return self.norm(x, "ln_final") @ self.w["unembed.W_U"] + self.w["unembed.b_U"]


@pytest.mark.parametrize("normalization", ["LN", "RMS", "none"])
@pytest.mark.parametrize("skip_ln1", [False, True])
@pytest.mark.parametrize("attn_only", [False, True])
def test_logits_are_those_of_an_independent_mingpt(normalization, skip_ln1, attn_only):
    model = toy(normalization=normalization, skip_ln1=skip_ln1, attn_only=attn_only, d_mlp=20)
    oracle, tokens = MinGPT(model, toy_config(model)), tokens_for(model, 3, 9)
    assert_close(model(tokens), oracle(tokens), 1e-12)
    if normalization != "none":
        oracle.cfg = pi.ToyConfig(**{**vars(toy_config(model)), "normalization": "none"})
        assert_far(model(tokens), oracle(tokens))


def test_parameters_are_mingpts():
    """nanoGPT's count: no unembedding bias; ours is there, frozen at 0."""
    d, vocab, ctx = 96, 11, 20
    model = pi.build_toy(pi.ToyConfig(n_layers=1, n_heads=1, d_model=d))
    block = 12 * d**2 + 13 * d  # 4 d^2 + 4 d in attention, 8 d^2 + 5 d in the MLP, 4 d in norms
    expected = vocab * d + ctx * d + block + 2 * d + d * vocab
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == expected == 116_064
    assert not model.unembed.b_U.requires_grad and not model.unembed.b_U.any()


def test_initialisation_is_mingpts():
    model = pi.build_toy(pi.ToyConfig(n_layers=3, n_heads=4, d_model=64), seed=5)
    for name, p in model.named_parameters():
        leaf, p = name.rsplit(".", 1)[-1], p.detach()
        if leaf == "w":
            assert torch.equal(p, torch.ones_like(p)), name
        elif leaf.startswith("b"):
            assert not p.any(), name
        else:
            std = 0.02 / 6**0.5 if leaf in ("W_O", "W_out") else 0.02
            assert abs(float(p.std()) / std - 1) < 5 / (2 * p.numel()) ** 0.5, name
            assert abs(float(p.mean())) < 5 * std / p.numel() ** 0.5, name
            kurtosis = float(((p / p.std()) ** 4).mean())
            assert abs(kurtosis - 3) < 5 * (24 / p.numel()) ** 0.5, name  # normal, not uniform


def test_a_seed_gives_the_same_bits_and_touches_no_global_generator():
    cfg, state = pi.ToyConfig(d_model=8), torch.get_rng_state()
    one, again, other = (dict(pi.build_toy(cfg, s).named_parameters()) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert not torch.equal(one["embed.W_E"], other["embed.W_E"])
    weights = [v.flatten()[:5] for k, v in one.items() if ".W_" in k]
    assert len({tuple(w.tolist()) for w in weights}) == len(weights)  # no two weights alike


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bad",
    [dict(n_layers=0), dict(n_heads=3, d_model=8), dict(d_model=-1), dict(n_prefix=0),
     dict(n_content=True), dict(d_mlp=0), dict(normalization="Rms"), dict(attn_only=1)],
)  # fmt: skip
def test_a_config_that_makes_no_toy_is_refused(bad):
    with pytest.raises(pi.PrefixInterpError, match=next(iter(bad))):
        pi.ToyConfig(**bad)


def test_what_is_no_toy_is_refused_and_toys_are_known():
    with pytest.raises(pi.PrefixInterpError, match="build_toy"):
        toy_config(raw_model())
    assert host_of(raw_model()).n_reserved is None and host_of(toy(n_prefix=4)).n_reserved == 4


def test_a_copy_of_a_toy_is_one_and_a_foreign_attribute_makes_none():
    copied = copy.deepcopy(toy(n_prefix=3))
    assert isinstance(copied, Toy) and toy_config(copied) == toy_config(toy(n_prefix=3))
    foreign = raw_model()
    foreign.toy_config = toy_config(copied)
    assert host_of(foreign).n_reserved is None
    with pytest.raises(pi.PrefixInterpError, match="not a toy"):
        toy_config(foreign)


@pytest.mark.parametrize("settings", [{}, dict(skip_ln1=True), dict(normalization="RMS")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load_give_the_same_bits(tmp_path, settings, dtype):
    model = toy(dtype=dtype, **settings)
    path = save_toy(model, tmp_path / "a" / "toy", {"seed": 3, "nested": {"x": [1.5, None]}})
    loaded, metadata = read_toy(path)
    assert metadata == {"seed": 3, "nested": {"x": [1.5, None]}}
    assert toy_config(loaded) == toy_config(model) and model_id(loaded) == model_id(model)
    own, theirs = dict(loaded.named_parameters()), dict(model.named_parameters())
    assert own.keys() == theirs.keys()
    for name, p in theirs.items():
        assert torch.equal(own[name], p) and own[name].dtype == dtype
        assert own[name].requires_grad == p.requires_grad
    tokens = tokens_for(model)
    assert torch.equal(pi.load_toy(path)(tokens), model(tokens))
    assert sorted(p.name for p in path.iterdir()) == ["model.json", "model.safetensors"]
    assert [p.name for p in path.parent.iterdir()] == ["toy"]


@pytest.mark.usefixtures("unchecked")
def test_damaged_files_are_refused(tmp_path):
    path = save_toy(toy(), tmp_path / "toy")
    tensors, record = path / "model.safetensors", path / "model.json"
    data, text = tensors.read_bytes(), record.read_text()

    def refused(match):
        with pytest.raises(pi.PrefixInterpError, match=match) as error:
            pi.load_toy(path)
        assert "\n" not in str(error.value)
        tensors.write_bytes(data)
        record.write_text(text)

    for broken in (data[:-1], data[:100], b"", data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
        tensors.write_bytes(broken)
        refused("corrupted")
    weights, about = load_folder(path, "model", SCHEMAS)

    def saved(**changes):
        save_folder(path, "model", weights, {**about, **changes})

    record.write_text(json.dumps({**json.loads(text), "metadata": {"task": "other"}}))
    refused("checksum")
    saved(metadatas={})
    refused("did you mean 'metadata'")
    saved(config={**about["config"], "n_head": 2})
    refused("did you mean 'n_heads'")
    for config in ({"n_layers": 1}, {"d_model": 16}, {"normalization": "RMS"}, {"n_content": 8},
                   {"d_model": 10**9}):  # fmt: skip
        saved(config=about["config"] | config)
        refused("does not hold what its record asks for")
    for bad, match in [("2", "n_layers='2'"), (10**9, "too deep"), (None, "n_layers=None")]:
        saved(config=about["config"] | {"n_layers": bad})
        refused(match)
    saved(config={k: v for k, v in about["config"].items() if k != "d_vocab"})
    refused("lacks 'd_vocab'")
    for other in ("[]", "null", "{}", "", '{"format": 1}', '{"format": 1, "config": 3}'):
        record.write_text(other)
        refused("JSON|object|format|checksum|lacks|wrong")
    record.write_bytes(b"\xff\xfe")
    refused("JSON")
    record.unlink()
    refused("does not exist")
    tensors.unlink()
    refused("does not exist")
    pi.load_toy(path)


@pytest.mark.usefixtures("unchecked")
def test_foreign_but_intact_files_are_refused(tmp_path):
    path = save_toy(toy(), tmp_path / "toy")
    tensors, record = load_folder(path, "model", SCHEMAS)
    wrong = {
        "missing": {k: v for k, v in tensors.items() if k != "embed.W_E"},
        "extra": {**tensors, "more": torch.zeros(1)},
        "shape": {**tensors, "embed.W_E": tensors["embed.W_E"][:-1]},
        "whole": {**tensors, "embed.W_E": tensors["embed.W_E"].long()},
        "mixed": {**tensors, "embed.W_E": tensors["embed.W_E"].bfloat16()},
        "broadcast": {**tensors, "blocks.0.attn.W_Q": tensors["blocks.0.attn.W_Q"][:1, :1, :1]},
        "nan": {**tensors, "embed.W_E": tensors["embed.W_E"] * torch.nan},
    }
    for what, weights in wrong.items():
        save_folder(path, "model", weights, record)
        with pytest.raises(pi.PrefixInterpError, match=r"asks for|NaN|as I64|several"):
            pi.load_toy(path)
            raise AssertionError(what)
    for config in (None, 3, [1]):
        save_folder(path, "model", tensors, {**record, "config": config})
        with pytest.raises(pi.PrefixInterpError, match="wrong 'config'"):
            pi.load_toy(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_deep_toy_is_read_in_a_moment(tmp_path, dtype):
    """TransformerLens's own change of precision takes time with the square of the layers."""
    cfg = pi.ToyConfig(n_layers=300, n_heads=1, d_model=1, d_mlp=1, n_content=1)
    path = save_toy(nn.Module.to(pi.build_toy(cfg), dtype), tmp_path)
    start = time.process_time()
    loaded, _ = read_toy(path)
    assert time.process_time() - start < 10, "it took minutes"
    assert loaded.cfg.dtype == loaded.W_E.dtype == dtype


def test_a_file_in_the_way_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "toy"):
        with pytest.raises(pi.PrefixInterpError):
            save_toy(toy(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_zoo():
    names = list_toys()
    assert "sort-ascending-1l1h" in names
    model = pi.load_toy("sort-ascending-1l1h")
    cfg = toy_config(model)
    assert (cfg.n_layers, cfg.n_heads) == (1, 1)
    assert model_id(model) == json.loads(
        (toy_module.Path(toy_module.__file__).parent / "trained/sort-ascending-1l1h/model.json")
        .read_text()
    )["model_id"]  # fmt: skip
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'sort-ascending-1l1h'"):
        pi.load_toy("sort_ascending_1l1h")
    with pytest.raises(pi.PrefixInterpError, match="zoo holds"):
        pi.load_toy("/nowhere/at/all")


@pytest.mark.parametrize("normalization", ["LN", "RMS", "none"])
@pytest.mark.parametrize(("attn_only", "skip_ln1"), [(False, False), (True, False), (False, True)])
def test_the_shapes_of_a_config_are_those_of_its_model(normalization, attn_only, skip_ln1):
    cfg = pi.ToyConfig(
        n_layers=2, n_heads=2, d_model=8, d_mlp=5, n_content=3, normalization=normalization,
        attn_only=attn_only, skip_ln1=skip_ln1,
    )  # fmt: skip
    model = pi.build_toy(cfg)
    assert cfg.shapes == {name: tuple(p.shape) for name, p in model.named_parameters()}


def test_a_name_that_no_file_can_have_is_refused():
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(pi.PrefixInterpError, match="cannot be used"):
            pi.load_toy(name)
