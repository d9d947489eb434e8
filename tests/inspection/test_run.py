"""`inspect`: one call to one page, without a network, and what it refuses."""

import json
import socket
import time

import pytest
import torch

import prefix_interp as pi
from prefix_interp.inspection import run as module
from prefix_interp.inspection.run import inspect
from prefix_interp.results import Result
from tests.inspection.tiny import TEXTS, tiny


@pytest.fixture(scope="module")
def found():
    model, prefix = tiny()
    return inspect(model, prefix, TEXTS, out=None, progress=False)


@pytest.mark.slow
def test_a_toy_takes_less_than_twenty_seconds_of_work(tmp_path):
    model = pi.load_toy("four-skills-1l4h")
    prefix = pi.load_prefixes("four-skills-1l4h")["sort_descending"]
    began = time.process_time()
    inspect(model, prefix, "sort_descending", tmp_path / "report.html", progress=False)
    assert time.process_time() - began < 20
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_the_numbers_stand_beside_the_page_and_nothing_is_asked_for(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model, prefix = tiny()
    found = inspect(model, prefix, TEXTS, tmp_path / "page.html", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "page.json"]
    saved = Result.load(tmp_path / "page.json")
    assert saved.settings["sentences"] == "3 texts" and saved.settings["baseline"] == "masked"
    assert {name: len(rows) for name, rows in saved.tables.items()} == {
        "parts": 42, "acts": 1, "heads": 6, "layers": 2, "vocabulary": 60, "leading": 6,
        "fades": 30, "circuit": len(saved.rows("circuit")), "answers": 11,
    }  # fmt: skip
    assert saved.rows("heads")[4]["gate"] == pytest.approx(float(found.measured.mean("gate")[1, 1]))
    assert "page.json" in (tmp_path / "page.html").read_text()


def test_the_same_call_gives_the_same_bytes(tmp_path):
    model, prefix = tiny()
    for name in ("a", "b"):
        inspect(model, prefix, TEXTS, tmp_path / name / "page.html", progress=False)
    for end in ("html", "json"):
        one, two = ((tmp_path / name / f"page.{end}").read_bytes() for name in ("a", "b"))
        assert one == two


def test_the_summary_has_at_most_six_sentences_with_the_tables_numbers(found):
    sentences = found.summary()
    assert 1 < len(sentences) <= 6 and all(x.endswith(".") for x in sentences)
    (acts,) = found.tables["acts"]
    assert (
        acts["acts"] is True and f"{100 * acts['changed']:.1f}\N{NO-BREAK SPACE}%" in sentences[0]
    )
    best = max(found.tables["heads"], key=lambda row: row["gate"])
    assert (
        f"head {best['layer']}.{best['head']} ({100 * best['gate']:.1f}\N{NO-BREAK SPACE}%)"
        in sentences[1]
    )


def test_a_prefix_that_does_nothing_is_said_to_do_nothing():
    model, prefix = tiny(n_layers=1)
    # Keys so far against the queries' mean that no content attends to them.
    nothing = pi.Prefix("kv", keys=prefix.keys * 0, values=prefix.values * 0)
    model.blocks[0].attn.W_O.data.zero_()
    found = inspect(model, nothing, TEXTS, out=None, progress=False)
    assert not found.acts and found.summary()[0].startswith("The prefix does nothing here")
    assert len(found.summary()) == 1


def test_a_large_model_has_no_circuit_and_says_why(monkeypatch):
    monkeypatch.setattr(module, "MAX_NODES", 3)
    model, prefix = tiny()
    found = inspect(model, prefix, TEXTS, out=None, progress=False)
    assert found.circuit is None and "8 heads and MLPs" in found.why_no_circuit
    assert found.tables["circuit"] == []


def test_an_inspection_shows_itself_in_a_notebook(found):
    html = found._repr_html_()
    assert html.count("<li>") == len(found.summary()) and "pi-explorer" in html
    assert "Inspection(" in repr(found) and "Explorer(" in repr(found.explorer())
    with pytest.raises(pi.PrefixInterpError, match="table='hedas'"):
        found.to_dataframe("hedas")


@pytest.mark.parametrize(
    ("given", "out", "says"),
    [
        (TEXTS, "page.pdf", "must end in .html"),
        ([" ".join("ab" * 20)], None, "40 positions"),
        (["a z"], None, "from 1 to 26"),
        ("one", None, "has 1 token"),  # with a tokenizer it is a text, not a task
    ],
)
def test_bad_input_is_refused_in_one_line(given, out, says, tmp_path):
    model, prefix = tiny()
    out = None if out is None else tmp_path / out
    with pytest.raises(pi.PrefixInterpError, match=says) as error:
        inspect(model, prefix, given, out=out, progress=False)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_half_precision_is_refused():
    model, prefix = tiny()
    model = pi.to_dtype(model, torch.bfloat16)
    with pytest.raises(pi.PrefixInterpError, match="too coarse to inspect"):
        inspect(model, prefix.to(model), "sort_ascending", out=None, progress=False)


def test_the_explorers_numbers_are_whole_and_few(found):
    data = json.loads(found.explorer().data.replace("\\u003c", "<"))
    assert data["layers"] == 2 and len(data["gate"]) == 6 and len(data["sentences"]) == 3
    gate = [round(1000 * float(x)) for x in found.measured.gate[1, 2]]
    assert data["gate"][5] == gate
    effects = data["colours"][2]
    wanted = found.measured.estimates["denoise"].mean(-1).flatten().tolist()
    own = [v * effects["step"] for v in effects["values"]]
    assert own == pytest.approx(wanted, abs=effects["step"])
