"""How many codes fit into each dtype."""

import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.model import to_dtype
from prefix_interp.theory.constructions import (
    any_map,
    any_map_to_sequences,
    any_sequence,
    largest_vocabulary,
)


def share_right(built):
    codes = torch.arange(built.n_tokens)[:, None].expand(-1, built.n_out).contiguous()
    return float(built.right(codes).double().mean())


def converted(n_tokens, dtype, decoder):
    """Past what the construction is built for in a dtype: build in float64, then convert."""
    built = any_sequence(n_tokens, 2, decoder=decoder)
    to_dtype(built.model, dtype)
    return built


@pytest.mark.parametrize(
    ("dtype", "decoder", "too_many"),
    [
        (torch.float32, "parabola", 6000),
        (torch.float16, "parabola", 64),
        (torch.bfloat16, "parabola", 24),
        (torch.float16, "distance", 700),
        (torch.bfloat16, "distance", 90),
    ],
)
def test_every_code_up_to_the_largest_vocabulary_and_not_far_beyond(dtype, decoder, too_many):
    largest = largest_vocabulary(dtype, decoder)
    for n_tokens in (largest, largest * 3 // 4):
        assert share_right(any_sequence(n_tokens, 2, decoder=decoder, dtype=dtype)) == 1
    assert share_right(converted(too_many, dtype, decoder)) < 1 and too_many < 3.1 * largest


def test_double_precision_holds_a_real_vocabulary():
    built = any_sequence(32_000, 2)
    codes = torch.tensor([[0, 31_999], [31_999, 31_998], [17, 12_345], [31_999, 31_999]])
    assert built.right(codes).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_distance_decoder_reaches_further(dtype):
    n_tokens = largest_vocabulary(dtype, "parabola") + 1
    with pytest.raises(pi.PrefixInterpError, match="decoder='distance'"):
        any_map(n_tokens, dtype=dtype)
    maps = torch.stack([torch.arange(n_tokens), torch.arange(n_tokens).flip(0)])
    assert any_map(n_tokens, dtype=dtype, decoder="distance").right(maps).all()


def test_limits_by_dtype():
    kinds = ("parabola", "distance", "packed")
    found = {
        str(dtype): [largest_vocabulary(dtype, kind) for kind in kinds]
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    assert found == {
        "torch.float64": [47453132, 2**50, 13],
        "torch.float32": [2048, 2**21, 7],
        "torch.float16": [22, 256, 3],
        "torch.bfloat16": [8, 32, 2],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_tokens": 1}, "n_tokens=1"),
        ({"n_tokens": 4.0}, "n_tokens=4.0"),
        ({"n_tokens": 2049, "dtype": torch.float32}, "at most 2048"),
        ({"n_tokens": 257, "dtype": torch.float16, "decoder": "distance"}, "at most 256"),
        ({"n_tokens": 4, "dtype": torch.int64}, "dtype='int64'"),
    ],
)
def test_refusals(arguments, words, unchecked):
    with pytest.raises(pi.PrefixInterpError, match=words) as error:
        any_sequence(length=2, **arguments)
    assert "\n" not in str(error.value)


def test_a_temperature_beyond_the_dtype_and_an_endless_length_are_refused():
    with pytest.raises(pi.PrefixInterpError, match=r"temperature=70000\.0 is more than"):
        any_sequence(3, 3, temperature=7e4, dtype=torch.float16)
    for build in (any_sequence, any_map_to_sequences):
        with pytest.raises(pi.PrefixInterpError, match="allowed are at most 4096"):
            build(3, 10**8)
