import json
import re
from pathlib import Path

import pytest

from analyses import registry
from analyses.registry import evidence_of
from analyses.report import page as page_module
from analyses.report.page import all_sections, write_report
from prefix_interp.errors import PrefixInterpError
from tests.analyses.made_up import made_up_table1

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def html(report):
    return (report.folder / "report.html").read_text()


def parts_of(report):
    """Every part of every section, those that stand side by side one by one."""
    for sections in report.sections.values():
        for section in sections:
            for part in section.parts:
                yield from getattr(part, "items", [part])


def interactive_figures(report):
    return sum(part.kind == "interactive" for part in parts_of(report))


@pytest.mark.slow
def test_two_reports_are_equal_but_for_their_timing(report, html, tmp_path):
    other = tmp_path / "made" / "here"
    assert write_report(other, progress=False).read_text() == html
    first, second = (
        json.loads((folder / "report.json").read_text()) for folder in (report.folder, other)
    )
    assert first.pop("timing").keys() == second.pop("timing").keys()
    assert first == second
    assert sorted(p.name for p in other.iterdir()) == ["report.html", "report.json"]


def test_the_page_asks_for_nothing_outside_itself(html):
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', markup)
    assert "default-src 'none'; script-src 'unsafe-inline'" in html
    assert html.count("var CircuitsVis=") == 1


def test_every_figure_has_caption_text_alternative_and_numbers(report, html):
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    figures = re.findall(r"<figure.*?</figure>", markup, flags=re.S)
    shown = [part for part in parts_of(report) if part.kind not in ("words", "verdicts")]
    assert len(figures) == len(shown)
    for figure in figures:
        assert 'role="img"' in figure and re.search(r'aria-label="[^"]{20}', figure)
        assert "<figcaption>" in figure and "<details>" in figure and "<td" in figure
    ids = re.findall(r'\sid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))


def test_every_picture_names_its_baseline_and_layer(report):
    own = [s for s in report.sections["attention"] for s in s.parts if s.kind == "picture"]
    assert len(own) == 3
    for part in own:
        assert "masked baseline" in part.caption and "ayer 0" in part.caption


def test_the_page_links_and_shows_every_section_and_the_json_has_its_numbers(report, html):
    record = json.loads((report.folder / "report.json").read_text())
    assert set(record) == {"format", "seed", "device", "versions", "sections", "timing"}
    sections = [section for found in report.sections.values() for section in found]
    assert list(record["sections"]) == [section.id for section in sections]
    for section in sections:
        assert f'<section id="{section.id}">' in html and f'href="#{section.id}"' in html
        numbers = record["sections"][section.id]
        assert list(numbers) == list(section.numbers)
        assert [len(rows) for rows in numbers.values()] == [
            len(rows) for rows in section.numbers.values()
        ]


def test_every_finding_stands_in_the_summary(report, html):
    summary = html[html.index('id="summary"') : html.index('<section id="table1"')]
    findings = [line for found in report.sections.values() for s in found for line in s.findings]
    assert summary.count("<li>") == len(findings) >= 5


def test_tables_are_printed_cell_by_cell(report, html):
    (table, *_) = [p for p in report.sections["table1"][0].parts if p.table is not None]
    rows = re.findall(r"<tr>(.*?)</tr>", html[html.index('<section id="table1"') :], re.S)
    first = re.sub(r"<[^>]*>", "|", rows[1])
    assert [cell for cell in first.split("|") if cell] == list(table.table.rows[0])


def only(name, monkeypatch):
    found = [study for study in registry.STUDIES if study.name in name]
    monkeypatch.setattr(registry, "STUDIES", tuple(found))


@pytest.mark.slow
def test_a_finding_against_the_paper_stands_in_the_summary(monkeypatch, tmp_path):
    only(("table1", "attention", "claims"), monkeypatch)
    results = [made_up_table1(learned=0.2)]
    text = write_report(tmp_path, progress=False, results=results).read_text()
    summary = text[text.index('id="summary"') : text.index('id="table1"')]
    assert "Finding against the claim" in summary and "kv, 10 slots" in summary
    assert "20.0 %" in summary and '<td class="verdict fails">' in text
    assert "table1 --preset paper makes it" in text and "table1 --preset fast" not in text


@pytest.mark.slow
def test_what_is_missing_leaves_a_sentence_and_the_live_studies(monkeypatch, tmp_path):
    only(("table1", "attention", "claims"), monkeypatch)
    text = write_report(tmp_path, progress=False, results=[]).read_text()
    assert "python -m analyses table1 --preset fast makes it" in text
    assert "Accuracies are missing" in text and 'id="sweep"' not in text and 'id="query"' in text
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["sections"]["missing-table1"] == {} and record["sections"]["claims"]["claims"]


def test_a_study_whose_result_is_missing_is_never_asked_for_its_section(monkeypatch):
    only([study.name for study in registry.STUDIES if not study.live], monkeypatch)
    sections = all_sections(evidence_of([]), progress=False)
    assert [s.id for s in sections] == [f"missing-{study.name}" for study in registry.STUDIES]


def test_an_unwritable_folder_is_refused_before_any_work(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(page_module, "all_sections", lambda *_: pytest.fail("worked first"))
    with pytest.raises(PrefixInterpError, match="cannot be written"):
        write_report(tmp_path / "file" / "report")


def test_a_failure_leaves_nothing_half_written(monkeypatch, tmp_path):
    def fail(*_):
        raise PrefixInterpError("the template is broken")

    monkeypatch.setattr(page_module, "all_sections", lambda *_: [])
    monkeypatch.setattr(page_module, "render_report", fail)
    with pytest.raises(PrefixInterpError, match="broken"):
        write_report(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser: {CHROMIUM} is missing")
@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_in_a_browser_everything_is_drawn_offline(report, html, scripts):
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
        page.goto((report.folder / "report.html").as_uri())
        expected = html.count('data-figure="attention"')
        assert expected == interactive_figures(report)
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
    assert outside == [(report.folder / "report.html").as_uri()]
    assert errors == []
