"""Tiny random language models of many Hugging Face architectures, made in memory, without a hub."""

import copy
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from prefix_interp.models.pretrained import load_pretrained
from prefix_interp.seeds import derive_generator

D_VOCAB, N_CTX = 99, 64
_PLAIN = dict(
    vocab_size=D_VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=48, max_position_embeddings=N_CTX, pad_token_id=0, bos_token_id=1,
    eos_token_id=None,
)  # fmt: skip
_GROUPED = dict(_PLAIN, num_key_value_heads=2, head_dim=8)
_GPT2 = dict(
    vocab_size=D_VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=N_CTX, pad_token_id=0,
    bos_token_id=1, eos_token_id=None,
)  # fmt: skip
_OPT = dict(
    vocab_size=D_VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, ffn_dim=48,
    max_position_embeddings=N_CTX, word_embed_proj_dim=32, pad_token_id=1, bos_token_id=2,
    eos_token_id=None,
)  # fmt: skip
# By Hugging Face's name of the kind. No token ends a text, so that decoding has a known length.
KINDS = {
    "gpt2": _GPT2,
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "gpt_neox": dict(_PLAIN, rotary_pct=0.5),
    "opt": _OPT,
    "mistral": dict(_GROUPED, sliding_window=None),
    "gemma": _GROUPED,
    "phi": dict(_PLAIN, partial_rotary_factor=0.5),
    "stablelm": dict(_PLAIN, num_key_value_heads=2, partial_rotary_factor=0.25),
    "phi3": _GROUPED,
}
# One of each way that attention is wired up; the others run with the slow tests.
OFTEN = ("gpt2", "llama", "qwen3", "gpt_neox", "opt", "phi3")
every_kind = pytest.mark.parametrize(
    "kind",
    [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)


def hub_model(kind, dtype=torch.float32, seed=0, gain=6.0, **changes):
    """A Hugging Face model of a kind in `KINDS`, with weights that make attention far from even.

    `changes` are settings of its configuration.
    """
    config = AutoConfig.for_model(kind, **{**KINDS[kind], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()
    rng = derive_generator(seed, "tiny-language-model", kind)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng, dtype=torch.float64)
            if p.ndim > 1:
                p.copy_(noise * gain * 0.02)
            elif "bias" in name:
                p.copy_(noise * 0.3)
            else:
                p.copy_(1 + noise * 0.1)
    return model


def tokenizer():
    """A tokenizer of the words w2, w3, ...: w7 is token 7. Each test gets its own, to change."""
    return copy.deepcopy(_words())


@cache
def _words():
    words = {"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i for i in range(2, D_VOCAB)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    with tempfile.TemporaryDirectory() as folder:  # a saved one knows its own place
        fast.save_pretrained(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder)


def language_model(kind, dtype=torch.float32, seed=0, gain=6.0, **changes):
    """The same model as `load_pretrained` gives it: with hooks, and a tokenizer."""
    return load_pretrained(hub_model(kind, dtype, seed, gain, **changes), tokenizer())


def saved_model(folder, kind, dtype=torch.float32, seed=0, gain=6.0, **changes):
    """The folder of the same model and its tokenizer, as `save_pretrained` writes it."""
    hub_model(kind, dtype, seed, gain, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Path(folder)


def random_tokens(batch=2, length=7, seed=0):
    rng = derive_generator(seed, "tiny-language-model-tokens")
    return torch.randint(2, D_VOCAB, (batch, length), generator=rng)
