"""Refused: models that hooks change, that see later tokens, or whose files lack weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

import prefix_interp as pi
from prefix_interp.models.unwrapped import causal_logits
from tests.tiny_language_models import KINDS, hub_model, random_tokens, saved_model

SMALL = dict(vocab_size=99, hidden_size=32, num_hidden_layers=2, initializer_range=0.3)
HEADS = dict(num_attention_heads=4, intermediate_size=48)


def refused(message):
    return pytest.raises(pi.PrefixInterpError, match=message)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_that_are_supported_are_causal_and_keep_their_logits(kind):
    hf, tokens = hub_model(kind), random_tokens()
    before = causal_logits(hf)
    own = hf(tokens).logits
    lm = pi.load_pretrained(hf)
    assert before.shape == (2, 8, 99)
    for now in (lm(tokens), hf(tokens).logits):
        assert (now - own).abs().max() < 1e-5 * own.abs().max()


def cohere():
    torch.manual_seed(0)
    return CohereForCausalLM(CohereConfig(**SMALL, **HEADS, num_key_value_heads=2))


def test_a_model_that_is_computed_otherwise_under_hooks_is_refused_and_stays_as_it_was():
    hf, tokens = cohere(), random_tokens()
    hf.set_attn_implementation("sdpa")
    own = hf.eval()(tokens).logits
    hf.train()
    modules = [type(module) for module in hf.modules()]
    for _ in range(2):  # not "wrapped already" the second time
        with refused("model=CohereForCausalLM is computed otherwise under TransformerLens"):
            pi.load_pretrained(hf)
        assert [type(module) for module in hf.modules()] == modules
    assert hf.training and hf.config.use_cache and hf.config._attn_implementation == "sdpa"
    assert torch.equal(hf.eval()(tokens).logits, own)
    with refused("is computed otherwise"):
        pi.load_pretrained(hub_model("gpt2", scale_attn_weights=False))


def test_a_refusal_for_another_reason_leaves_the_model_too():
    config = FalconConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, alibi=True,
                          num_attention_heads=4)  # fmt: skip
    hf, tokens = FalconForCausalLM(config).eval(), random_tokens()
    own = hf(tokens).logits
    for _ in range(2):
        with refused("ALiBi|alibi|computed otherwise"):
            pi.load_pretrained(hf)
    assert torch.equal(hf(tokens).logits, own)


def gemma_both_ways():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma3_text", **SMALL, **HEADS, use_bidirectional_attention=True, sliding_window=32,
        query_pre_attn_scalar=8, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def bert():
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SMALL, **HEADS))


@pytest.mark.parametrize("make", [gemma_both_ways, bert])
def test_models_whose_positions_see_later_ones_are_refused(make):
    with refused("lets earlier positions see later ones"):
        pi.load_pretrained(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: MambaForCausalLM(MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2)),
        lambda: hub_model("gpt_neox", attention_bias=False),
    ],
)
def test_what_transformer_lens_does_not_know_is_one_line(make):
    with refused("^model=.*TransformerLens: .+$"):
        pi.load_pretrained(make())


def _config(**changes):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def _without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without_a_weight, r"missing in the files: model.layers.1.mlp.up_proj.weight"),
        (_config(num_hidden_layers=4), "missing in the files: model.layers.3"),
        (_config(num_hidden_layers=2), "in the files and not in the model: model.layers.2"),
        (_config(intermediate_size=64), "have another shape in the files"),
        (_cut, "cannot be read as a causal language model"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer=.*cannot be read"),
    ],
    ids=["weight", "more layers", "fewer layers", "shape", "cut", "tokenizer"],
)
def test_files_that_do_not_fit_are_refused(change, says, tmp_path):
    folder = saved_model(tmp_path / "model", "llama")
    change(folder)
    with refused(says):
        pi.load_pretrained(folder)


def test_a_head_of_something_else_in_the_files_is_left_out(tmp_path):
    folder = saved_model(tmp_path / "model", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["reward_head.weight"] = torch.zeros(1, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(pi.load_pretrained(folder).W_E, hub_model("llama").model.embed_tokens.weight)


def test_a_tokenizer_is_a_tokenizer(unchecked):
    with refused("tokenizer is a int; give a tokenizer of transformers"):
        pi.load_pretrained(hub_model("llama"), 5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_embeddings_of_a_text_are_its_soft_prompt(kind):
    from prefix_interp.prefixes.exact import SOFT, check_exact

    check_exact(pi.load_pretrained(hub_model(kind)), SOFT)


def test_a_soft_prompt_is_refused_where_rows_among_the_tokens_are_not_those_of_a_text(monkeypatch):
    from prefix_interp.models.bridge import BridgeHost

    lm = pi.load_pretrained(hub_model("llama"))
    embed = BridgeHost.embed
    monkeypatch.setattr(BridgeHost, "embed", lambda self, tokens: 1.5 * embed(self, tokens))
    with refused("cannot take a soft prompt: a text put in as rows gives logits"):
        with pi.attach(lm, pi.SoftPrompt.random(lm, 2)):
            lm(random_tokens())
