"""A norm with its scale held, against the norm itself."""

import pytest
import torch

from prefix_interp.models.norms import read_before, read_behind
from tests.helpers import assert_close, raw_model


@pytest.mark.parametrize("kind", ["LN", "LNPre", "RMS", "RMSPre"])
@pytest.mark.parametrize("width", [8, 9])
def test_parts_of_an_input_add_up_to_the_norms_output(kind, width):
    norm = raw_model(2, d_model=width, normalization_type=kind).blocks[0].ln1
    rng = torch.Generator().manual_seed(0)
    parts = torch.randn(3, 2, 5, width, generator=rng, dtype=torch.float64)
    whole = parts.sum(0)
    with torch.no_grad():
        constant = norm(torch.zeros_like(whole))
        behind = read_behind(norm, whole, parts)
        assert_close(behind.sum(0) + constant, norm(whole), 1e-12)
        read = torch.randn(2, 5, width, generator=rng, dtype=torch.float64)
        before = read_before(norm, whole, read)
        # The same linear map, asked from its other side.
        assert_close((before * parts[0]).sum(-1), (read * behind[0]).sum(-1), 1e-12)


def test_no_norm_changes_nothing():
    parts = torch.ones(2, 3, 4)
    for norm in (None, torch.nn.Identity()):
        assert read_behind(norm, parts.sum(0), parts) is parts
