import pytest

from prefix_interp.errors import (
    PrefixInterpError,
    check_choice,
    check_index,
    check_keys,
    check_number,
    check_positive,
    nearest,
)


def test_the_family_is_a_value_error():
    assert issubclass(PrefixInterpError, ValueError)


@pytest.mark.parametrize(
    "value, hint",
    [("maskd", " (did you mean 'masked'?)"), ("unshift", " (did you mean 'unshifted'?)"),
     ("zzz", ""), ("", "")],
)  # fmt: skip
def test_nearest(value, hint):
    assert nearest(value, ["masked", "unshifted"]) == hint
    assert nearest(value, []) == ""


@pytest.mark.usefixtures("unchecked")
def test_choice():
    check_choice("x", "a", ["a", "b"])
    for bad in ("A", None, 3, ["a"]):
        with pytest.raises(PrefixInterpError, match=r"x=.*choose one of 'a', 'b'"):
            check_choice("x", bad, ["a", "b"])


@pytest.mark.parametrize("bad", [-1, 2, 1.0, True, "1", None])
def test_index(bad):
    check_index("layer", 0, 2)
    check_index("layer", 1, 2)
    with pytest.raises(PrefixInterpError, match=f"layer={bad!r} must be between 0 and 1"):
        check_index("layer", bad, 2)


@pytest.mark.parametrize("bad", [0, -1, 1.0, True, "1", None])
def test_positive(bad):
    check_positive("n", 1)
    with pytest.raises(PrefixInterpError, match=f"n={bad!r}"):
        check_positive("n", bad)


@pytest.mark.usefixtures("unchecked")
def test_number():
    for good in (0, 0.5, 1):
        check_number("p", good, 0, 1)
    for bad in (-0.1, 1.1, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(PrefixInterpError, match=r"p=.*\[0, 1\]"):
            check_number("p", bad, 0, 1)
    with pytest.raises(PrefixInterpError, match=r"p=0.*\(0, 1\]"):
        check_number("p", 0, 0, 1, low_open=True)
    check_number("p", 1e300)
    with pytest.raises(PrefixInterpError):
        check_number("p", float("inf"))


def test_keys():
    check_keys("file", {"a": 1}, ["a", "b"])
    with pytest.raises(PrefixInterpError, match=r"unknown key 'tasks'.*did you mean 'task'"):
        check_keys("file", {"tasks": 1}, ["task", "seed"])
