import hashlib

import pytest
import torch

from prefix_interp.errors import PrefixInterpError
from prefix_interp.seeds import derive_generator, derive_seed


def test_the_seed_is_the_hash_it_is_said_to_be():
    text = "7\x1fstr:init\x1fint:3"
    expected = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) >> 1
    assert derive_seed(7, "init", 3) == expected < 2**63


def test_seeds_differ_where_anything_differs():
    calls = [(0,), (1,), (-1,), (0, "a"), (0, "b"), (0, "1"), (0, 1), (0, "a", "b"), (0, "ab"),
             (0, "b", "a"), (0, "a", 1), (0, "a1"), (10, "a"), (1, 0, "a")]  # fmt: skip
    assert len({derive_seed(*call) for call in calls}) == len(calls)


def test_generators_repeat_and_touch_nothing_global():
    state = torch.get_rng_state()
    draws = [torch.randn(5, generator=derive_generator(3, label)) for label in "aab"]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [1.0, "1", None, True])
def test_a_seed_that_is_no_whole_number_is_refused(bad):
    with pytest.raises(PrefixInterpError, match="whole number"):
        derive_seed(bad)
