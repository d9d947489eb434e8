import torch

import prefix_interp as pi
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.seeds import derive_generator


def test_norm_matched_keeps_norms_and_nothing_else():
    model = pi.build_toy(pi.ToyConfig(n_heads=1, d_model=96))
    for parameterization in ("residual", "kv"):
        prefix = pi.Prefix.random(model, 3, 0, parameterization)
        turned = norm_matched(prefix, derive_generator(0))
        for name, tensor in prefix.tensors.items():
            other = turned.tensors[name]
            assert torch.allclose(other.norm(dim=-1), tensor.norm(dim=-1))
            assert torch.cosine_similarity(other, tensor, dim=-1).abs().max() < 0.5
        turned.check_fits(model)
