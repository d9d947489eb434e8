"""A two-layer model with a tokenizer of words, and texts for it."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import prefix_interp as pi

TEXTS = ["a b c d e", "c a", "e e d b a c b"]


def letters():
    """A tokenizer of single letters: a is 1, b is 2, and so on."""
    table = {"?": 0} | {chr(96 + i): i for i in range(1, 27)}
    core = Tokenizer(models.WordLevel(table, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?")


def tiny(n_slots=2, seed=0, parameterization="kv", **sizes):
    """Return a model of float64 whose tokenizer reads letters, and a prefix of noise."""
    sizes = {"n_layers": 2, "n_heads": 3, "d_model": 24} | sizes
    model = pi.build_toy(pi.ToyConfig(n_prefix=n_slots, **sizes), seed=seed)
    model = pi.to_dtype(model, torch.float64)
    model.tokenizer = letters()
    return model, pi.Prefix.random(model, n_slots, seed, parameterization)
