import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.theory.subspace import BiasSubspace, bias_subspaces
from tests.helpers import assert_close, raw_model, tokens_for


def space(singular_values, directions=None, n_rows=50, dim=8, **options):
    s = torch.as_tensor(singular_values, dtype=torch.float64)
    directions = torch.eye(len(s), dim, dtype=torch.float64) if directions is None else directions
    return BiasSubspace("head", 0, 0, len(s), s, directions, n_rows, **options)


def rotation(dim, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64))[0]


@pytest.mark.parametrize("a", [1e-9, 1e-5, 0.3, math.pi / 4, 1.2, math.pi / 2 - 1e-9])
@pytest.mark.parametrize("b", [0.1, 0.8, 1.5])
def test_two_planes_with_known_angles(a, b):
    """span(e1, e2) and span(cos a e1 + sin a e3, cos b e2 + sin b e4), turned at random."""
    turn = rotation(6, 1)
    one = torch.eye(2, 6, dtype=torch.float64)
    two = torch.tensor([[math.cos(a), 0, math.sin(a), 0, 0, 0],
                        [0, math.cos(b), 0, math.sin(b), 0, 0]], dtype=torch.float64)  # fmt: skip
    mix = rotation(2, 2)
    left, right = space([2, 1], one @ turn), space([5, 4], mix @ two @ turn)
    expected = torch.tensor(sorted([a, b]), dtype=torch.float64)
    for angles in (left.principal_angles(right), right.principal_angles(left)):
        torch.testing.assert_close(angles, expected, rtol=1e-6, atol=1e-14)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_angles_are_ordered_invariant_and_the_textbooks(k, m, seed):
    one, two, turn = rotation(8, seed)[:k], rotation(8, seed + 1)[:m], rotation(8, seed + 2)
    left, right = space(range(k, 0, -1), one), space(range(m, 0, -1), two)
    angles = left.principal_angles(right)
    assert len(angles) == min(k, m) and (angles.diff() >= -1e-12).all()
    oracle = np.arccos(np.clip(np.linalg.svd((one @ two.T).numpy())[1], 0, 1))
    np.testing.assert_allclose(angles, oracle, atol=1e-7)  # the arccosine's own digits
    turned = space(range(k, 0, -1), one @ turn), space(range(m, 0, -1), two @ turn)
    torch.testing.assert_close(turned[0].principal_angles(turned[1]), angles)
    assert left.principal_angles(left).max() < 1e-14


def test_one_head_or_layer_is_that_of_all_together():
    model = raw_model(3, n_layers=2)
    prefix = pi.Prefix.random(model, 2, seed=3)
    tokens = tokens_for(model, batch=4)
    for layer in range(2):
        *heads, whole = bias_subspaces(model, prefix, tokens, layer)
        assert [each.head for each in heads] == [0, 1] and whole.head is None
        for each in (*heads, whole):
            alone = pi.bias_subspace(model, prefix, tokens, layer, each.head)
            assert alone.layer == each.layer == layer and alone.bound == each.bound
            assert torch.equal(alone.singular_values, each.singular_values)
            assert torch.equal(alone.directions, each.directions)


def test_angles_between_different_spaces_are_refused_and_with_nothing_are_none():
    with pytest.raises(pi.PrefixInterpError, match=r"8 dimensions|4 in|in 4"):
        space([1.0], dim=4).principal_angles(space([1.0], dim=8))
    assert len(space([0.0]).principal_angles(space([1.0]))) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_singular_values_count_fully(count):
    values = [3.0] * count + [0.0] * 3
    assert space(values).effective_rank == pytest.approx(count)
    assert space(values).rank == count == len(space(values).basis)


def test_effective_rank_of_a_known_spectrum():
    p = np.array([4, 2, 1, 1]) / 8
    assert space([4, 2, 1, 1]).effective_rank == pytest.approx(2 ** (0.5 + 0.5 + 3 / 8 + 3 / 8))
    assert space([4, 2, 1, 1]).effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_rank_ignores_rounding():
    eps = torch.finfo(torch.float64).eps
    assert space([0.0, 0.0]).rank == 0 and space([0.0, 0.0]).effective_rank == 0
    assert space([1.0, 49 * eps, 1e-17]).rank == 1
    assert space([1.0, 51 * eps, 1e-17]).rank == 2
    assert space([1e-3, 1e-11, 1e-12], scale=100.0).rank == 2  # threshold 1.1e-12 from z itself
    assert space([1e-3, 1e-11, 1e-12]).rank == 3


def test_a_weak_prefix_has_no_larger_bias_than_its_bound():
    """Where the gate is small, the rounding of t must not be taken for a direction."""
    model = raw_model(seed=2, n_layers=1, d_model=16, d_head=8, normalization_type=None, gain=1.0)
    shape, rng = (1, 2, 2, 8), torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.blocks[0].attn.b_Q.fill_(6.0)
        model.blocks[0].attn.W_Q.mul_(0.1)
    keys = torch.full(shape, -2.5, dtype=torch.float64)  # far below every content score
    prefix = pi.Prefix("kv", None, keys, torch.randn(shape, generator=rng, dtype=torch.float64))
    tokens = tokens_for(model, 6, 7)
    gate = pi.decompose_attention(pi.run_pair(model, prefix, tokens)).gate
    assert 0 < gate.max() < 1e-6
    for head in (0, 1, None):
        found = pi.bias_subspace(model, prefix, tokens, head=head)
        assert found.rank <= found.bound


@pytest.mark.parametrize("head", [0, 1, None])
def test_directions_span_the_values_of_the_slots(head):
    model = raw_model(seed=4, n_layers=2, d_model=12, d_head=6)
    prefix, tokens = pi.Prefix.random(model, 2, seed=1), tokens_for(model, 6, 7)
    found = pi.bias_subspace(model, prefix, tokens, layer=1, head=head)
    _, values = prefix.keys_values(model)[1]  # slot head d_head
    w_o = model.blocks[1].attn.W_O
    if head is None:
        spanned = torch.einsum("shd,hdm->shm", values, w_o).flatten(0, 1).detach()
    else:
        spanned = values[:, head].detach()
    assert found.rank == found.bound == len(spanned) == (2 if head is not None else 4)
    q = torch.linalg.qr(spanned.T)[0]
    assert_close(found.basis @ q @ q.T, found.basis, 1e-9)
    assert_close(found.basis @ found.basis.T, torch.eye(found.rank, dtype=torch.float64), 1e-10)
    # Singular values from an explicit loop over sequences and positions.
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    rows = []
    for b in range(6):
        for q_pos in range(7):
            heads = [parts.bias[1, b, h, q_pos] for h in range(2)]
            if head is None:
                rows.append(sum(x @ w for x, w in zip(heads, w_o.detach(), strict=True)))
            else:
                rows.append(heads[head])
    oracle = torch.linalg.svdvals(torch.stack(rows))
    assert_close(found.singular_values, oracle, 1e-10)
    assert found.n_rows == 42 and found.level == ("layer" if head is None else "head")


def test_dataframe():
    table = space([4.0, 1.0, 0.5]).to_dataframe()
    assert table.to_dict("list") == {
        "index": [1, 2, 3],
        "value": [4.0, 1.0, 0.5],
        "of_first": [1.0, 0.25, 0.125],
    }
    assert space([0.0, 0.0]).to_dataframe()["of_first"].tolist() == [0, 0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("where", [dict(layer=2), dict(layer=-1), dict(head=2), dict(head=True)])
def test_an_index_out_of_range_is_refused(where):
    model = raw_model()
    with pytest.raises(pi.PrefixInterpError, match="between 0 and 1"):
        pi.bias_subspace(model, pi.Prefix.random(model, 1), tokens_for(model), **where)
