import pytest
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import refuse_figure, save_figure
from prefix_interp.views.style import svg
from tests.views.drawn import circuit

STARTS = {"svg": b"<svg ", "pdf": b"%PDF-", "png": b"\x89PNG"}


@pytest.mark.parametrize("ending", STARTS)
def test_a_circuit_is_saved_as_what_its_name_says(ending, tmp_path):
    path = tmp_path / f"c.{ending}"
    assert circuit(4).savefig(path, width="column") == path
    first = path.read_bytes()
    assert first.startswith(STARTS[ending])
    circuit(4).savefig(path, width="column")
    assert path.read_bytes() == first  # no date, no random names


def test_data_are_not_written_into_the_name_of_a_picture(tmp_path):
    made = circuit(4)
    for name in ("c.svg", "c.PDF", "c.png"):
        with pytest.raises(PrefixInterpError, match=r"c\.\w+' ends in .* call savefig") as error:
            made.save(tmp_path / name)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    refuse_figure("circuit.json")


@pytest.mark.parametrize(
    ("name", "has"), [("c", "no ending"), ("c.jpg", "the ending '.jpg'"), ("c.d/c", "no ending")]
)
def test_a_picture_without_a_known_ending_is_refused_in_one_line(name, has, tmp_path):
    with pytest.raises(PrefixInterpError) as error:
        circuit(4).savefig(tmp_path / name)
    said = f"path={str(tmp_path / name)!r} has {has}; savefig writes .svg, .pdf, .png"
    assert str(error.value) == said
    assert list(tmp_path.iterdir()) == []


def test_a_figure_with_a_wrong_ending_is_not_drawn(tmp_path):
    def draw():
        raise AssertionError("drawn")

    with pytest.raises(PrefixInterpError):
        save_figure(tmp_path / "x.gif", draw, lambda: "")
    figure = Figure()
    save_figure(tmp_path / "x.svg", lambda: figure, lambda: svg(figure))
    assert (tmp_path / "x.svg").read_text() == svg(figure)
