"""Theorem 1: any sequence of N tokens from one virtual token."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.attach import attach
from prefix_interp.theory.constructions import any_sequence
from prefix_interp.theory.constructions.behaviours import all_behaviours, random_behaviours


def test_every_sequence_of_six_out_of_four_tokens():
    built = any_sequence(4, 6)
    behaviours = all_behaviours(built)
    assert len(behaviours) == 4096
    assert torch.equal(built.run(behaviours)[:, 0], behaviours)


@pytest.mark.parametrize("decoder", ["parabola", "distance"])
def test_random_sequences_of_the_authors_size(decoder):
    built = any_sequence(94, 20, decoder=decoder)
    behaviours = random_behaviours(built, 100, seed=0)
    assert torch.equal(built.run(behaviours)[:, 0], behaviours)


def test_the_number_read_is_the_one_derived():
    """z_i = max(0, s_i - eps_i (1 + s_i)) with eps_i = i / (e^T + i)."""
    built = any_sequence(7, 6, temperature=2.5)
    written = torch.tensor([6, 0, 3, 6, 1, 6])
    with torch.no_grad(), attach(built.model, built.encode(written), predict_first=True):
        _, cache = built.model.run_with_cache(written[None, :-1])
    z = cache[pi.Site.RESID_POST.at(0)][0, :, built.coordinates["number"][0]]
    for i, code in enumerate(written.tolist()):
        s, eps = code / 7, i / (math.exp(2.5) + i)
        assert abs(float(z[i]) - max(0.0, s - eps * (1 + s))) < 1e-14


@settings(max_examples=12)
@given(st.integers(2, 12), st.integers(2, 8), st.integers(0, 999))
def test_the_smallest_temperature_from_both_sides(n_tokens, length, seed):
    smallest = any_sequence(n_tokens, length).smallest_temperature
    above = any_sequence(n_tokens, length, temperature=smallest + 1e-9)
    below = any_sequence(n_tokens, length, temperature=smallest - 1e-9)
    behaviours = random_behaviours(above, 20, seed)
    behaviours = torch.cat([behaviours, above.hardest[None]])
    assert above.right(behaviours).all()
    # Only the last code of the vocabulary in the last place is too much for the one just below.
    fails = behaviours[:, -1] == n_tokens - 1
    assert fails[-1] and torch.equal(below.right(behaviours)[:, 0], ~fails)


def test_of_one_position_nothing_leaks():
    built = any_sequence(5, 1, temperature=0.0)
    assert built.smallest_temperature == 0 and built.right(all_behaviours(built)).all()


def test_smallest_temperature_beats_the_bound_of_the_authors():
    """Theirs is sqrt(p) ln(4 V (p - 1)) in units where scores are T / sqrt(p)."""
    assert 0 < math.log(4 * 94 * 19) - any_sequence(94, 20).smallest_temperature < 0.01


@pytest.mark.parametrize("length", [0, -1, 2.0, True])
def test_bad_lengths(length, unchecked):
    with pytest.raises(pi.PrefixInterpError, match="length"):
        any_sequence(4, length)
