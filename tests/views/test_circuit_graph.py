import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.circuit_parts import LOGITS, Edge
from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.circuit_graph import circuit_curves_figure, circuit_svg
from prefix_interp.views.style import svg
from tests.helpers import raw_model, tokens_for

NS = {"s": "http://www.w3.org/2000/svg"}


def circuit_of(slots=2, kinds=("head", "mlp", "slot"), **overrides):
    model = raw_model(seed=2, **overrides)
    batch = pi.Batch(tokens_for(model, 3, 6), tokens_for(model, 3, 3, 1), torch.zeros(3).long())
    prefix = pi.Prefix.random(model, slots, seed=3)
    return find_circuit(
        model, prefix, batch, kinds=kinds, threshold=0.7, n_random=3, search="backward",
        progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def circuit():
    return circuit_of()


def nodes_of(root):
    return {g.get("data-name"): g for g in root.findall(".//s:g", NS)}


def centre(group):
    shape = next(x for x in group if x.tag.rsplit("}", 1)[-1] in ("circle", "rect", "polygon"))
    if shape.get("cx"):
        return float(shape.get("cx")), float(shape.get("cy"))
    if shape.get("points"):
        xs, ys = zip(*(map(float, p.split(",")) for p in shape.get("points").split()), strict=True)
        return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    x, y, w, h = (float(shape.get(k)) for k in ("x", "y", "width", "height"))
    return x + w / 2, y + h / 2


def test_every_node_is_drawn_and_says_its_numbers(circuit):
    found = nodes_of(ET.fromstring(circuit_svg(circuit)))
    assert set(found) == {n.name for n in circuit.all_nodes} | {LOGITS}
    for row in circuit.to_dataframe().to_dict("records"):
        group = found[row["name"]]
        words, text = group.find("s:title", NS).text, "".join(group.itertext())
        assert f"effect {row['effect']:.3f}" in words
        assert (f"minimality {row['minimality']:.3f}" in words) == row["in_circuit"]
        assert (f"{row['minimality']:.2f}" in text.replace(words, "")) == row["in_circuit"]
        pale = any(x.get("stroke") == "#cfcfcf" for x in group)
        assert pale != row["in_circuit"]


def test_rows_are_layers_and_columns_heads(circuit):
    found = {name: centre(g) for name, g in nodes_of(ET.fromstring(circuit_svg(circuit))).items()}
    for name, (x, y) in found.items():
        if name.startswith("head"):
            layer, head = name.split()[1].split(".")
            assert found[f"head 0.{head}"][0] == x
            assert found[f"mlp {layer}"][1] < y < found[f"slot {layer}.0"][1]
    assert found["head 0.0"][0] < found["head 0.1"][0] < found["mlp 0"][0]
    assert found["slot 0.0"][1] > found["head 0.0"][1] > found["slot 1.0"][1]
    assert found[LOGITS][1] == min(y for _, y in found.values())
    size = ET.fromstring(circuit_svg(circuit))
    assert all(0 < x < float(size.get("width")) for x, _ in found.values())
    assert all(0 < y < float(size.get("height")) for _, y in found.values())


def test_two_prefixes_of_a_model_have_their_heads_at_the_same_places(circuit):
    other = dataclasses.replace(
        circuit, nodes=circuit.all_nodes[:1], minimality=(0.1,), edges=()
    )  # fmt: skip
    one, two = (nodes_of(ET.fromstring(circuit_svg(c, title="x"))) for c in (circuit, other))
    assert {k: centre(g) for k, g in one.items()} == {k: centre(g) for k, g in two.items()}


def test_edges_have_the_width_and_dash_of_their_effect(circuit):
    inside = circuit.nodes[0].name
    edges = (Edge(inside, LOGITS, 1.0), Edge(inside, LOGITS, 0.5), Edge(inside, LOGITS, -0.5),
             Edge(inside, LOGITS, 0.001))  # fmt: skip
    strong = circuit_svg(dataclasses.replace(circuit, edges=edges), min_effect=0.02)
    root = ET.fromstring(strong)
    paths = root.findall("s:path[@class='edge']", NS)
    titles = [p.find("s:title", NS).text.rsplit(" ", 1)[1] for p in paths]
    assert set(titles) == {"0.500", "-0.500", "1.000"} and titles[-1] == "1.000"
    widths = {t: float(p.get("stroke-width")) for t, p in zip(titles, paths, strict=True)}
    assert widths["1.000"] == 2 * widths["0.500"] == 2 * widths["-0.500"]
    dashed = {t: p.get("stroke-dasharray") is not None for t, p in zip(titles, paths, strict=True)}
    assert dashed == {"1.000": False, "0.500": False, "-0.500": True}
    assert len({p.get("stroke") for p in paths}) == 2
    assert "edges below 0.02 not drawn: 1" in "".join(root.itertext())
    everything = circuit_svg(dataclasses.replace(circuit, edges=edges))
    assert everything.count('class="edge"') == 4 and "not drawn" not in everything


def test_all_edges_of_a_real_circuit_join_their_nodes(circuit):
    root = ET.fromstring(circuit_svg(circuit))
    found = {name: centre(g) for name, g in nodes_of(root).items()}
    drawn = []
    for path in root.findall("s:path[@class='edge']", NS):
        source, target = path.find("s:title", NS).text.split(":")[0].split(" → ")
        numbers = [float(x) for x in re.findall(r"-?\d+\.\d", path.get("d"))]
        assert abs(numbers[0] - found[source][0]) < 0.2
        assert numbers[1] > numbers[-1] >= found[target][1] - 0.2
        drawn.append((source, target))
    assert sorted(drawn) == sorted((e.source, e.target) for e in circuit.edges)


def test_the_picture_is_text_with_a_label_and_without_scripts(circuit):
    text = circuit_svg(circuit, title='<script>"a" & b</script>')
    root = ET.fromstring(text)
    assert root.get("role") == "img" and root.get("aria-label") == '<script>"a" & b</script>'
    assert root.find("s:title", NS).text == root.get("aria-label")
    assert all(node.name in root.find("s:desc", NS).text for node in circuit.nodes)
    assert "<script" not in text and "http" not in text.replace(NS["s"], "")
    assert text == circuit_svg(circuit, title='<script>"a" & b</script>')
    assert circuit.caption() in circuit_svg(circuit)


@pytest.mark.parametrize(
    "settings",
    [
        dict(attn_only=True),
        dict(kinds=("head", "mlp")),
        dict(kinds=("slot",)),
        dict(n_layers=1, slots=9),
    ],
)
def test_other_kinds_of_circuits_are_drawn_too(settings):
    circuit = circuit_of(**settings)
    root = ET.fromstring(circuit_svg(circuit))
    found = nodes_of(root)
    assert set(found) == {n.name for n in circuit.all_nodes} | {LOGITS}
    places = [centre(g) for g in found.values()]
    assert len(set(places)) == len(places)
    assert all(0 < x < float(root.get("width")) for x, _ in places)


def test_a_negative_threshold_for_edges_is_refused(circuit):
    with pytest.raises(PrefixInterpError, match="min_effect=-1"):
        circuit_svg(circuit, min_effect=-1.0)


def test_curves_are_those_of_the_table(circuit):
    figure, frame = circuit_curves_figure(circuit), circuit.curves()
    for ax, name in zip(figure.axes, ("faithfulness", "completeness"), strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        assert lines["best found"].get_ydata() == pytest.approx(frame[name].to_numpy())
        mean = frame[f"random_{name}_mean"].to_numpy()
        assert lines["random, mean"].get_ydata() == pytest.approx(mean)
        assert lines["the circuit"].get_xdata()[0] == len(circuit.nodes)
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert band.min() == pytest.approx(frame[f"random_{name}_min"].min())
        assert band.max() == pytest.approx(frame[f"random_{name}_max"].max())
    assert [t.get_text() for t in figure.axes[0].texts] == ["threshold 0.7"]
    assert svg(figure) == svg(circuit_curves_figure(circuit))
