import re
from importlib import import_module
from urllib.parse import unquote

import pytest

import prefix_interp as pi
from analyses.circuits import Protocol, find_circuits, section
from analyses.registry import evidence_of, find_study
from analyses.study import committed_result
from analyses.table2.skills import load_skills


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        protocols = import_module("analyses.circuits").PROTOCOLS
        patch.setitem(protocols, "fast", Protocol(n=4, n_random=2, threshold=0.8))
        yield


def test_the_section_has_every_prefix_of_the_shipped_model(small):
    heads = committed_result("heads")
    evidence = evidence_of([heads])
    shown = section(evidence)
    found = evidence.once(find_circuits)
    circuit, skills = found["add_two"], evidence.once(load_skills)
    alone = pi.find_circuit(
        skills.model, skills.prefixes["add_two"], "add_two", n=4, n_random=2, threshold=0.8,
        progress=False,
    )  # fmt: skip
    assert circuit.nodes == alone.nodes
    named = {
        r["name"] for r in shown.numbers["nodes"] if r["prefix"] == "add two" and r["in_circuit"]
    }
    assert named == {node.name for node in alone.nodes}
    sizes = [r["size"] for r in shown.numbers["curves"] if r["prefix"] == "add two"]
    assert sizes == list(range(len(alone.all_nodes) + 1))
    assert shown.numbers["sizes"] == find_study("heads").tables(heads)["circuit"]


def test_without_the_heads_of_all_seeds_the_shipped_model_is_left(small):
    shown = section(evidence_of([]))
    assert set(shown.numbers) == {"nodes", "curves", "edges"}
    assert [picture.id for picture in shown.figure.pictures] == [
        f"circuit-{task}" for task in ("sort_ascending", "sort_descending", "add_one", "add_two")
    ]


def test_every_edge_of_a_circuit_is_drawn_and_heads_stand_in_common_places(small):
    evidence = evidence_of([])
    shown = section(evidence)
    places = set()
    for circuit, picture in zip(
        evidence.once(find_circuits).values(), shown.figure.pictures, strict=True
    ):
        drawn = unquote(picture.src)
        assert drawn.count("class='edge'") == len(circuit.edges) > 0
        for node in circuit.nodes:
            assert any(node.name in (edge.source, edge.target) for edge in circuit.edges)
        heads = r"data-name='([^']+)'><title>[^<]*</title><circle cx='([\d.]+)'"
        places.add(tuple(re.findall(heads, drawn)))
    assert len(places) == 1 and len(*places) == 4
