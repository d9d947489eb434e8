import json
import re
from pathlib import Path

import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments import claims as claims_module
from prefix_interp.views import report as report_module
from prefix_interp.views.report import write_report
from tests.views.made_up import made_up_table1

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert write_report(out, progress=False) == out / "report.html"
    return out


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text()


def test_two_reports_are_equal_but_for_their_timing(folder, html, tmp_path):
    other = tmp_path / "made" / "here"
    assert write_report(other, progress=False).read_text() == html
    first, second = (json.loads((p / "report.json").read_text()) for p in (folder, other))
    assert first.pop("timing").keys() == second.pop("timing").keys()
    assert first == second
    assert sorted(p.name for p in other.iterdir()) == ["report.html", "report.json"]


def test_the_page_asks_for_nothing_outside_itself(html):
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', markup)
    assert "default-src 'none'; script-src 'unsafe-inline'" in html
    assert html.count("var CircuitsVis=") == 1


def test_every_figure_has_caption_text_alternative_and_numbers(html):
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    figures = re.findall(r"<figure.*?</figure>", markup, flags=re.S)
    assert len(figures) >= 9
    for figure in figures:
        assert 'role="img"' in figure and re.search(r'aria-label="[^"]{20}', figure)
        assert "<figcaption>" in figure and "<details>" in figure and "<td" in figure
    ids = re.findall(r'\sid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))


def test_the_page_names_baseline_level_and_layer(html):
    for words in ("masked baseline", "head 0, layer 0", "all heads, layer 0", "whole model"):
        assert words in html


def test_json_holds_the_claims(folder):
    record = json.loads((folder / "report.json").read_text())
    assert set(record) == {"format", "claims", "table1", "sections", "timing"}
    assert {"eq6", "eq7", "bias-rank"} <= {r["claim"] for r in record["claims"]["records"]}


def test_json_holds_the_numbers_of_every_section(folder, html):
    sections = json.loads((folder / "report.json").read_text())["sections"]
    assert len(sections) == 6 + len(report_module.RESULT_SECTIONS)
    for name, numbers in sections.items():
        assert f'id="{name}"' in html and f'href="#{name}"' in html
        assert numbers and all(rows for rows in numbers.values()), name


def _use(monkeypatch, result):
    monkeypatch.setattr(report_module, "all_sections", lambda *_: [])  # they take a while
    for module in (claims_module, report_module):
        monkeypatch.setattr(
            module, "shipped_result", lambda name, preset: result if preset == "fast" else None
        )


def test_a_finding_against_the_paper_stands_in_the_summary(monkeypatch, tmp_path):
    _use(monkeypatch, made_up_table1(learned=0.2))
    text = write_report(tmp_path, progress=False).read_text()
    summary = text[text.index('id="summary"') : text.index('id="table1"')]
    assert "Finding against the claim" in summary and "kv, 10 slots" in summary
    assert "20.0 %" in summary and "does not hold" in text


def test_what_is_not_shipped_is_said_in_words(monkeypatch, tmp_path):
    _use(monkeypatch, None)
    text = write_report(tmp_path, progress=False).read_text()
    assert "is not shipped" in text and "Accuracies are missing" in text
    assert 'id="sweep"' not in text
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["table1"] == {"fast": None, "paper": None}


def test_a_result_that_is_not_shipped_leaves_a_sentence(monkeypatch):
    monkeypatch.setattr(report_module, "shipped_result", lambda name, preset: None)
    monkeypatch.setattr(report_module, "heads_section", lambda _: report_module._missing("x"))
    monkeypatch.setattr(report_module, "circuits_section", lambda *_: report_module._missing("y"))
    sections = report_module.all_sections(progress=False)
    assert len(sections) == 6 + len(report_module.RESULT_SECTIONS)
    heads = next(s for s in sections if s.nav == "heads")
    assert "prefix-interp reproduce heads" in heads.intro


def test_an_unwritable_folder_is_refused_before_any_work(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(report_module, "measure_claims", lambda *_: pytest.fail("worked first"))
    with pytest.raises(PrefixInterpError, match="cannot be written"):
        write_report(tmp_path / "file" / "report")


def test_a_failure_leaves_nothing_half_written(monkeypatch, tmp_path):
    def fail(*_):
        raise PrefixInterpError("the template is broken")

    monkeypatch.setattr(report_module, "measure_claims", lambda *_: None)
    monkeypatch.setattr(report_module, "all_sections", lambda *_: [])
    monkeypatch.setattr(report_module, "render_report", fail)
    with pytest.raises(PrefixInterpError, match="broken"):
        write_report(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing")
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_in_a_browser_everything_is_drawn_offline(folder, html, scripts):
    sync_api = pytest.importorskip("playwright.sync_api")
    requests, errors = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(offline=True, java_script_enabled=scripts)
        page = context.new_page()
        page.on("request", lambda r: requests.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto((folder / "report.html").as_uri())
        expected = html.count('data-figure="attention"')
        assert expected == 12  # Table 1's models, the four skills with and without, Theorem 1
        if scripts:
            page.evaluate("window.prefixInterp.drawAll()")
            page.wait_for_function(
                "n => document.querySelectorAll('.pi-attention[data-drawn=yes]').length >= n",
                arg=expected,
                timeout=60_000,
            )
            # Something was painted: cells of attention 0 and 1, and the masked ones.
            painted = page.evaluate(
                """() => [...document.querySelectorAll('.pi-attention')].filter(box => {
                    const c = box.querySelector('canvas');
                    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                    return new Set(new Uint32Array(d.buffer)).size > 2;
                }).length"""
            )
            assert painted == expected
            widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
            assert len(widths) == html.count("<img ") and min(widths) > 0
        else:
            boxes = page.locator(".pi-attention > img")
            assert boxes.count() == expected
            for i in range(expected):
                box = boxes.nth(i).bounding_box()
                assert box is not None and box["width"] > 100
        browser.close()
    outside = [url for url in requests if not url.startswith("data:")]
    assert outside == [(folder / "report.html").as_uri()]
    assert errors == []
