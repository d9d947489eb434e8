"""Adapters of PEFT: the same logits as PEFT's own, both ways, and one line for what is no context.

Every file here is read with connections refused.
"""

import json
import socket
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import prefix_interp as pi
from prefix_interp.prefixes.peft import read_adapter
from tests.adapters import (
    METHODS,
    OF_PREFIXES,
    adapted,
    loaded,
    peft_logits,
    quiet,
    saved_adapter,
)
from tests.helpers import assert_close, assert_far, toy
from tests.tiny_language_models import every_kind, hub_model, language_model, random_tokens


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def context_of(method, given, lm):
    kind = pi.Prefix if method in OF_PREFIXES else pi.SoftPrompt
    return kind.from_peft(given, lm)


def attached_logits(lm, context, tokens):
    with torch.no_grad(), pi.attach(lm, context):
        return lm(tokens)


@every_kind
@pytest.mark.parametrize("method", ["prefix", "projected", "prompt", "p-tuning"])
def test_logits_are_those_of_peft(kind, method, tmp_path):
    theirs, tokens, lm = adapted(kind, method), random_tokens(), language_model(kind)
    with quiet():
        theirs.save_pretrained(tmp_path)
    want = peft_logits(theirs, tokens)
    assert_far(want, peft_logits(hub_model(kind), tokens), 1e-2)
    context = context_of(method, tmp_path, lm)
    assert_close(attached_logits(lm, context, tokens), want, 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_live_model_gives_what_its_folder_does(method, tmp_path):
    theirs, lm = adapted("llama", method), language_model("llama")
    with quiet():
        theirs.save_pretrained(tmp_path)
    theirs.train()  # a prompt encoder of LSTMs would then drop numbers
    live, saved = context_of(method, theirs, lm), context_of(method, tmp_path, lm)
    again = context_of(method, loaded(tmp_path, "llama"), lm)
    for name, tensor in saved.tensors.items():
        assert torch.equal(live.tensors[name], tensor)
        assert torch.equal(again.tensors[name], tensor)
    assert theirs.prompt_encoder["default"].training
    assert saved.model_id == live.model_id
    assert saved.metadata["peft"]["peft_type"] == read_adapter(tmp_path).kind
    assert saved.metadata["from"] == f"PEFT, {tmp_path}"
    assert live.metadata["from"] == "PEFT, PeftModel"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_the_round_trip_gives_equal_tensors_and_logits(kind, method, tmp_path):
    saved_adapter(tmp_path / "theirs", kind, method)
    lm, tokens = language_model(kind), random_tokens()
    context = context_of(method, tmp_path / "theirs", lm)
    assert context.to_peft(tmp_path / "ours", lm) == tmp_path / "ours"
    theirs, ours = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours")
    )
    assert list(ours) == ["prompt_embeddings"]
    assert torch.equal(ours["prompt_embeddings"], theirs["prompt_embeddings"])
    again = peft_logits(loaded(tmp_path / "ours", kind), tokens)
    assert torch.equal(again, peft_logits(loaded(tmp_path / "theirs", kind), tokens))
    configs = [
        json.loads((tmp_path / name / "adapter_config.json").read_text())
        for name in ("theirs", "ours")
    ]
    assert configs[0] == configs[1]


@every_kind
def test_contexts_of_our_own_load_in_peft(kind, tmp_path):
    lm, tokens = language_model(kind), random_tokens()
    contexts = {
        "kv": pi.Prefix.random(lm, 3, parameterization="kv"),
        "residual": pi.Prefix.random(lm, 3),
        "prompt": pi.SoftPrompt.random(lm, 3),
    }
    for name, context in contexts.items():
        context.to_peft(tmp_path / name, lm)
        want = attached_logits(lm, context, tokens)
        assert_close(peft_logits(loaded(tmp_path / name, kind), tokens), want, 1e-4)


def test_a_prefix_that_was_written_and_read_is_saved_as_ours(tmp_path):
    lm = language_model("qwen3")
    prefix = pi.Prefix.from_peft(saved_adapter(tmp_path / "a", "qwen3", "projected"), lm)
    again = pi.Prefix.load(prefix.save(tmp_path / "b"))
    assert torch.equal(again.keys, prefix.keys) and again.metadata == prefix.metadata
    assert again.model_id == prefix.model_id and again.key_form == "scored"


def test_where_a_context_is_wanted_the_folder_of_an_adapter_names_its_reader(tmp_path):
    folder = saved_adapter(tmp_path, "llama", "prefix")
    with pytest.raises(pi.PrefixInterpError, match="holds an adapter of PEFT; read it"):
        pi.run_pair(language_model("llama"), folder, random_tokens())


def test_a_folder_is_read_without_peft(tmp_path, monkeypatch):
    saved_adapter(tmp_path, "llama", "prefix")
    lm = language_model("llama")
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises from here on
    assert pi.Prefix.from_peft(tmp_path, lm).n_slots == 4


def refused(message, call, *args):
    with pytest.raises(pi.PrefixInterpError, match=message) as found:
        call(*args)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(num_hidden_layers=2), "num_layers=3, not 2"),
        (dict(num_key_value_heads=1), "num_attention_heads=2, not 1"),
        (dict(head_dim=16), "token_dim=16, not 32"),
    ],
)
def test_an_adapter_of_another_model_is_refused(changes, says, tmp_path):
    saved_adapter(tmp_path, "llama", "prefix")
    refused(f"of another base model.*{says}", pi.Prefix.from_peft, tmp_path,
            language_model("llama", **changes))  # fmt: skip


def test_sizes_that_the_configuration_hides_are_seen_in_the_tensor(tmp_path):
    saved_adapter(tmp_path, "llama", "prompt")
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | {"token_dim": None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    wide = language_model("llama", hidden_size=64)
    refused("rows of 32 numbers, not 64", pi.SoftPrompt.from_peft, tmp_path, wide)


def test_files_that_are_missing_damaged_or_pickled(tmp_path):
    lm, read = language_model("llama"), pi.Prefix.from_peft
    refused("is no folder on this machine", read, tmp_path / "none", lm)
    (tmp_path / "empty").mkdir()
    refused("holds no adapter_config.json; give the folder", read, tmp_path / "empty", lm)
    pi.Prefix.random(lm, 2).save(tmp_path / "ours")
    refused("call Prefix.load", read, tmp_path / "ours", lm)
    folder = saved_adapter(tmp_path / "whole" / "french", "llama", "prefix")
    refused("adapters in folders: give one of them, e.g. 'french'", read, tmp_path / "whole", lm)
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    refused("truncated or corrupted", read, folder, lm)
    save_file({"other": torch.zeros(4, 96)}, weights)
    refused("changes other weights, too", read, folder, lm)
    save_file({"prompt_embeddings": torch.zeros(3, 96)}, weights)
    refused("says num_virtual_tokens=4", read, folder, lm)
    save_file({"prompt_embeddings": torch.full((4, 96), torch.nan)}, weights)
    refused("NaN", read, folder, lm)
    weights.unlink()
    refused("holds no adapter_model.safetensors", read, folder, lm)
    (folder / "adapter_model.bin").write_bytes(b"x")
    refused("a pickle, which may run code", read, folder, lm)
    (folder / "adapter_config.json").write_text("{")
    refused("is not valid JSON", read, folder, lm)


def test_what_is_no_context_of_a_causal_model_is_refused(tmp_path):
    lm, read = language_model("llama"), pi.Prefix.from_peft
    with quiet():
        lora = peft.get_peft_model(hub_model("llama"), peft.LoraConfig(task_type="CAUSAL_LM"))
        lora.save_pretrained(tmp_path / "lora")
    refused("of the method LORA, which is no context", read, lora, lm)
    refused("of the method LORA, which is no context", read, tmp_path / "lora", lm)
    refused("adapter=int is no adapter", read, 3, lm)
    refused("is no adapter", read, hub_model("llama"), lm)
    folder = saved_adapter(tmp_path / "prefix", "llama", "prefix")
    refused("load it with Prefix.from_peft", pi.SoftPrompt.from_peft, folder, lm)
    refused("load it with SoftPrompt.from_peft", read, adapted("llama", "prompt"), lm)
    refused("none of Hugging Face's", read, folder, toy())
    whole = json.loads((folder / "adapter_config.json").read_text())
    for changes, says in (
        (dict(num_transformer_submodules=2), "an encoder-decoder"),
        (dict(task_type="SEQ_CLS"), "task_type='SEQ_CLS'"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(whole | changes))
        refused(says, read, folder, lm)


def test_what_peft_cannot_hold_is_not_written(tmp_path):
    lm = language_model("gpt2")
    keeps = pi.Prefix.random(lm, 2, parameterization="kv", positions="keep")
    refused("positions='keep' is not possible", keeps.to_peft, tmp_path / "a", lm)
    suffix = pi.SoftPrompt.random(lm, 2, position=3)
    refused("position=3, but PEFT's", suffix.to_peft, tmp_path / "a", lm)
    deep = pi.SoftPrompt.random(lm, 2, layers="all")
    refused("layers='all'", deep.to_peft, tmp_path / "a", lm)
    refused("none of Hugging Face's", pi.SoftPrompt.random(toy(), 1).to_peft, tmp_path / "a", toy())
    assert not (tmp_path / "a").exists()
    # Where only distances of positions count, keeping them is the same.
    rotary = language_model("llama")
    prefix = pi.Prefix.random(rotary, 2, parameterization="kv", positions="keep")
    assert prefix.to_peft(tmp_path / "b", rotary) == tmp_path / "b"
