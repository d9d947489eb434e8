"""Loading Hugging Face models: from folders and from memory, refused in one line, never a hub."""

import json
import pickle
import socket

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

import prefix_interp as pi
from prefix_interp.models.model import model_id
from tests.helpers import assert_close
from tests.tiny_language_models import (
    hub_model,
    language_model,
    random_tokens,
    saved_model,
    tokenizer,
)

pytestmark = pytest.mark.usefixtures("unchecked", "no_network")


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def refused(match):
    return pytest.raises(pi.PrefixInterpError, match=match)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_folder_and_memory_give_the_same_model(tmp_path, kind):
    folder, tokens = saved_model(tmp_path, kind), random_tokens()
    from_folder, from_memory = pi.load_pretrained(folder), pi.load_pretrained(hub_model(kind))
    assert_close(from_folder(tokens), hub_model(kind)(tokens).logits, 1e-6)
    assert (
        model_id(from_folder) == model_id(from_memory) == model_id(pi.load_pretrained(str(folder)))
    )
    assert from_folder.tokenizer("w3 w7")["input_ids"] == [3, 7]
    assert from_memory.tokenizer is None
    assert not from_folder.training and not from_memory.training
    with pi.attach(from_memory, pi.Prefix.random(from_memory, 2, parameterization="kv")):
        from_memory(tokens)


def test_the_wrapped_model_still_runs_by_itself():
    hf, tokens = hub_model("llama"), random_tokens()
    want = hf(tokens).logits
    pi.load_pretrained(hf)
    assert_close(hf(tokens).logits, want, 1e-6)
    with refused("model is wrapped already"):
        pi.load_pretrained(hf)


def test_a_tokenizer_is_taken_or_read_from_its_folder(tmp_path):
    tokenizer().save_pretrained(tmp_path / "words")
    given = tokenizer()
    for each in (given, tmp_path / "words"):
        lm = pi.load_pretrained(hub_model("llama"), each)
        assert lm.tokenizer("w5")["input_ids"] == [5]
    assert pi.load_pretrained(hub_model("llama"), given).tokenizer is given
    (tmp_path / "empty").mkdir()
    with refused("holds no tokenizer; give the folder of a saved one"):
        pi.load_pretrained(hub_model("llama"), tmp_path / "empty")
    with refused("tokenizer"):
        pi.run_pair(lm := pi.load_pretrained(hub_model("llama")), pi.Prefix.random(lm, 1), ["w3"])


def test_texts_are_run_and_padded_on_the_right():
    lm = language_model("llama")
    prefix = pi.Prefix.random(lm, 2, parameterization="kv")
    pair = pi.run_pair(lm, prefix, ["w3 w4 w5", "w6"])
    alone = pi.run_pair(lm, prefix, ["w6"])
    assert pair.tokens.tolist()[0] == [3, 4, 5] and pair.tokens[1, 0] == 6
    assert_close(pair.logits_on[1, :1], alone.logits_on[0], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision(tmp_path, dtype):
    lm = pi.load_pretrained(saved_model(tmp_path, "llama"), dtype=dtype)
    prefix = pi.Prefix.random(lm, 2, parameterization="kv")
    assert prefix.keys.dtype == lm.W_E.dtype == dtype
    with pi.attach(lm, prefix):
        assert lm(random_tokens()).dtype == dtype
    assert pi.load_pretrained(saved_model(tmp_path, "llama")).W_E.dtype == torch.float32


def test_places(tmp_path):
    folder = saved_model(tmp_path, "llama")
    lm = pi.load_pretrained(folder, device_map={"": "cpu"})
    assert_close(lm(random_tokens()), hub_model("llama")(random_tokens()).logits, 1e-6)
    with refused("device='cpu' and device_map are both given"):
        pi.load_pretrained(folder, device="cpu", device_map="auto")
    with refused("device_map goes with a folder"):
        pi.load_pretrained(hub_model("llama"), device_map="auto")
    with refused("device='tpu'"):
        pi.load_pretrained(folder, device="tpu")


def test_what_is_no_model(tmp_path):
    with refused("model='gpt2' is no folder on this machine, and no hub is asked"):
        pi.load_pretrained("gpt2")
    with refused("holds no config.json"):
        pi.load_pretrained(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"")
    with refused("is a file; give the model's folder, or a .gguf file"):
        pi.load_pretrained(tmp_path / "model.bin")
    with refused("model=int is no Hugging Face model"):
        pi.load_pretrained(3)


def test_pickled_weights_are_not_read(tmp_path):
    folder = saved_model(tmp_path, "llama")
    for file in folder.glob("*.safetensors"):
        file.unlink()

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with refused(r"only pickled weights \(pytorch_model.bin\), which may run code"):
        pi.load_pretrained(folder)


def test_code_that_comes_with_weights_does_not_run(tmp_path):
    folder = saved_model(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with refused("cannot be read as a causal language model"):
        pi.load_pretrained(folder)


def test_models_that_are_no_causal_language_models():
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=99, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    with refused("encoder and a decoder"):
        pi.load_pretrained(t5)
    bert = BertModel(
        BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=16)
    )  # fmt: skip
    with refused("model=BertModel gives no logits"):
        pi.load_pretrained(bert)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_inside_the_layers_are_refused():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    adapted = peft.get_peft_model(hub_model("llama"), config)
    with refused(r"give model.get_base_model\(\), or merge_and_unload"):
        pi.load_pretrained(adapted)
    with refused("adapter of PEFT at 'model.layers.0.self_attn.q_proj"):
        pi.load_pretrained(adapted.get_base_model())
    pi.load_pretrained(adapted.merge_and_unload())


def test_other_models_are_named(tmp_path):
    with refused("a Hugging Face model goes in through load_pretrained"):
        pi.Prefix.random(hub_model("llama"), 2)
