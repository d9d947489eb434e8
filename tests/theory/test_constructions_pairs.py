"""Two-token inputs: any map of two tokens, digits taken apart by ReLUs."""

import math

import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.attach import attach
from prefix_interp.theory.constructions import any_map_of_pairs
from prefix_interp.theory.constructions.behaviours import all_behaviours, random_behaviours


def hard_maps(built, n=2, seed=0):
    """Random maps with rows ending in code 0, and rows of codes at either end."""
    last = built.n_tokens - 1
    fixed = torch.zeros(4, *built.hardest.shape, dtype=torch.long)
    fixed[1], fixed[2, :, 0] = last, last  # all largest; one digit and zeros behind it
    fixed[3, :, :-1] = last
    return torch.cat([random_behaviours(built, n, seed), fixed])


def test_every_map_of_two_tokens():
    built = any_map_of_pairs(2)
    maps = all_behaviours(built)
    assert len(maps) == 16 and torch.equal(built.run(maps)[..., 0], maps.flatten(1))


@pytest.mark.parametrize("n_tokens", [3, 4, 5, 7, 10, 13])
def test_maps_with_every_input(n_tokens):
    built = any_map_of_pairs(n_tokens)
    maps = hard_maps(built)
    assert torch.equal(built.run(maps)[..., 0], maps.flatten(1))


@pytest.mark.parametrize(("dtype", "n_tokens"), [(torch.float32, 7), (torch.float16, 3)])
def test_coarser_dtypes(dtype, n_tokens):
    built = any_map_of_pairs(n_tokens, dtype=dtype)
    assert built.model.W_E.dtype == dtype and built.right(hard_maps(built, n=30)).all()


@pytest.mark.parametrize("n_tokens", [3, 13])
def test_digits_are_whole_numbers_exactly(n_tokens):
    built = any_map_of_pairs(n_tokens)
    table = hard_maps(built)[0]
    with torch.no_grad(), attach(built.model, built.encode(table)):
        _, cache = built.model.run_with_cache(built.inputs())
    resid = cache[pi.Site.RESID_POST.at(2 * n_tokens)][:, -1]
    digits = resid[:, list(built.coordinates["digits"])]
    assert torch.equal(digits, table.repeat_interleave(n_tokens, dim=0).double())


def test_the_number_read_is_the_one_derived():
    """Error -d (1 + r), or d (1 - r) if both inputs are equal, with d = 1 / (e^T + 2)."""
    built = any_map_of_pairs(4, temperature=7.0)
    table = random_behaviours(built, 1, seed=3)[0]
    with torch.no_grad(), attach(built.model, built.encode(table)):
        _, cache = built.model.run_with_cache(built.inputs())
    rest = cache[pi.Site.RESID_POST.at(0)][:, -1, built.coordinates["rest 0"][0]]
    for (a, b), y in zip(built.inputs().tolist(), rest.tolist(), strict=True):
        r = sum(int(m) * 4.0 ** -(j + 1) for j, m in enumerate(table[a]))
        d = 1 / (math.exp(7.0) + 2)
        read = r + (d * (1 - r) if a == b else -d * (1 + r))
        assert abs(y - 4 * (read + 0.5 / 4**4)) < 1e-13


@pytest.mark.parametrize("n_tokens", range(2, 8))
def test_the_smallest_temperature_from_both_sides(n_tokens):
    smallest = any_map_of_pairs(n_tokens).smallest_temperature
    assert abs(smallest - math.log(4 * n_tokens**n_tokens - 4)) < 1e-6
    above = any_map_of_pairs(n_tokens, temperature=smallest + 1e-6)
    below = any_map_of_pairs(n_tokens, temperature=smallest - 1e-6)
    maps = all_behaviours(above) if n_tokens == 2 else hard_maps(above, n=10)
    assert above.right(maps).all()
    # Wrong on the last digit of rows of the last code, for two different inputs.
    last = torch.full((n_tokens**2,), True).view(n_tokens, n_tokens)
    last[:-1, -1] = False
    assert torch.equal(below.right(below.hardest[None])[0].view_as(last), last)


@pytest.mark.parametrize("n_tokens", (9, 11, 13))
def test_above_the_smallest_temperature_roundings_do_no_harm(n_tokens):
    smallest = any_map_of_pairs(n_tokens).smallest_temperature
    rows, eps = n_tokens**n_tokens, 2.0**-52
    without_rounding = math.log((2 * rows - 1) / (0.5 - eps**0.5) - 2)
    # What rounding asks for: little at V = 9, 0.4 at V = 13.
    assert without_rounding < smallest < without_rounding + {13: 0.42}.get(n_tokens, 4e-4)
    for offset in (1e-6, 0.03):
        above = any_map_of_pairs(n_tokens, temperature=smallest + offset)
        assert above.right(hard_maps(above, n=4)).all()
    below = any_map_of_pairs(n_tokens, temperature=without_rounding - 0.01)
    assert not below.right(below.hardest[None]).all()


def test_too_many_codes_for_one_number_are_refused():
    for dtype, largest in ((torch.float64, 13), (torch.float32, 7)):
        with pytest.raises(pi.PrefixInterpError, match=f"at most {largest}") as error:
            any_map_of_pairs(largest + 1, dtype=dtype)
        assert f"n_tokens={largest + 1}" in str(error.value) and "\n" not in str(error.value)
