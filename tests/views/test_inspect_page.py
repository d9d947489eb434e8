"""The page of an inspection as text: its order, its words, and nothing from elsewhere."""

import re

import pytest

from prefix_interp.inspection.run import inspect
from prefix_interp.views import inspect_figures
from prefix_interp.views.inspect_page import render_inspection
from prefix_interp.views.inspect_tokens import tone
from prefix_interp.views.inspect_words import readable, signed, small
from tests.inspection.tiny import TEXTS, tiny

ORDER = [
    "acts",
    "gate",
    "sink",
    "bias",
    "says",
    "moved",
    "elicits",
    "circuit",
    "tokens",
    "explorer",
]


@pytest.fixture(scope="module")
def found():
    model, prefix = tiny()
    return inspect(model, prefix, TEXTS, out=None, name="a <b>tiny</b> model", progress=False)


@pytest.fixture(scope="module")
def page(found):
    return render_inspection(found, "numbers.json")


def test_the_sections_stand_in_the_order_of_the_questions(page):
    assert re.findall(r'<section id="(\w+)"', page) == ORDER
    assert page.index('class="summary"') < page.index('id="acts"')
    for part in page.split("<section")[1:]:
        assert part.count("<h3>") == 1 and part.count('<details class="more">') == 1


def test_nothing_comes_from_elsewhere_and_names_are_escaped(page):
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert not re.search(r"@import|url\((?!#|%23)|<link|fetch\(|XMLHttp", page)
    addresses = set(re.findall(r"https?://[^\s\"'<)&]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "a &lt;b&gt;tiny&lt;/b&gt; model" in page and "<b>tiny" not in page


def test_every_measured_token_has_its_number_as_text(found, page):
    part = page[page.index('<section id="tokens"') : page.index('<section id="explorer"')]
    numbers = re.findall(r"<small>([^<]*)</small>", part)
    assert len(numbers) == 14 and numbers.count("\u00a0") == 3  # the first word of each sentence
    change = found.measured.log_prob_on - found.measured.log_prob_off
    wanted = [f"{abs(float(x)):.2f}" for x in change.flatten() if x == x]
    assert [x.lstrip("+−") for x in numbers if x != "\u00a0"] == wanted


def test_a_script_in_a_token_stays_text():
    model, prefix = tiny()
    model.tokenizer.decode = lambda ids: "</script><script>bad()"
    page = render_inspection(inspect(model, prefix, TEXTS[:1], out=None, progress=False))
    assert "<script>bad" not in page


def test_many_heads_are_drawn_in_another_way(found, monkeypatch):
    few = {name: getattr(inspect_figures, name)(found) for name in ("sink_picture", "bias_picture")}
    monkeypatch.setattr(inspect_figures, "MANY", 3)
    for name, figure in few.items():
        many = getattr(inspect_figures, name)(found)
        assert (
            len(many.axes) != len(figure.axes)
            or many.get_size_inches()[0] != figure.get_size_inches()[0]
        )
    assert len(inspect_figures.gate_picture(found).axes[0].get_yticklabels()) == 2


@pytest.mark.parametrize(
    ("change", "wanted"),
    [(None, ""), (0.01, ""), (0.05, "up1"), (-0.3, "down2"), (5.0, "up4"), (-1.0, "down3")],
)
def test_colours_grow_with_the_change(change, wanted):
    assert tone(change) == wanted


def test_numbers_and_tokens_can_be_read():
    assert (small(0.0), small(0.1234), small(123.45), small(2e-7)) == (
        "0.000",
        "0.123",
        "123.5",
        "2.0\u00a0×\u00a010⁻⁷",
    )
    assert (signed(0.123), signed(-2.0), signed(1e-4)) == (
        "+0.12",
        "−2.00",
        "+1.0\u00a0×\u00a010⁻⁴",
    )
    assert (readable(" the"), readable("\n"), readable(" ")) == ("the", "⏎", "␣")
