"""Whether a context acts: by our way and PEFT's, and what a broken way looks like."""

import importlib.util

import peft
import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.pretrained import load_pretrained
from prefix_interp.prefixes.check import check_context
from tests.adapters import adapted, saved_adapter
from tests.helpers import toy
from tests.tiny_language_models import (
    hub_model,
    language_model,
    random_tokens,
    saved_model,
    tokenizer,
)

OURS = ("forward depends on the context (ours)", "generate follows the context (ours)")
FORWARD, AGREE = "forward depends on the context (PEFT)", "forward of PEFT and ours agree"
CACHED = "generate with a cache follows the context (PEFT)"
UNCACHED = "generate without a cache follows the context (PEFT)"
SLOTS = "slot that takes no attention (< 0.0001)"
HEADS = "head that is not changed (< 0.0001)"
TEXTS = ["w5 w7 w9 w11 w40", "w6 w8", "w30 w31 w32 w33 w34 w35 w36"]


def finding(check, question):
    return check.sentences[check.questions.index(question)]


@pytest.mark.parametrize("method", ["projected", "prompt"])
def test_folders_of_a_model_and_an_adapter(method, tmp_path):
    folder = saved_model(tmp_path / "model", "gpt2")
    adapter = saved_adapter(tmp_path / "adapter", "gpt2", method)
    check = check_context(folder, adapter, TEXTS)
    assert check.passed
    for question in (*OURS, FORWARD, AGREE, CACHED, SLOTS, HEADS):
        assert check.verdict(question) == "pass", question
    assert check.mass.shape == (3, 4, 4)
    assert f"transformers {importlib.import_module('transformers').__version__}" in finding(
        check, "versions"
    )
    frame = check.to_dataframe()
    assert list(frame.columns) == ["question", "verdict", "finding"] and len(frame) == 11
    assert check.caption().endswith("0 failed")


def test_models_in_memory_stay_as_they_are():
    tokens, own = random_tokens(3, 9), hub_model("llama")
    own.train()
    learns = own.lm_head.weight.requires_grad = True
    before = own(tokens).logits.detach()
    prefix = pi.Prefix.random(load_pretrained(hub_model("llama")), 3, parameterization="kv")
    check = check_context(own, prefix, tokens)
    assert check.passed and check.verdict(AGREE) == "pass"
    assert own.training and own.lm_head.weight.requires_grad == learns
    assert torch.equal(own(tokens).logits.detach(), before)
    live = adapted("qwen2", "p-tuning")
    assert check_context(live, None, tokens).verdict(AGREE) == "pass"
    assert check_context(live, None, TEXTS, tokenizer=tokenizer()).verdict(CACHED) == "pass"


def test_a_wrapped_model_and_a_toy_have_no_way_of_peft():
    for model in (language_model("llama"), toy(n_content=12)):
        check = check_context(model, pi.Prefix.random(model, 2))
        assert check.passed and check.verdict(OURS[0]) == check.verdict(OURS[1]) == "pass"
        for question in (FORWARD, AGREE, CACHED, UNCACHED):
            assert check.verdict(question) == "not checked"
            assert "needs the Hugging Face model or its folder" in finding(check, question)
    suffix = pi.SoftPrompt.random(language_model("llama"), 2, position=1)
    check = check_context(hub_model("llama"), suffix, random_tokens())
    assert check.verdict(AGREE) == "not checked" and "position=1" in finding(check, AGREE)


def test_a_generate_that_ignores_the_prefix_is_found(monkeypatch):
    def ignore(self, *args, **kwargs):
        return self.get_base_model().generate(*args, **kwargs)

    monkeypatch.setattr(peft.PeftModelForCausalLM, "generate", ignore)
    check = check_context(adapted("llama", "prefix"), None, random_tokens())
    assert check.verdict(CACHED) == check.verdict(UNCACHED) == "fail" and not check.passed
    assert "ignores the context without a word" in finding(check, CACHED)
    assert check.verdict(FORWARD) == check.verdict(AGREE) == check.verdict(OURS[1]) == "pass"
    assert f"2 failed: {CACHED}; {UNCACHED}" in check.caption()


def test_a_forward_that_ignores_or_changes_the_prefix_is_found(monkeypatch, tmp_path):
    model = adapted("llama", "prefix")
    given = pi.Prefix.from_peft(model, language_model("llama"))
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.mul_(1.5)
    check = check_context(model, given.for_any_model(), random_tokens())
    assert check.verdict(AGREE) == "fail" and check.verdict(FORWARD) == "pass"
    monkeypatch.setattr(
        peft.PeftModelForCausalLM, "forward", lambda self, **k: self.get_base_model()(**k)
    )
    check = check_context(model, None, random_tokens())
    assert check.verdict(FORWARD) == "fail" and "bare model's" in finding(check, FORWARD)


def test_one_that_stops_says_with_what(monkeypatch):
    def stop(self, *args, use_cache, **kwargs):
        raise IndexError("no\nroom")

    monkeypatch.setattr(peft.PeftModelForCausalLM, "generate", stop)
    check = check_context(adapted("llama", "prefix"), None, random_tokens())
    assert check.verdict(CACHED) == "fail" and check.verdict(UNCACHED) == "note"
    assert finding(check, CACHED) == "PEFT's generate stops with IndexError: no room"


def dying(model, slots):
    """A prefix of which some slots have keys that no query of `model` meets."""
    with torch.no_grad():
        bias = []
        for block in model.original_model.transformer.h:
            attention = (
                block.attn.original_component
                if hasattr(block.attn, "original_component")
                else block.attn
            )
            rows = attention.c_attn.bias[:32]
            rows.copy_(torch.where(rows >= 0, 10.0, -10.0))
            bias.append(rows.clone().view(4, 8))
    prefix = pi.Prefix.random(model, 3, parameterization="kv")
    keys = prefix.keys.clone()
    keys[:, slots] = -10 * torch.stack(bias)[:, None]
    return pi.Prefix("kv", keys=keys, values=prefix.values, key_form="scored")


def test_dead_slots_and_heads_are_named():
    model = language_model("gpt2")
    check = check_context(model, dying(model, [1]), random_tokens())
    assert check.verdict(SLOTS) == "note" and finding(check, SLOTS) == "1 of 3 slots: 1."
    assert check.verdict(OURS[0]) == "pass" and check.passed
    model = language_model("gpt2")
    check = check_context(model, dying(model, [0, 1, 2]), random_tokens())
    assert check.verdict(OURS[0]) == "fail" and not check.passed
    assert finding(check, HEADS).startswith("12 of 12 heads: 0.0, 0.1")
    assert float(check.mass.max()) < 1e-4


def test_the_mass_is_that_of_the_pattern():
    model, tokens = language_model("llama"), random_tokens()
    prefix = pi.Prefix.random(model, 3)
    with pi.attach(model, prefix), torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    want = torch.stack([cache[pi.Site.PATTERN.at(i)][:, :, 3:, :3].amax((0, 2)) for i in range(3)])
    assert torch.allclose(check_context(model, prefix, tokens).mass, want)


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    folder = saved_model(tmp_path / "model", "llama")
    adapter = saved_adapter(tmp_path / "adapter", "llama", "prefix")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find(name, *a)
    )
    check = check_context(folder, adapter, random_tokens())
    assert check.verdict(CACHED) == "not checked" and "pip install peft" in finding(check, CACHED)
    model = language_model("llama")
    prefix = pi.Prefix.random(model, 2)
    for call, says in (
        (lambda: check_context(3, prefix), "model=int is not supported"),
        (
            lambda: check_context(model, prefix, torch.zeros(2, 0, dtype=torch.long)),
            "give integers with axes batch, pos",
        ),
        (lambda: check_context(model, prefix, torch.full((1, 4), 9999)), "vocabulary"),
        (lambda: check_context(model, prefix, []), "texts"),
        (lambda: check_context(model.original_model, prefix), "wrapped already"),
        (lambda: check_context(model, tmp_path), "holds no saved context"),
    ):
        with pytest.raises(pi.PrefixInterpError, match=says):
            call()


def test_tokens_that_are_no_integers_are_refused(unchecked):
    model = language_model("llama")
    with pytest.raises(pi.PrefixInterpError, match="float32; give integers"):
        check_context(model, pi.Prefix.random(model, 2), torch.rand(2, 5))
