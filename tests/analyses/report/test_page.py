import json
import re

import pytest

from analyses import registry
from analyses.registry import evidence_of
from analyses.report import page as page_module
from analyses.report.page import KINDS, all_sections, write_report
from analyses.report.sections import PARTS
from prefix_interp.errors import PrefixInterpError
from tests.analyses.made_up import made_up_table1


@pytest.fixture(scope="session")
def html(report):
    return (report.folder / "report.html").read_text()


@pytest.fixture(scope="session")
def markup(html):
    """The page without its scripts and its data."""
    return re.sub(r"<script.*?</script>", "", html, flags=re.S)


def sections_of(report):
    return [section for found in report.sections.values() for section in found]


def unfolded(markup):
    """What is read without opening anything, as words."""
    open_ = re.sub(r"<details.*?</details>|<style.*?</style>|<nav.*?</nav>", "", markup, flags=re.S)
    return re.sub(r"<[^>]*>", " ", open_).split()


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


def test_the_page_asks_for_nothing_outside_itself_and_is_small(html, markup):
    assert not re.findall(r'(?:src|href)="(?!data:|#)', markup)
    assert "default-src 'none'; script-src 'unsafe-inline'" in html
    assert len(html.encode()) < 2_500_000
    assert len(re.findall(r"(?:data|[^/])explorer\.js|CircuitsVis", html)) == 0


def test_the_first_screen_has_one_sentence_four_cards_and_two_pictures(report, markup):
    first = markup[markup.index("<header>") : markup.index("</header>")]
    assert first.count('class="lead"') == 1 and first.count('class="card"') == 4
    assert first.count('class="number"') == first.count('class="chart"') == 4
    assert re.findall(r'<figure id="([^"]*)"', first) == ["query-first", "matrix-first"]
    assert [s.id for s in sections_of(report) if s.card] == [
        "attention", "table1", "skills", "circuits"
    ]  # fmt: skip


def test_the_numbers_of_the_cards_are_those_of_the_results(report):
    cards = {s.id: s.card for s in sections_of(report) if s.card}
    record = json.loads((report.folder / "report.json").read_text())["sections"]
    claims = record["claims"]["claims"]
    still = max(r["value"] for r in claims if r["claim"] == "relative-attention")
    assert cards["attention"].number.startswith(f"{still:.1e}".split("e")[0])
    rows = record["table1"]["fast rows"]
    best = max(r["sort_descending"]["exact_match"]["mean"] for r in rows if r["method"] == "prefix")
    assert f"{100 * best:.1f} %" in cards["table1"].words and cards["table1"].holds is False
    sizes = record["circuits"]["sizes"]
    least, most = min(r["smallest"] for r in sizes), max(r["largest"] for r in sizes)
    assert cards["circuits"].number == f"{least} to {most} of {sizes[0]['of']}"


def test_every_section_is_a_finding_a_figure_and_two_sentences(report, markup):
    for section in sections_of(report):
        assert section.part in PARTS
        assert len(re.split(r"(?<=[.:;]) (?=[A-Z])", str(section.text))) <= 4, section.id
        if section.part == "about":
            continue
        assert section.figure is not None and section.folded, section.id
    ids = re.findall(r'\sid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))


def test_what_is_open_is_read_in_a_quarter_of_an_hour(markup):
    assert len(unfolded(markup)) < 3000


def test_every_picture_has_words_for_those_who_cannot_see_it(markup):
    images = re.findall(r"<img [^>]*>", markup)
    assert len(images) > 30
    assert all(re.search(r'alt="[^"]{20,}', image) for image in images)
    assert 'role="img"' not in "".join(re.findall(r"<figure[^>]*>", markup))
    figures = re.findall(r"<figure.*?</figure>", markup, flags=re.S)
    assert all("<figcaption>" in figure for figure in figures)


def test_pictures_of_one_head_name_their_baseline_and_layer(report):
    own = [s for s in report.sections["attention"] if s.figure.kind == "picture"]
    assert len(own) == 3
    for section in own:
        caption = str(section.figure.caption).lower()
        assert "masked" in caption and "layer 0" in caption


def test_contents_claims_and_json_know_every_section(report, markup):
    record = json.loads((report.folder / "report.json").read_text())
    assert set(record) == {"format", "seed", "device", "versions", "sections", "timing"}
    sections = sections_of(report)
    found = [name for name in record["sections"] if not name.startswith("missing-")]
    assert found == [section.id for section in sections]
    side = markup[markup.index('class="side"') : markup.index("</nav>")]
    for section in sections:
        assert f'<section id="{section.id}"' in markup and f'href="#{section.id}"' in side
        numbers = record["sections"][section.id]
        assert {k: len(v) for k, v in numbers.items()} == {
            k: len(v) for k, v in section.numbers.items()
        }
    for title in PARTS.values():
        assert f">{title}</a>" in side
    claims = markup[markup.index('id="all-claims"') :]
    for section in sections:
        for claim in section.claims:
            assert str(claim.statement).replace("'", "&#39;") in claims or "sup" in claim.statement
            assert set(claim.cells) <= set(KINDS)


def test_no_table_is_long_or_has_the_names_of_columns(report):
    for section in sections_of(report):
        for part in section.folded:
            table = getattr(part, "table", None)
            if table is None:
                continue
            assert len(table.rows) <= 80, (section.id, part.title)
            assert all("_" not in cell for cell in table.header), (section.id, table.header)
            for column in zip(*table.rows, strict=True):
                plain = [c for c in column if re.fullmatch(r"−?\d+\.\d+", c)]
                assert len({len(c.partition(".")[2]) for c in plain}) <= 1, (part.title, plain)


def test_a_task_has_one_name(markup):
    words = " ".join(unfolded(re.sub(r'alt="[^"]*"', "", markup)))
    for other in ("+1", "+2", "add_one", "sort_descending", "sort_ascending"):
        assert other not in words


def only(name, monkeypatch):
    found = [study for study in registry.STUDIES if study.name in name]
    monkeypatch.setattr(registry, "STUDIES", tuple(found))


@pytest.mark.slow
def test_a_finding_against_the_paper_stands_on_the_first_screen(monkeypatch, tmp_path):
    only(("table1", "attention", "claims"), monkeypatch)
    results = [made_up_table1(learned=0.2)]
    text = write_report(tmp_path, progress=False, results=results).read_text()
    first = text[text.index("<header>") : text.index("</header>")]
    assert "not for kv, 10 slots" in first and "20.0 %" in first
    assert 'class="fails"' in text[text.index('id="all-claims"') :]
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
    installed = {study.name for study in registry.STUDIES if study.model and study.model.usual}
    expected = [s.name for s in registry.STUDIES if s.name not in installed]
    assert [s.id for s in sections] == [f"missing-{name}" for name in expected]


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
