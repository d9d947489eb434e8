"""A two-layer model with a tokenizer of words, and texts for it."""

import torch

import prefix_interp as pi

TEXTS = ["a b c d e", "c a", "e e d b a c b"]


class Words:
    """A tokenizer of single letters: a is 1, b is 2, and so on."""

    padding_side = "right"

    def __call__(self, text):
        return {"input_ids": [ord(word) - 96 for word in text.split()]}

    def decode(self, ids):
        return " " + "".join(chr(96 + i) for i in ids)


def tiny(n_slots=2, seed=0, parameterization="kv", **sizes):
    """Return a model of float64 whose tokenizer reads letters, and a prefix of noise."""
    sizes = {"n_layers": 2, "n_heads": 3, "d_model": 24} | sizes
    model = pi.build_toy(pi.ToyConfig(n_prefix=n_slots, **sizes), seed=seed)
    model = pi.to_dtype(model, torch.float64)
    model.tokenizer = Words()
    return model, pi.Prefix.random(model, n_slots, seed, parameterization)
