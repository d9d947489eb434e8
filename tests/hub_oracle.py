"""A Hugging Face model under a prefix by its own cache and plain torch hooks: nothing of ours.

The independent side of every test of language models.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache


def blocks(hf):
    """The layers of an unwrapped Hugging Face model."""
    for path in ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers"):
        found = hf
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise AssertionError(type(hf))


def attention(block):
    for name in ("self_attn", "attn", "attention"):
        if hasattr(block, name):
            return getattr(block, name)
    raise AssertionError(type(block))


def output_projection(block):
    for name in ("o_proj", "c_proj", "dense", "out_proj"):
        if hasattr(attention(block), name):
            return getattr(attention(block), name)
    raise AssertionError(type(block))


@dataclass
class Edits:
    """What is written in a run; each value of `z` and `mlp` is a function of what stands there.

    `dropped` holds (layer, head, slot) whose attention is masked for the content.
    """

    z: dict = field(default_factory=dict)
    mlp: dict = field(default_factory=dict)
    dropped: list = field(default_factory=list)


def run(hf, tokens, prefix=None, n_slots=0, edits=None, seen=None, start=None):
    """Logits of the content behind a prefix, or behind `n_slots` masked positions.

    The content stands at position `start`, by default behind the slots.

    `seen` collects each layer's heads ("z", layer) and MLP output ("mlp", layer).
    """
    edits = edits or Edits()
    n_heads = hf.config.num_attention_heads
    with ExitStack() as stack, torch.no_grad():
        for layer, block in enumerate(blocks(hf)):

            def write_z(module, args, layer=layer):
                z = args[0].unflatten(-1, (n_heads, -1))
                if layer in edits.z:
                    z = edits.z[layer](z)
                if seen is not None:
                    seen["z", layer] = z
                return (z.flatten(-2), *args[1:])

            def write_mlp(module, args, out, layer=layer):
                new = edits.mlp[layer](out) if layer in edits.mlp else out
                if seen is not None:
                    seen["mlp", layer] = new
                return new

            def mask(module, args, kwargs, layer=layer):
                own = [(head, slot) for at, head, slot in edits.dropped if at == layer]
                if not own:
                    return args, kwargs
                if len(args) > 2:  # GPT-2 gives the mask by place
                    given = args[2]
                else:
                    given = kwargs["attention_mask"]
                new = given.expand(-1, n_heads, -1, -1).clone()
                for head, slot in own:
                    new[:, head, :, slot] = torch.finfo(new.dtype).min
                if len(args) > 2:
                    return (*args[:2], new, *args[3:]), kwargs
                return args, {**kwargs, "attention_mask": new}

            handles = [
                output_projection(block).register_forward_pre_hook(write_z),
                block.mlp.register_forward_hook(write_mlp) if hasattr(block, "mlp") else None,
                attention(block).register_forward_pre_hook(mask, with_kwargs=True),
            ]
            for handle in filter(None, handles):
                stack.callback(handle.remove)
        n = n_slots if prefix is None else prefix.n_slots
        length = tokens.shape[1]
        more = {}
        if prefix is not None:
            more["past_key_values"] = cache = DynamicCache()
            more["use_cache"] = True
            more["attention_mask"] = torch.ones(len(tokens), n + length, dtype=torch.long)
            for layer, (k, v) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
                cache.update(
                    *(x.transpose(0, 1).expand(len(tokens), -1, -1, -1) for x in (k, v)), layer
                )
        else:
            more["use_cache"] = False
        at = n if start is None else start
        more["position_ids"] = torch.arange(at, at + length)[None].expand(len(tokens), -1)
        return hf(tokens, **more).logits
