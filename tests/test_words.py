import pytest

from prefix_interp.words import counted


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 slots"), (1, "1 slot"), (2, "2 slots"), (1234, "1,234 slots")]
)
def test_only_one_is_singular(n, text):
    assert counted(n, "slot") == text
