import dataclasses
import itertools
import json
import math
import re

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_edges import Link, circuit_links, cut_links
from prefix_interp.attribution.circuit_parts import LOGITS
from prefix_interp.attribution.circuit_runs import (
    Node,
    circuit_metrics,
    circuit_nodes,
    share_interval,
)
from prefix_interp.attribution.circuit_search import best_by_size, find_circuit, random_circuits
from prefix_interp.attribution.contrast import contrast
from prefix_interp.errors import PrefixInterpError
from prefix_interp.prefixes.baselines import masked_hooks
from prefix_interp.seeds import derive_generator
from prefix_interp.storage import write_json
from tests.helpers import assert_close, assert_far, raw_model, tokens_for

Site = pi.Site
BATCH, POS, N_OUT, SLOTS = 3, 6, 3, 2
MODELS = {
    "plain": dict(),
    "grouped rotary": dict(
        n_heads=4, n_key_value_heads=2, positional_embedding_type="rotary", rotary_dim=4,
        normalization_type="RMS",
    ),
    "parallel": dict(parallel_attn_mlp=True, n_layers=3),
    "attention only": dict(attn_only=True),
    "norms behind": dict(normalization_type="RMS", use_normalization_before_and_after=True),
    "bidirectional": dict(attention_dir="bidirectional"),
}  # fmt: skip


def batch_for(model, seed=0, n=BATCH):
    answers = tokens_for(model, n, N_OUT, seed + 100)
    return pi.Batch(tokens_for(model, n, POS, seed), answers, torch.zeros(n).long())


def case(seed=0, slots=SLOTS, **overrides):
    model = raw_model(seed=seed, **overrides)
    prefix = pi.Prefix.random(model, slots, seed=seed + 1)
    return contrast(model, prefix, batch_for(model))


def circuit_of(pair, **settings):
    batch = pi.Batch(pair.tokens, pair.target.answers, torch.zeros(BATCH).long())
    settings = dict(n_random=3, progress=False) | settings
    return find_circuit(pair.model, pair.prefix, batch, **settings)


# The oracle: one circuit at a time, the other injection, and a plain hook for each node.


def off_activations(pair):
    seen, n = {}, pair.n_slots

    def read(x, hook):
        seen[hook.name] = x[:, n:]

    hooks = [*masked_hooks(pair.model, n), (lambda name: name.endswith(("_z", "mlp_out")), read)]
    with torch.no_grad():
        pair.model.run_with_hooks(pair.tokens, fwd_hooks=hooks)
    return seen


def holding(node, off, n):
    def write(x, hook):
        x = x.clone()
        where = (slice(None), slice(None), node.index) if node.kind == "head" else ()
        x[:, n:][where] = off[hook.name][where]
        return x

    return (Site.Z if node.kind == "head" else Site.MLP_OUT).at(node.layer), write


def one_by_one(pair, inside, nodes, closed=(), more=()):
    """The log-probabilities of one circuit; `closed` are gates (layer, head, slot)."""
    n, cfg = pair.n_slots, pair.model.cfg
    out, off = [node for node in nodes if node not in inside], off_activations(pair)
    gates = torch.ones(cfg.n_layers, cfg.n_heads, n, dtype=torch.float64)
    for layer, head, slot in closed:
        gates[layer, head, slot] = 0
    for node in out:
        if node.kind == "slot":
            gates[node.layer, :, node.index] = 0
    hooks = [holding(node, off, n) for node in out if node.kind != "slot"]
    with torch.no_grad(), pi.attach(pair.model, pair.prefix, gates=gates):
        logits = pair.model.run_with_hooks(pair.tokens, fwd_hooks=[*hooks, *more])
    found = []
    for rows, answers in zip(logits[:, -N_OUT:], pair.target.answers, strict=True):
        each = [row[a] - row.logsumexp(0) for row, a in zip(rows, answers, strict=True)]
        found.append(sum(each) / N_OUT)
    return torch.stack(found)


def loop_share(pair, inside, nodes, **cut):
    on, off = pair.on["log_prob"].mean(), pair.off["log_prob"].mean()
    return float((one_by_one(pair, inside, nodes, **cut).mean() - off) / (on - off))


@pytest.mark.parametrize("name", MODELS)
def test_a_stack_of_circuits_is_a_loop_over_them(name):
    pair = case(**MODELS[name])
    nodes = circuit_nodes(pair.model, pair.prefix)
    rng = derive_generator(3, name)
    keep = torch.rand(6, len(nodes), generator=rng) < 0.6
    values = circuit_metrics(pair, keep)["log_prob"]
    for row, value in zip(keep.tolist(), values, strict=True):
        inside = [node for node, is_in in zip(nodes, row, strict=True) if is_in]
        assert_close(value, one_by_one(pair, inside, nodes), 1e-10)
    assert_far(values.amax(0), values.amin(0))


@pytest.mark.parametrize("name", MODELS)
def test_all_nodes_are_the_prefixed_run_and_none_the_run_without(name):
    pair = case(**MODELS[name])
    for kinds in (("head", "mlp", "slot"), ("head",), ("slot",), ("mlp", "slot")):
        nodes = circuit_nodes(pair.model, pair.prefix, kinds)
        keep = torch.tensor([[True] * len(nodes), [False] * len(nodes)])
        values = circuit_metrics(pair, keep, nodes)["log_prob"]
        assert_close(values[0], pair.on["log_prob"], 1e-10)
        assert_close(values[1], pair.off["log_prob"], 1e-10)
        assert_far(values[0], values[1])


def test_nodes_are_heads_mlps_and_slots_of_every_layer():
    names = lambda pair, *k: [n.name for n in circuit_nodes(pair.model, pair.prefix, *k)]  # noqa: E731
    assert names(case()) == [
        "head 0.0", "head 0.1", "mlp 0", "slot 0.0", "slot 0.1",
        "head 1.0", "head 1.1", "mlp 1", "slot 1.0", "slot 1.1",
    ]  # fmt: skip
    assert not any(name.startswith("mlp") for name in names(case(attn_only=True)))
    assert names(case(n_layers=1), ("mlp", "slot")) == ["mlp 0", "slot 0.0", "slot 0.1"]


@pytest.mark.parametrize("node", [Node("head", 10, 3), Node("mlp", 0), Node("slot", 2, 11)])
def test_a_node_is_its_name(node):
    assert Node.parse(node.name) == node


@pytest.mark.parametrize(
    "name", ["head 0", "mlp 0.1", "slot a.0", "heads 0.1", "head 0.1.2", "", "head -1.0", "head ²"]
)
def test_other_names_are_refused(name):
    with pytest.raises(PrefixInterpError, match="is not a node"):
        Node.parse(name)
    with pytest.raises(PrefixInterpError, match="does not go with"):
        Node("mlp", 0, 1)


def test_exhaustive_search_is_brute_force():
    pair = case(seed=4, n_layers=1)
    nodes = circuit_nodes(pair.model, pair.prefix)
    subsets = [
        s for k in range(len(nodes) + 1) for s in itertools.combinations(nodes, k)
    ]  # by size  # fmt: skip
    shares = {s: loop_share(pair, s, nodes) for s in subsets}
    for threshold in (0.3, 0.95, 1.0):
        circuit = circuit_of(pair, threshold=threshold)
        # The prefixed run itself reaches 1 only up to rounding.
        enough = [s for s in subsets if shares[s] >= threshold - 1e-9 * (len(s) == len(nodes))]
        smallest = min(len(s) for s in enough)
        best = max((s for s in enough if len(s) == smallest), key=shares.get)
        assert circuit.search == "exhaustive" and set(circuit.nodes) == set(best)
        assert circuit.faithfulness().value == pytest.approx(shares[best], abs=1e-9)
    for size, point in enumerate(circuit.sizes):
        best = max(v for s, v in shares.items() if len(s) == size)
        assert point.faithfulness == pytest.approx(best, abs=1e-6)
        rest = tuple(node for node in nodes if node not in point.nodes)
        assert point.completeness == pytest.approx(1 - shares[rest], abs=1e-9)


def test_every_number_of_a_circuit_is_that_of_a_loop():
    pair = case(seed=4, n_layers=1)
    circuit, nodes = circuit_of(pair, threshold=0.5), circuit_nodes(pair.model, pair.prefix)
    inside = circuit.nodes
    assert 0 < len(inside) < len(nodes)
    whole = loop_share(pair, inside, nodes)
    assert circuit.faithfulness().value == pytest.approx(whole, abs=1e-9)
    rest = [node for node in nodes if node not in inside]
    assert circuit.completeness().value == pytest.approx(1 - loop_share(pair, rest, nodes))
    lost = [whole - loop_share(pair, [m for m in inside if m != n], nodes) for n in inside]
    assert circuit.minimality == pytest.approx(lost, abs=1e-9)
    assert lost == sorted(lost, reverse=True)
    effects = [1 - loop_share(pair, [m for m in nodes if m != n], nodes) for n in nodes]
    assert circuit.effects == pytest.approx(effects, abs=1e-9)
    assert circuit.on == pytest.approx(float(one_by_one(pair, nodes, nodes).mean()))
    assert circuit.off == pytest.approx(float(one_by_one(pair, [], nodes).mean()))
    table = circuit.to_dataframe().set_index("name")
    assert list(table.index) == [n.name for n in nodes]
    for node, effect in zip(nodes, effects, strict=True):
        row = table.loc[node.name]
        assert row["in_circuit"] == (node in inside) and row["effect"] == pytest.approx(effect)
        if node in inside:
            assert row["minimality"] == pytest.approx(lost[inside.index(node)], abs=1e-9)
        else:
            assert math.isnan(row["minimality"])


def test_backward_search_drops_the_best_node_at_each_step():
    pair = case(seed=4, n_layers=1)
    nodes = circuit_nodes(pair.model, pair.prefix)
    circuit = circuit_of(pair, search="backward", threshold=0.7)
    assert circuit.search == "backward"
    sets = [set(point.nodes) for point in circuit.sizes]
    assert sets[-1] == set(nodes)
    for small, large in itertools.pairwise(sets):
        best = max(loop_share(pair, large - {n}, nodes) for n in large)
        assert len(large - small) == 1 and small < large
        assert loop_share(pair, small, nodes) == pytest.approx(best, abs=2e-6)
    chosen = [loop_share(pair, s, nodes) >= 0.7 for s in sets].index(True)
    assert set(circuit.nodes) == sets[chosen]


@pytest.mark.parametrize("search", ["exhaustive", "backward"])
@pytest.mark.parametrize("seed", range(2))
def test_no_node_of_a_circuit_can_be_spared(seed, search):
    circuit = circuit_of(case(seed=seed), search=search, threshold=0.8, n_random=1)
    assert circuit.faithfulness() >= 0.8
    assert all(circuit.faithfulness() - x < 0.8 for x in circuit.minimality)


def test_exhaustive_search_is_never_beaten_by_the_backward_one():
    better = 0
    for seed in (1, 4):
        pair = case(seed=seed, slots=1)
        exact, greedy = (
            circuit_of(pair, search=s, threshold=0.9, n_random=1)
            for s in ("exhaustive", "backward")
        )
        assert len(exact.nodes) <= len(greedy.nodes)
        for a, b in zip(exact.sizes, greedy.sizes, strict=True):
            assert a.faithfulness >= b.faithfulness - 1e-6
            better += a.faithfulness > b.faithfulness + 1e-3
    assert better


def test_ties_go_to_the_first_set_whatever_the_rounding():
    noise = lambda keep: 1e-9 * torch.arange(len(keep)).double()  # noqa: E731
    for search in ("exhaustive", "backward"):
        best = best_by_size(lambda keep: keep.sum(-1) + noise(keep), 3, search)
        assert best.sum(-1).tolist() == [0, 1, 2, 3]
        expected = [[0, 1, 1], [1, 1, 0]][search == "exhaustive"]
        assert best[2].int().tolist() == expected


@pytest.mark.parametrize("name", ["plain", "attention only", "parallel"])
def test_cut_edges_are_those_of_split_inputs(name):
    """The oracle patches TransformerLens's own separate inputs of heads and MLPs."""
    pair = case(**(MODELS[name] | dict(use_split_qkv_input=True, use_hook_mlp_in=True)))
    model, n = pair.model, SLOTS
    nodes = circuit_nodes(model, pair.prefix)
    inside = [node for node in nodes if node.name not in ("head 0.1", "slot 1.0")]
    links = circuit_links(pair, inside)
    values = cut_links(pair, nodes, inside, links)["log_prob"]
    off, now = off_activations(pair), {}

    def read(x, hook):
        now[hook.name] = x[:, n:]

    # Behind the hooks of the circuit, so that it sees what they wrote.
    one_by_one(pair, inside, nodes, more=[(lambda s: s.endswith(("_z", "mlp_out")), read)])
    for link, value in zip(links, values, strict=True):
        source, target = link
        if source.kind == "slot":
            closed = [(source.layer, target.index, source.index)]
            assert_close(value, one_by_one(pair, inside, nodes, closed=closed), 1e-10)
            continue
        place = (Site.Z if source.kind == "head" else Site.MLP_OUT).at(source.layer)
        change = (off[place] - now[place]).detach()
        if source.kind == "head":
            w_o = model.blocks[source.layer].attn.W_O[source.index].detach()
            change = change[:, :, source.index] @ w_o

        def add(x, hook, change=change, target=target):
            x = x.clone()
            x[(slice(None), slice(-POS, None), *([target.index] if x.ndim == 4 else []))] += change
            return x

        if target is None:
            more = [(Site.RESID_POST.at(model.cfg.n_layers - 1), add)]
        elif target.kind == "mlp":
            more = [(f"blocks.{target.layer}.hook_mlp_in", add)]
        else:
            more = [(f"blocks.{target.layer}.hook_{x}_input", add) for x in "qkv"]
        assert_close(value, one_by_one(pair, inside, nodes, more=more), 1e-9)
    assert len({round(float(v.sum()), 9) for v in values}) > len(links) / 2


def test_edges_run_to_what_reads_their_source():
    pair = case()
    nodes = circuit_nodes(pair.model, pair.prefix)
    names = lambda links: {(s.name, t.name if t else LOGITS) for s, t in links}  # noqa: E731
    assert names(circuit_links(pair, nodes)) == {
        *((f"slot {i}.{s}", f"head {i}.{h}") for i in range(2) for s in range(2) for h in range(2)),
        *((f"head {i}.{h}", f"mlp {i}") for i in range(2) for h in range(2)),
        *((f"head 0.{h}", f"head 1.{k}") for h in range(2) for k in range(2)),
        *((f"head 0.{h}", "mlp 1") for h in range(2)),
        *(("mlp 0", x) for x in ("head 1.0", "head 1.1", "mlp 1")),
        *((x, LOGITS) for x in ("head 0.0", "head 0.1", "mlp 0", "head 1.0", "head 1.1", "mlp 1")),
    }
    parallel = case(parallel_attn_mlp=True)
    assert names(circuit_links(pair, nodes)) - names(circuit_links(parallel, nodes)) == {
        (f"head {i}.{h}", f"mlp {i}") for i in range(2) for h in range(2)
    }
    behind = case(**MODELS["norms behind"])
    assert all(s.kind == "slot" for s, _ in circuit_links(behind, nodes))
    assert circuit_links(pair, [Node("mlp", 1)]) == [Link(Node("mlp", 1), None)]


def test_edges_of_the_result_are_what_is_lost_when_they_are_cut():
    pair = case(seed=4, n_layers=1)
    circuit, nodes = circuit_of(pair, threshold=0.5), circuit_nodes(pair.model, pair.prefix)
    slots = [e for e in circuit.edges if e.source.startswith("slot")]
    assert slots
    for edge in slots:
        source, target = Node.parse(edge.source), Node.parse(edge.target)
        closed = [(source.layer, target.index, source.index)]
        left = loop_share(pair, circuit.nodes, nodes, closed=closed)
        assert edge.effect == pytest.approx(circuit.faithfulness() - left, abs=1e-9)
    assert circuit.edge_dataframe()["effect"].tolist() == [e.effect for e in circuit.edges]


def test_random_circuits_have_the_same_kinds_and_are_fair():
    nodes = circuit_nodes(case(n_heads=4, d_head=2).model, pi.Prefix.random(raw_model(), 3))
    like = torch.tensor([i % 3 > 0 for i in range(len(nodes))])
    drawn = random_circuits(like, nodes, 4000, derive_generator(0, "test"))
    for kind in ("head", "mlp", "slot"):
        own = torch.tensor([node.kind == kind for node in nodes])
        assert (drawn[:, own].sum(-1) == like[own].sum()).all()
        share = float(like[own].double().mean())
        assert drawn[:, own].double().mean(0).tolist() == pytest.approx(
            [share] * own.sum(), abs=0.04
        )


def test_curves_hold_every_draw_and_end_at_both_runs():
    pair = case(seed=2, n_layers=1, n_heads=4)
    circuit = circuit_of(pair, n_random=4)
    frame = circuit.curves()
    assert frame["size"].tolist() == list(range(len(circuit.all_nodes) + 1))
    assert frame.loc[frame["chosen"], "size"].tolist() == [len(circuit.nodes)]
    assert frame["nodes"].iloc[0] == "" and frame["nodes"].iloc[1] == circuit.sizes[1].nodes[0].name
    for name in ("faithfulness", "completeness"):
        columns = [name] + [f"random_{name}_{x}" for x in ("min", "mean", "max")]
        assert frame[columns].iloc[0].tolist() == pytest.approx([0] * 4, abs=1e-9)
        assert frame[columns].iloc[-1].tolist() == pytest.approx([1] * 4, abs=1e-9)
        for point, row in zip(circuit.sizes, frame.to_dict("records"), strict=True):
            drawn = getattr(point, f"random_{name}")
            assert len(drawn) == 4 and row[name] == getattr(point, name)
            assert [row[c] for c in columns[1:]] == pytest.approx(
                [min(drawn), sum(drawn) / 4, max(drawn)]
            )
    again, other = circuit_of(pair, n_random=4), circuit_of(pair, n_random=4, seed=1)
    assert again == circuit and other.nodes == circuit.nodes
    assert other.sizes[4].random_faithfulness != circuit.sizes[4].random_faithfulness


def test_a_circuit_is_measured_again_on_other_examples():
    pair = case(seed=4, n_layers=1)
    circuit, nodes = circuit_of(pair, threshold=0.5), circuit_nodes(pair.model, pair.prefix)
    other = contrast(pair.model, pair.prefix, batch_for(pair.model, seed=9, n=5))
    found = circuit.faithfulness(other)
    assert found.value == pytest.approx(loop_share(other, circuit.nodes, nodes), abs=1e-9)
    assert found.value != pytest.approx(circuit.faithfulness().value)
    assert found.low < found < found.high
    rest = [node for node in nodes if node not in circuit.nodes]
    assert circuit.completeness(other).value == pytest.approx(1 - loop_share(other, rest, nodes))
    same = circuit.faithfulness(pair)
    assert same.to_dict() == pytest.approx(circuit.faithfulness().to_dict())
    gone = circuit.completeness(pair)
    assert gone.to_dict() == pytest.approx(circuit.completeness().to_dict())


def test_a_circuit_is_not_measured_on_what_it_does_not_fit():
    pair = case(n_layers=1)
    circuit = circuit_of(pair)
    batch = batch_for(pair.model)
    with pytest.raises(PrefixInterpError, match="contrast is of the model"):
        circuit.faithfulness(case(n_layers=1, seed=8))
    longer = pi.Prefix.random(pair.model, SLOTS + 1)
    with pytest.raises(PrefixInterpError, match="a prefix of 3 slots"):
        circuit.completeness(contrast(pair.model, longer, batch))
    with pytest.raises(PrefixInterpError, match="contrast measures kl but the circuit log_prob"):
        circuit.faithfulness(contrast(pair.model, pair.prefix, batch, metrics=("kl",)))


def test_the_interval_is_that_of_a_ratio_of_means():
    """With many examples the bootstrap is the delta method."""
    pair, rng, n = case(), derive_generator(0, "ratio"), 4000
    off = torch.randn(n, generator=rng).double()
    total = 1 + 0.5 * torch.randn(n, generator=rng).double()
    done = 0.6 * total + 0.3 * torch.randn(n, generator=rng).double()
    made = dataclasses.replace(pair, on={"x": off + total}, off={"x": off}, plain={"x": off})
    found = share_interval(made, "x", off + done)
    ratio = float(done.mean() / total.mean())
    sd = float((done - ratio * total).std() / total.mean()) / n**0.5
    assert found.value == pytest.approx(ratio)
    assert found.low == pytest.approx(ratio - 1.96 * sd, abs=0.2 * sd)
    assert found.high == pytest.approx(ratio + 1.96 * sd, abs=0.2 * sd)
    exact = share_interval(made, "x", off + 0.6 * total)
    assert exact.to_dict() == pytest.approx({"value": 0.6, "low": 0.6, "high": 0.6})


def test_an_interval_that_nothing_bounds_survives_the_file(tmp_path):
    pair = case()
    off, total = torch.zeros(3).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    made = dataclasses.replace(pair, on={"x": total}, off={"x": off})
    found = share_interval(made, "x", total / 2)
    assert (found.value, found.low, found.high) == (0.5, -math.inf, math.inf)
    circuit = circuit_of(pair)
    scores = {"faithfulness": found, "completeness": circuit.completeness()}
    circuit = dataclasses.replace(circuit, scores=scores)
    loaded = Circuit.load(circuit.save(tmp_path / "circuit.json"))
    assert vars(loaded.faithfulness()) == vars(found)


@pytest.fixture(scope="module")
def circuit():
    return circuit_of(case(seed=2), threshold=0.7)


def test_a_circuit_comes_back_from_its_file(circuit, tmp_path):
    path = circuit.save(tmp_path / "new" / "circuit.json")
    loaded = Circuit.load(path)
    assert loaded == circuit
    for name in ("faithfulness", "completeness"):
        assert loaded.scores[name].to_dict() == circuit.scores[name].to_dict()
    assert loaded.save(tmp_path / "again.json").read_text() == path.read_text()
    record = json.loads(path.read_text())
    assert record["provenance"]["baseline"] == "masked" and record["provenance"]["n"] == BATCH
    assert record["provenance"]["versions"]["torch"] == torch.__version__
    assert loaded.to_dot() == circuit.to_dot()
    assert loaded.curves().equals(circuit.curves())


BROKEN = {
    "another format": lambda r: r | {"format": 9},
    "unknown key": lambda r: r | {"extra": 1},
    "no edges": lambda r: {k: v for k, v in r.items() if k != "edges"},
    "unknown search": lambda r: r | {"search": "magic"},
    "text for a number": lambda r: r | {"on": "much"},
    "a node unnamed": lambda r: r | {"nodes": [{**r["nodes"][0], "name": "heart 0"}]},
    "a node twice": lambda r: r | {"nodes": [*r["nodes"], r["nodes"][0]]},
    "a node lost": lambda r: r | {"nodes": r["nodes"][1:]},
    "nodes that are numbers": lambda r: r | {"nodes": [1, 2]},
    "a number for a name": lambda r: r | {"nodes": [{**r["nodes"][0], "name": 3}]},
    "a size lost": lambda r: r | {"sizes": r["sizes"][1:]},
    "no draws": lambda r: r | {"sizes": [p | {"random_faithfulness": []} for p in r["sizes"]]},
    "an edge to nowhere": lambda r: r | {
        "edges": [{"source": "mlp 0", "target": "mlp 9", "effect": 0.1}]
    },
    "no interval": lambda r: r | {"faithfulness": 1.0},
    "no model": lambda r: r | {"provenance": {"task": "x"}},
    "provenance a number": lambda r: r | {"provenance": 1},
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files_are_refused_in_one_line(circuit, what, tmp_path, unchecked):
    path = circuit.save(tmp_path / "circuit.json")
    record = json.loads(path.read_text())
    del record["checksum"]
    write_json(path, BROKEN[what](record))
    with pytest.raises(PrefixInterpError, match=re.escape(str(path))) as caught:
        Circuit.load(path)
    assert "\n" not in str(caught.value)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(PrefixInterpError, match="its checksum is not that"):
        Circuit.load(path)
    with pytest.raises(PrefixInterpError, match="does not exist"):
        Circuit.load(tmp_path / "other.json")


QUOTED = r'"(?:[^"\\\n]|\\.)*"'
STATEMENT = re.compile(
    rf"""\s*(?:digraph\ circuit\ \{{|\{{\ rank=same;|\}}
    |(?:label={QUOTED};\ labelloc=t;\ rankdir=BT;)
    |(?P<node>{QUOTED}|node|edge)\ \[(?:\w+=(?:{QUOTED}|[\w.]+)(?:,\ )?)+\];
    |(?P<source>{QUOTED})\ ->\ (?P<target>{QUOTED})\ \[(?:\w+=(?:{QUOTED}|[\w.]+)(?:,\ )?)+\];)""",
    re.VERBOSE,
)


@pytest.mark.parametrize("task", ["sort_descending", 'so-called "sort" \\', "two\nlines"])
def test_dot_holds_every_node_and_edge(circuit, task):
    named = dataclasses.replace(circuit, provenance={**circuit.provenance, "task": task})
    text = named.to_dot()
    matches = [STATEMENT.fullmatch(line) for line in text.splitlines()]
    assert all(matches), [x for x, m in zip(text.splitlines(), matches, strict=True) if not m]
    assert text.count("{") == text.count("}")
    nodes = {m["node"].strip('"') for m in matches if m["node"]} - {"node", "edge"}
    assert nodes == {n.name for n in circuit.nodes} | {LOGITS}
    edges = [(m["source"].strip('"'), m["target"].strip('"')) for m in matches if m["source"]]
    assert edges == [(e.source, e.target) for e in circuit.edges]
    assert text.count("style=dashed") == sum(e.effect < 0 for e in circuit.edges)


def test_bad_arguments_are_refused(unchecked):
    model = raw_model()
    prefix, batch = pi.Prefix.random(model, SLOTS), batch_for(model)
    find = lambda **k: find_circuit(model, prefix, batch, **(dict(progress=False) | k))  # noqa: E731
    for settings, message in {
        "threshold=0": (dict(threshold=0.0), "threshold=0.0"),
        "threshold above": (dict(threshold=1.1), "threshold=1.1"),
        "metric": (dict(metric="log_probs"), "metric='log_probs'"),
        "search": (dict(search="full"), "search='full'"),
        "kind": (dict(kinds=("heads",)), "kinds='heads'"),
        "no heads, no slots": (dict(kinds=("mlp",)), "leave the prefix in"),
        "draws": (dict(n_random=0), "n_random=0"),
    }.values():
        with pytest.raises(PrefixInterpError, match=re.escape(message)):
            find(**settings)
    wide = pi.Prefix.random(model, 9)
    with pytest.raises(PrefixInterpError, match="search='exhaustive' would run all 2\\*\\*24"):
        find_circuit(model, wide, batch, search="exhaustive", progress=False)
    one = batch.part(slice(1))
    with pytest.raises(PrefixInterpError, match="n=1 is too few"):
        find_circuit(model, prefix, one, progress=False)
    pair = contrast(model, prefix, batch)
    with pytest.raises(PrefixInterpError, match="keep has 3 columns"):
        circuit_metrics(pair, torch.ones(2, 3).bool())
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
    with pytest.raises(PrefixInterpError, match="there is no effect to share out"):
        find()
