import pytest
import torch

import prefix_interp as pi
from tests.helpers import assert_far, raw_model, tokens_for, toy

ROTATED = {pi.Site.ROT_Q, pi.Site.ROT_K}


def missing(model):
    """Sites of which the model has no hook point in layer 1."""
    return {s for s in pi.Site if s.at(1 if s.per_layer else None) not in model.hook_dict}


@pytest.mark.parametrize("site", list(pi.Site), ids=lambda s: s.name)
def test_writing_to_a_site_changes_the_output(site):
    model = toy(seed=1)
    if site in ROTATED:
        model = raw_model(positional_embedding_type="rotary")
    tokens = tokens_for(model)
    for layer in range(2) if site.per_layer else [None]:
        seen = []

        def write(x, hook, seen=seen):
            seen.append(x.shape)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
            return x + noise if site is not pi.Site.ATTN_SCORES else torch.where(
                x.isinf(), x, x + noise
            )  # fmt: skip

        changed = model.run_with_hooks(tokens, fwd_hooks=[(site.at(layer), write)])
        assert len(seen) == 1
        assert_far(changed, model(tokens))


def test_the_sites_are_these():
    assert [s.name for s in pi.Site] == [
        "EMBED", "POS_EMBED", "RESID_PRE", "Q", "K", "V", "ROT_Q", "ROT_K", "ATTN_SCORES",
        "PATTERN", "Z", "ATTN_OUT", "RESID_MID", "MLP_ACT", "MLP_OUT", "RESID_POST",
    ]  # fmt: skip
    mlp = {pi.Site.RESID_MID, pi.Site.MLP_ACT, pi.Site.MLP_OUT}
    assert missing(toy()) == ROTATED
    # TransformerLens makes the point of the MLP's output in every block and never calls it here.
    assert missing(toy(attn_only=True)) >= mlp - {pi.Site.MLP_OUT}
    _, cache = toy(attn_only=True).run_with_cache(tokens_for(toy()))
    assert {s for s in pi.Site if s.at(0 if s.per_layer else None) not in cache} == (mlp | ROTATED)
    assert missing(raw_model(parallel_attn_mlp=True)) == {pi.Site.RESID_MID} | ROTATED
    assert missing(raw_model(positional_embedding_type="rotary")) == {pi.Site.POS_EMBED}


def test_shapes_are_the_documented_ones():
    model = raw_model(n_heads=4, n_key_value_heads=2, d_model=8, d_head=3, d_mlp=7)
    _, cache = model.run_with_cache(tokens_for(model, 2, 5))
    wide, heads, square = (2, 5, 8), (2, 5, 4, 3), (2, 4, 5, 5)
    shapes = {"Q": heads, "K": (2, 5, 2, 3), "V": (2, 5, 2, 3), "Z": heads, "MLP_ACT": (2, 5, 7)}
    shapes |= {"ATTN_SCORES": square, "PATTERN": square}
    for site in set(pi.Site) - ROTATED:
        found = cache[site.at(1 if site.per_layer else None)].shape
        assert found == shapes.get(site.name, wide), site
    rotary = raw_model(
        n_heads=4, n_key_value_heads=2, d_model=8, d_head=4, positional_embedding_type="rotary"
    )
    _, turned = rotary.run_with_cache(tokens_for(model, 2, 5))
    assert turned[pi.Site.ROT_Q.at(0)].shape == (2, 5, 4, 4)
    assert turned[pi.Site.ROT_K.at(0)].shape == (2, 5, 2, 4)
    torch.testing.assert_close(
        cache[pi.Site.PATTERN.at(0)].sum(-1), torch.ones(2, 4, 5, dtype=torch.float64)
    )


@pytest.mark.parametrize("site, layer", [(pi.Site.Z, None), (pi.Site.Z, -1), (pi.Site.EMBED, 0)])
def test_a_layer_that_does_not_fit_is_refused(site, layer):
    with pytest.raises(pi.PrefixInterpError, match=f"layer={layer}.*{site.name}"):
        site.at(layer)
