import pytest

from prefix_interp import PrefixInterpError
from prefix_interp.overwriting import check_same_run

RUN = {"seed": 0, "recipe": {"lr": 0.1, "steps": 5}, "rates": (1, 2), "empty": {}}


def test_the_same_run_passes_whether_read_from_a_file_or_not():
    check_same_run("x", {**RUN, "rates": [1, 2]}, RUN)
    check_same_run("x", RUN, dict(reversed(RUN.items())))


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({**RUN, "seed": 3}, "(seed: 3 there, 0 here)"),
        ({**RUN, "recipe": {"lr": 0.2, "steps": 5}}, "(recipe.lr: 0.2 there, 0.1 here)"),
        ({k: v for k, v in RUN.items() if k != "seed"}, "(seed: nothing there, 0 here)"),
        ({**RUN, "more": "x" * 99}, "(more differs)"),
        ({}, "and 3 more differences)"),
        (None, "something that is no result"),
    ],
)
def test_another_run_is_refused_in_one_line_that_names_the_difference(before, words):
    with pytest.raises(PrefixInterpError) as caught:
        check_same_run("there/x", before, RUN)
    text = str(caught.value)
    assert words in text and text.startswith("out='there/x' holds ") and "--overwrite" in text
    assert "\n" not in text
