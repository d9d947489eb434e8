"""Theorem 2 and longer responses: any map of a token to n_Y tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.attach import attach
from prefix_interp.theory.constructions import any_map, any_map_to_sequences
from prefix_interp.theory.constructions.behaviours import all_behaviours, random_behaviours


@pytest.mark.parametrize("temperature", [None, 0.0, 1.0])
def test_every_map_of_four_tokens_at_any_temperature(temperature):
    built = any_map(4, temperature=temperature)
    maps = all_behaviours(built)
    assert len(maps) == 256 and built.smallest_temperature == 0
    assert torch.equal(built.run(maps)[..., 0], maps)  # inputs in order are the table


def test_what_leaks_out_of_one_head_leaks_into_the_other():
    """selected = s + e_x at T = 0, where both heads attend uniformly."""
    built = any_map(5, temperature=0.0)
    table = torch.tensor([4, 0, 2, 1, 3])
    with torch.no_grad(), attach(built.model, built.encode(table)):
        _, cache = built.model.run_with_cache(built.inputs())
    resid = cache[pi.Site.RESID_MID.at(0)][:, 1, list(built.coordinates["selected"])]
    torch.testing.assert_close(resid, table / 5 + torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("decoder", ["parabola", "distance"])
def test_random_maps_of_the_authors_size(decoder):
    built = any_map(94, decoder=decoder)
    maps = random_behaviours(built, 10, seed=0)
    assert torch.equal(built.run(maps)[..., 0], maps)


def test_every_map_to_two_tokens():
    built = any_map_to_sequences(3, 2)
    maps = all_behaviours(built)
    assert len(maps) == 3**6 and torch.equal(built.run(maps), maps)


def test_random_maps_to_ten_tokens():
    built = any_map_to_sequences(94, 10)
    assert built.n_slots == 10 and built.model.cfg.n_ctx == 20
    assert built.right(random_behaviours(built, 5, seed=0)).all()


@settings(max_examples=10)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 999), st.floats(0.0, 8.0))
def test_the_number_selected_is_the_one_derived(n_tokens, n_out, seed, temperature):
    """Coordinate x is 1 + s_k + d D, with D of the docstring, right or wrong."""
    built = any_map_to_sequences(n_tokens, n_out, temperature=temperature)
    (table,) = random_behaviours(built, 1, seed)
    tokens = torch.cat([built.inputs(), table[:, :-1]], dim=1)
    with torch.no_grad(), attach(built.model, built.encode(table)):
        _, cache = built.model.run_with_cache(tokens)
    start = built.coordinates["selected"][0]
    h = cache[pi.Site.RESID_MID.at(0)][:, n_out:]
    for x in range(n_tokens):
        s = (table[x] / n_tokens).tolist()
        for k in range(n_out):
            c = table[x, :k].tolist().count(x)
            d = 1 / (math.exp(temperature) + n_out + k)
            moved = 2 * (sum(s) + 1 + c) - (n_out + k + 1) * (1 + s[k])
            assert abs(float(h[x, k, start + x]) - (1 + s[k] + d * moved)) < 1e-6


@settings(max_examples=10)
@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 999))
def test_the_smallest_temperature_from_both_sides(n_tokens, n_out, seed):
    smallest = any_map_to_sequences(n_tokens, n_out).smallest_temperature
    above = any_map_to_sequences(n_tokens, n_out, temperature=smallest + 1e-9)
    below = any_map_to_sequences(n_tokens, n_out, temperature=smallest - 1e-9)
    behaviours = torch.cat([random_behaviours(above, 10, seed), above.hardest[None]])
    assert above.right(behaviours).all()
    # All but input 0, whose answers of the hardest map are all 0.
    assert below.right(below.hardest[None])[0].tolist() == [True] + [False] * (n_tokens - 1)


def test_all_maps_just_above_the_smallest_temperature():
    smallest = any_map_to_sequences(3, 2).smallest_temperature
    above = any_map_to_sequences(3, 2, temperature=smallest + 1e-9)
    below = any_map_to_sequences(3, 2, temperature=smallest - 1e-9)
    maps = all_behaviours(above)
    assert above.right(maps).all()
    # s_1 = (V - 1) / V, the other slot 0, and no earlier output equal to x.
    worst = (maps[..., 1] == 2) & (maps[..., 0] == 0) & (torch.arange(3) != 0)
    assert torch.equal(below.right(maps), ~worst)


@pytest.mark.parametrize("n_out", [0, 1.5])
def test_bad_lengths(n_out, unchecked):
    with pytest.raises(pi.PrefixInterpError, match="n_out"):
        any_map_to_sequences(4, n_out)


def test_a_model_that_would_not_fit_is_refused_before_it_is_made():
    with pytest.raises(pi.PrefixInterpError, match="n_tokens=100000 takes"):
        any_map(100_000)
