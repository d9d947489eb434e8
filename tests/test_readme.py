"""The README's examples print what it says; blocks of it and of the findings are made by code."""

import math
import re
from dataclasses import replace

import pytest

import prefix_interp as pi
from analyses import registry
from analyses.registry import STUDIES, evidence_of
from docs.update_readme import (
    EXAMPLE,
    FINDINGS,
    README,
    printed,
    with_blocks,
    with_claims,
    with_output,
)

EXAMPLES = EXAMPLE.findall(README.read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
@pytest.mark.parametrize("code", [code for code, _ in EXAMPLES])
def test_an_example_prints_what_the_readme_shows(code):
    text = README.read_text(encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 21
    shown = re.search(r"```text\n(.*?)```", text[text.index(code) :], re.S)[1]
    got, expected = printed(code).split(), shown.split()
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        numbers = [re.sub(r"[\[\],()]", "", x) for x in (a, b)]
        try:
            # Another processor may round the last digits, and flip one sequence, differently.
            assert math.isclose(*map(float, numbers), rel_tol=0.02, abs_tol=0.02), (a, b)
        except ValueError:
            assert a == b


def test_the_readme_is_short_and_both_examples_are_found():
    assert len(EXAMPLES) == 2
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_there_is_a_place_for_every_block_and_nothing_else_is_touched():
    text = FINDINGS.read_text(encoding="utf-8")
    blocks = [name for study in STUDIES for name in study.findings]
    assert len(set(blocks)) == len(blocks)
    for name in blocks:
        assert text.count(f"<!-- {name} -->") == text.count(f"<!-- end {name} -->") == 1


@pytest.mark.slow
def test_no_block_was_edited_by_hand():
    evidence = evidence_of()
    for path, make in ((FINDINGS, with_blocks), (README, with_claims)):
        text = path.read_text(encoding="utf-8")
        assert make(text, evidence) == text, f"{path.name}: run make readme"


def fake(name, make):
    return replace(STUDIES[0], findings={name: make})


def test_blocks_are_replaced_where_they_stand(monkeypatch):
    asked = evidence_of([])
    studies = (fake("a", lambda evidence: r"\1 new" if evidence is asked else ""),
               fake("b", lambda _: "x\ny"))  # fmt: skip
    monkeypatch.setattr(registry, "STUDIES", studies)
    text = "1 <!-- b -->old<!-- end b --> 2 <!-- a -->\n\n<!-- end a --> 3 <!-- c -->4"
    assert with_blocks(text, asked) == (
        "1 <!-- b -->\nx\ny\n<!-- end b --> 2 <!-- a -->\n\\1 new\n<!-- end a --> 3 <!-- c -->4"
    )
    monkeypatch.setattr(registry, "STUDIES", (fake("d", lambda _: ""),))
    with pytest.raises(pi.PrefixInterpError, match="no block 'd'"):
        with_blocks(text, asked)


def test_the_output_of_the_example_is_what_it_prints():
    text = "a\n```python\nprint(1 + 1)\n```\nb\n```text\nold\n```\nc"
    assert with_output(text) == text.replace("old", "2")
    with pytest.raises(pi.PrefixInterpError, match="no example"):
        with_output("nothing")
