"""Who reads while others save gets one save, whole; and who saves is not refused."""

import pytest

from fuzz.beside_writer import beside


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "writers"), [("folder", 1), ("folder", 2), ("checkpoint", 1)])
def test_every_read_is_one_save_whole(kind, writers):
    counts = beside(kind, seconds=2, writers=writers)
    one_save = {"whole", "whole, with a warning"}
    assert set(counts) <= {*one_save, *(f"at the end {x}" for x in one_save), "saves"}, counts
    assert counts["whole"] > 10 and counts["saves"] > 30
