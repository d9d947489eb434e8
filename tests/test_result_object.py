import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor

import prefix_interp as pi
from prefix_interp.attribution.effects import Effects
from prefix_interp.estimates import Estimate
from prefix_interp.models.toy import save_toy
from prefix_interp.result_object import SCHEMAS, ResultObject
from prefix_interp.storage import load_folder, save_folder
from prefix_interp.tuning.recipes import Recipe
from tests.made_up_results import made_up_results


@dataclass(frozen=True)
class Part:
    name: str
    values: Tensor


@dataclass(frozen=True)
class LongPart(Part):
    more: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Thing(ResultObject):
    held: Any = None
    part: Part | None = None
    parts: tuple[Part, ...] = ()
    recipe: Recipe | None = None
    words: str = "a thing"
    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"a": range(9)}))
    drawn: bool = True

    def to_dataframe(self):
        return self.table

    def plot(self, *, figsize=None, width=None):
        if not self.drawn:
            raise pi.PrefixInterpError("nothing to draw")
        return Figure()

    def caption(self):
        return self.words


@dataclass(frozen=True, eq=False, repr=False)
class Other(Thing):
    pass


def same(a, b):
    """Whether two values are equal to the bit, types and NaN included."""
    if type(a) is not type(b) and not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        return False
    if isinstance(a, Tensor):
        bits = [x.reshape(-1).view(torch.uint8) for x in (a, b)]
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*bits)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Estimate):
        return all(same(getattr(a, k), getattr(b, k)) for k in ("value", "low", "high"))
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    if isinstance(a, pd.DataFrame):
        return a.equals(b) and (a.dtypes == b.dtypes).all()
    if isinstance(a, torch.nn.Module):
        return same(dict(a.state_dict()), dict(b.state_dict()))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return a == b


names = st.text(st.characters(codec="utf-8"), max_size=8)
floats = st.floats(width=64)
tensors = st.tuples(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
).map(
    lambda x: (torch.randn(x[1], generator=torch.Generator().manual_seed(x[2])) * 3).to(x[0])
)  # fmt: skip
frames = st.lists(st.tuples(st.integers(-9, 9), floats, names), max_size=4).map(
    lambda rows: pd.DataFrame(rows, columns=["whole", "real", "word"]).astype(
        {"whole": "int64", "real": "float64", "word": "object"}
    )
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), floats, names, tensors, frames,
    st.builds(Estimate, floats, floats, floats),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(names, inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(values, st.lists(st.tuples(names, tensors), max_size=2))
def test_what_is_saved_comes_back_to_the_bit(tmp_path_factory, held, parts):
    folder = tmp_path_factory.mktemp("thing")
    parts = tuple(LongPart(name, x, (1.0, math.nan)) for name, x in parts)
    thing = Thing(held, Part("one", torch.ones(2)), parts, Recipe(3, 0.1))
    assert thing.save(folder) == folder
    assert same(Thing.load(folder), thing)


@pytest.fixture(scope="module")
def results():
    return made_up_results()


def concrete(cls):
    found = {c for each in cls.__subclasses__() for c in concrete(each)}
    return found | ({cls} if dataclasses.is_dataclass(cls) else set())


def test_every_class_has_an_example(results):
    ours = {c.__name__ for c in concrete(ResultObject) if c.__module__.startswith("prefix_interp.")}
    assert ours == set(results)


NAMES = (
    "AttentionDrift", "BiasSubspace", "Circuit", "ContextCheck", "ContextFit", "Decomposition",
    "EditFit", "Elicitation", "Evaluation", "HardPromptFit", "IntegratedGradients", "Interaction",
    "LogitExpansion", "LoraFit", "ModelFit", "PatchGrid", "SoftSearch",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_result_comes_back_from_its_files(name, results, tmp_path):
    result = results[name]
    path = result.save(tmp_path / "saved")
    again = type(result).load(path)
    assert type(again) is type(result) and same(again, result)
    assert again.to_dataframe().equals(result.to_dataframe())
    assert repr(again) == repr(result)


@pytest.mark.parametrize("name", NAMES)
def test_every_result_prints_as_one_line(name, results):
    line = repr(results[name])
    assert line.startswith(f"{name}(") and "\n" not in line and "tensor" not in line
    assert len(line) < 500


@pytest.mark.parametrize("name", NAMES)
def test_every_result_has_a_picture_and_rows(name, results):
    result = results[name]
    assert isinstance(result.plot(), Figure) and len(result.to_dataframe())
    page = Page.of(result)
    assert page.count("img") + page.count("svg") == 1
    assert page.count("table") == 1
    assert 1 <= page.count("tr") - 1 <= 5
    assert result.caption() in page.text


@pytest.mark.parametrize("name", NAMES)
def test_every_result_becomes_a_picture_and_a_table_for_a_paper(name, results, tmp_path):
    result = results[name]
    for ending in ("svg", "pdf"):
        assert result.savefig(tmp_path / f"x.{ending}", width="column").stat().st_size > 500
    rows = len(result.to_dataframe())
    assert result.to_csv(tmp_path / "x.csv").count("\n") == rows + 1
    latex = result.to_latex(tmp_path / "x.tex")
    assert len(latex.splitlines()) == rows + 6 and r"add\_one" not in latex
    with pytest.raises(pi.PrefixInterpError, match="call savefig for a picture"):
        result.save(tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()


def test_pairs_and_contrasts_print_as_one_line(results):
    model = results["ModelFit"].model
    runs = pi.contrast(model, pi.Prefix.random(model, 2), "add_one", n=3)
    for line in (repr(runs), repr(runs.runs)):
        assert "\n" not in line and len(line) < 400
    assert "3 examples" in repr(runs) and "log_prob" in repr(runs)
    assert "masked" in repr(runs.runs) and "residual" in repr(runs.runs)


class Page(HTMLParser):
    """The tags and the text of some HTML, which must be closed properly."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""

    @classmethod
    def of(cls, result):
        page = cls()
        page.feed(result._repr_html_())
        assert page.open == []
        return page

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag):
        return sum(t == tag for t, _ in self.tags)


def test_html_shows_caption_picture_and_first_rows():
    page = Page.of(Thing())
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/svg+xml;base64,") and image["alt"] == "a thing"
    assert page.count("tr") == 6 and "4 more rows in to_dataframe()" in page.text


def test_html_of_words_that_look_like_html_is_text():
    evil = '<script>alert("x")</script>'
    table = pd.DataFrame({evil: [evil]})
    page = Page.of(Thing(words=evil, table=table))
    assert page.count("script") == 0 and page.text.count(evil) == 3
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert image["alt"] == evil


def test_html_without_anything_to_draw_is_the_table():
    page = Page.of(Thing(drawn=False))
    assert page.count("img") == 0 and page.count("table") == 1


def test_a_table_that_cannot_be_made_is_said_in_words(results):
    grid = results["PatchGrid"]
    held = {name: getattr(grid, name)["log_prob"] for name in ("values", "on", "off", "plain")}
    first = {name: {"log_prob": x[..., :1]} for name, x in held.items()}
    single = dataclasses.replace(grid, **first)
    page = Page.of(single)
    assert page.count("img") == 1 and page.count("table") == 0
    assert "a bootstrap needs at least 2" in page.text


def test_pictures_need_no_display(results, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setitem(matplotlib.rcParams, "backend", "tkagg")
    assert "img" in results["PatchGrid"]._repr_html_()


def test_another_class_is_refused(tmp_path):
    Thing().save(tmp_path)
    with pytest.raises(pi.PrefixInterpError, match="holds a Thing, not a Other"):
        Other.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(more=1), "unknown key 'more'"),
        (lambda r: r["fields"].update(haeld=1), "unknown key 'haeld'.*did you mean 'held'"),
        (lambda r: r.update(format=9), "of format 9"),
        (lambda r: r.pop("fields"), "lacks the key 'fields'"),
        (lambda r: r.update(versions={"torch": 2}), r"wrong 'versions.torch'.*valid string"),
        (lambda r: r["fields"]["part"]["object"][1].update(name=5), "name: Input .*valid string"),
        (lambda r: r["fields"].pop("part"), "names no field for the tensor"),
        (lambda r: r["fields"].update(held={"tensor": "gone"}), "is damaged .*gone"),
        (lambda r: r["fields"].update(held={"object": ["Path", {}]}), "is damaged .*Path"),
        (lambda r: r["fields"].update(held={"tuple": [], "dict": {}}), "is damaged"),
        (lambda r: r["fields"]["part"]["object"][1].update(x=1), "Part has the unknown key 'x'"),
        (
            lambda r: r["fields"]["part"]["object"][1].pop("name"),
            "is damaged .*name: Field required",
        ),
        (
            lambda r: r["fields"].update(held={"table": [["a", "U100000000", ["x"]]]}),
            "a column of a type that no table has",
        ),
        (
            lambda r: r["fields"].update(
                held={"table": [["a", "object", [1]], ["b", "object", []]]}
            ),
            "columns of different lengths",
        ),
        (lambda r: r.update({"class": "two\nlines"}), "holds a two lines"),
        (lambda r: r["fields"].update(words={"dict": {"two\nlines": 1}}), "words"),
    ],
)
def test_altered_files_are_refused(change, message, tmp_path):
    Thing(part=Part("one", torch.ones(2))).save(tmp_path)
    tensors, record = load_folder(tmp_path, "result", SCHEMAS)
    change(record)
    file = tmp_path / "result.json"
    edited = json.loads(file.read_text()) | record
    save_folder(tmp_path, "result", tensors, record)
    with pytest.raises(pi.PrefixInterpError, match=message) as error:
        Thing.load(tmp_path)
    assert str(error.value).isprintable()
    file.write_text(json.dumps(edited))  # as an editor would: without a new checksum
    with pytest.raises(pi.PrefixInterpError, match="its checksum is not that of its content"):
        Thing.load(tmp_path)


def test_altered_tensors_are_refused(tmp_path):
    Thing(part=Part("one", torch.ones(2))).save(tmp_path)
    file = tmp_path / "result.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(pi.PrefixInterpError, match="corrupted"):
        Thing.load(tmp_path)


@pytest.mark.parametrize("held", [{1: 2}, {"a": [Path("x")]}, len, pd.DataFrame({"a": [1]}, [3]),
                                  pd.DataFrame({"a": pd.to_datetime([])})])  # fmt: skip
def test_what_no_file_can_hold_is_named(held, tmp_path):
    with pytest.raises(pi.PrefixInterpError, match=r"held.* which no file can hold"):
        Thing(held).save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_fit_and_its_model_belong_together(results, tmp_path):
    fit = results["ModelFit"]
    fit.save(tmp_path)
    save_toy(pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8)), tmp_path / "model")
    with pytest.raises(pi.PrefixInterpError, match=r"holds the model .* but the fit is of"):
        type(fit).load(tmp_path)


def test_effects_are_named_like_their_axes(results):
    grid = results["IntegratedGradients"]
    assert isinstance(grid, Effects) and "2 layers x 2 heads x 2 slots; 4 examples" in repr(grid)
    assert [t.get_text() for t in grid.plot().axes[0].get_xticklabels()] == [
        f"{i}.{j}.{k}" for i in range(2) for j in range(2) for k in range(2)
    ]
