"""One figure of every kind for a model of any number of heads, and what text is where on it."""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.text import Text

import prefix_interp as pi
from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_parts import LOGITS, Edge, SizePoint
from prefix_interp.attribution.circuit_runs import Node
from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.estimates import Estimate
from prefix_interp.theory.decompose import Decomposition
from prefix_interp.theory.depth import TERMS, AttentionDrift, LogitExpansion
from prefix_interp.theory.interaction import Interaction
from prefix_interp.theory.reach_construction import TablePrefix
from prefix_interp.theory.reach_distance import reach_distance
from prefix_interp.theory.subspace import BiasSubspace
from prefix_interp.tuning.evaluate import Evaluation
from prefix_interp.views.attention import AttentionView, attention_figure, query_figure
from prefix_interp.views.circuit_curves import circuit_curves_figure
from prefix_interp.views.circuit_graph import circuit_figure
from prefix_interp.views.decomposition import parts_figure, spectrum_figure
from prefix_interp.views.depth import drift_figure, expansion_figure
from prefix_interp.views.effects import effects_figure
from prefix_interp.views.elicitation import elicitation_figure, patch_figure
from prefix_interp.views.fits import history_figure, scores_figure, search_figure
from prefix_interp.views.heads import LayerOutputs, heads_figure, outputs_figure
from prefix_interp.views.interaction import interaction_figure
from prefix_interp.views.masses import mass_figure
from prefix_interp.views.reachability import construction_figure, distance_figure, floors_figure

MODELS = {4: (1, 4), 16: (1, 16), 270: (30, 9)}  # layers and heads, by their product
TASKS = ("sort ascending", "sort descending", "add one", "add two")
N_POS = 19


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def elicited(heads, seed=0, n_found=3):
    """The table of an elicitation in which some heads are beyond random prefixes."""
    layers, per_layer = MODELS[heads]
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, 0.03, heads)
    effect[rng.choice(heads, n_found, replace=False)] = [0.9, 0.4, -0.2][:n_found]
    gate, bias = 0.3 * effect + rng.normal(0, 0.02, heads), 0.5 * effect
    spread = rng.uniform(0.02, 0.2, heads)
    frame = pd.DataFrame(
        {
            "layer": np.repeat(range(layers), per_layer), "head": list(range(per_layer)) * layers,
            "effect": effect, "low": effect - 0.03, "high": effect + 0.03, "gate": gate,
            "bias": bias, "propagated": effect - gate - bias,
            "excess_low": effect - spread, "excess_high": effect + spread,
            "beyond_random": np.abs(effect) > spread,
        }
    )  # fmt: skip
    return frame.sort_values("effect", key=abs, ascending=False, ignore_index=True)


def patches(heads, *more, axes=("layer", "head", "pos")):
    """Patches with effects of all heads, at some positions."""
    values = {"log_prob": _random(*MODELS[heads], *more, 3)}
    ends = {"log_prob": torch.full((3,), 4.0)}, {"log_prob": torch.zeros(3)}
    return PatchGrid("denoise", "z of a head", axes, values, *ends)


def attention(heads, name="residual, 1 slot", n_slots=1):
    """Attention of one sequence."""
    weights = torch.softmax(2 * _random(*MODELS[heads], N_POS, n_slots + N_POS), -1)
    digits = _random(N_POS).mul(3).abs().long().tolist()
    content = weights[..., n_slots:]
    tokens = [str(x) for x in digits]
    return AttentionView(name, tokens, weights[..., :n_slots], content / content.sum(-1)[..., None])


def circuit(heads, n_inside=None, n_slots=2):
    """A circuit with edges from slots and between heads, most of them weak."""
    layers, per_layer = MODELS[heads]
    slots = [Node("slot", i, j) for i in range(layers) for j in range(n_slots)]
    every = slots + [Node("head", i, j) for i in range(layers) for j in range(per_layer)]
    every += [Node("mlp", i) for i in range(layers)]
    rng = np.random.default_rng(0)
    n_inside = n_inside or min(26, len(every) // 2)
    inside = [every[i] for i in rng.choice(len(every), n_inside, replace=False)]
    edges = []
    for a in inside:
        if a.kind != "slot":
            edges.append(Edge(a.name, LOGITS, float(rng.normal(0, 0.3))))
        for b in inside:
            same = a.layer == b.layer
            reads = (
                (same and b.kind == "head") if a.kind == "slot"
                else b.kind != "slot" and (b.layer > a.layer or (same and (a.kind, b.kind) == (
                    "head", "mlp")))
            )  # fmt: skip
            if reads:
                edges.append(Edge(a.name, b.name, float(rng.normal(0, 0.02))))
    sizes = tuple(
        SizePoint(tuple(every[:i]), *[i / len(every)] * 2, (0.1, 0.2, 0.0), (0.3, 0.2, 0.1))
        for i in range(len(every) + 1)
    )
    score = Estimate(0.93, 0.9, 0.96)
    return Circuit(
        tuple(inside), tuple(every), 0.9, "log_prob", "backward", -0.1, -2.0,
        {"faithfulness": score, "completeness": score},
        tuple(np.linspace(1, 0.01, n_inside).tolist()),
        tuple(rng.normal(0, 0.1, len(every)).tolist()), sizes, tuple(edges),
        {"task": "sort_descending", "model_id": "x"},
    )  # fmt: skip


def _decomposition(seed=0):
    shape = (1, 2, 4, N_POS)
    pattern = torch.softmax(_random(*shape, N_POS), -1)
    wide = [0.3 * _random(*shape, 4, seed=seed + i) for i in range(3)]
    gate = _random(*shape, seed=seed).sigmoid()
    return Decomposition(gate, *wide, pattern, pattern, 0 * pattern, 0 * wide[0])


def _space(bound):
    values = torch.logspace(0, -17, 32, dtype=torch.float64)
    return BiasSubspace("head", 0, 1, bound, values, torch.eye(32), 100)


def expansion(layer=1):
    """The terms of made-up scores of four heads, with one term of the rest absent."""
    shape = (2, 4, N_POS, N_POS)
    terms = torch.stack([_random(*shape, seed=i) for i in range(len(TERMS))])
    terms[-1] = 0
    seen = torch.ones(shape, dtype=torch.bool).tril()
    scores = (terms.sum(0)).where(seen, -torch.inf)
    return LogitExpansion(layer, terms, scores, scores, torch.ones(2, N_POS, dtype=torch.bool))


def drift(n_layers, seed=0):
    """Made-up drift of heads that starts at 0."""
    shape = (n_layers, 2, 4, N_POS)
    distance = (
        _random(*shape, seed=seed).sigmoid() * (torch.arange(n_layers) > 0)[:, None, None, None]
    )
    return AttentionDrift(distance, distance > 0.6, distance >= 0, "masked")


def pairs_of_inputs(n, seed=0):
    """Made-up interactions of n positions."""
    values = _random(4, 10, n, n, seed=seed)
    values = (values + values.mT) * (1 - torch.eye(n))
    tokens = torch.zeros(4, N_POS, dtype=torch.long)
    given = torch.ones(4, 10, dtype=torch.bool)
    alone = _random(4, 10, n, seed=seed)
    return Interaction(values, alone, tuple(range(n)), tokens, tokens[:, :n], given)


def figures(heads):
    """Functions that draw, by name; each takes `figsize` and `width`."""
    view = attention(heads)
    views = [attention(heads, "no prefix", 0), view, attention(heads, "kv, 10 slots", 10)]
    inputs = [views, views, views]
    tasks = TASKS if heads < 270 else TASKS[:2]
    frames = {name: elicited(heads, i) for i, name in enumerate(tasks)}
    grid = patches(heads, N_POS)
    made = circuit(heads)
    return {
        "elicitation": lambda **k: elicitation_figure(frames, **k),
        "elicitation of one": lambda **k: elicitation_figure({"denoise": frames[TASKS[0]]}, **k),
        "patches": lambda **k: patch_figure(dict.fromkeys(tasks, grid), **k),
        "effects by position": lambda **k: effects_figure(grid, **k),
        "effects": lambda **k: effects_figure(patches(heads, axes=("layer", "head")), **k),
        "attention": lambda **k: attention_figure(view, **k),
        "attention of many slots": lambda **k: attention_figure(attention(heads, n_slots=80), **k),
        "query": lambda **k: query_figure(inputs, 9, **k),
        "heads": lambda **k: heads_figure(views, **k),
        "curves": lambda **k: circuit_curves_figure(made, **k),
        "circuit": lambda **k: circuit_figure(made, **k),
    }


def _built():
    """A prefix as built from a table, of 60 slots."""
    error = torch.logspace(-9, -3, 60)
    prefix = pi.Prefix("kv", keys=torch.zeros(1, 60, 1, 4), values=torch.zeros(1, 60, 1, 4))
    return TablePrefix(prefix, torch.zeros(60, 2).long(), 0.0, error, error * 3, error)


def other_figures():
    """Functions that draw what does not depend on the number of heads."""
    lines = {"residual, 1 slot": _decomposition(), "kv, 10 slots": _decomposition(3)}
    spaces = {f"{name}, residual": _space(i + 1) for i, name in enumerate(TASKS)}
    plain = dict.fromkeys(spaces, torch.logspace(0, -1, 32))
    share = Estimate(0.93, 0.9, 0.96)
    scored = Evaluation("sort_descending", 3200, share, share, Estimate(0.021, 0.02, 0.022))
    steps = list(range(0, 2000, 100)) * 6
    runs = [f"lr {10.0**-i:g}, seed {i}" for i in range(6) for _ in range(20)]
    history = pd.DataFrame({"step": steps, "run": runs, "loss": np.linspace(2, 0.01, 120)})
    losses, reached = _random(40).abs(), _random(40) > 0
    on = {name: _random(20, 8, seed=i) for i, name in enumerate(TASKS)}
    drifts = {f"{name}, tuned": drift(40, i) for i, name in enumerate(TASKS)}
    pairs = {"no prefix": pairs_of_inputs(10), "kv, 10 slots": pairs_of_inputs(16)}
    floors = pd.DataFrame({"without": np.linspace(0, 40, 30), "floor": np.linspace(0, 20, 30)})
    outputs = LayerOutputs(0, _random(20, 8, seed=9), on, (3, 5))
    return {
        "parts": lambda **k: parts_figure(lines, n_out=10, **k),
        "spectra": lambda **k: spectrum_figure(spaces, plain, **k),
        "scores": lambda **k: scores_figure(scored, **k),
        "history": lambda **k: history_figure(history, **k),
        "search": lambda **k: search_figure(losses, reached, **k),
        "masses": lambda **k: mass_figure(torch.rand(12, 9, 3) / 3, **k),
        "outputs": lambda **k: outputs_figure(outputs, **k),
        "terms": lambda **k: expansion_figure(expansion(), **k),
        "drift": lambda **k: drift_figure(drifts, **k),
        "pairs": lambda **k: interaction_figure(pairs, **k),
        "construction": lambda **k: construction_figure(_built(), **k),
        "floors": lambda **k: floors_figure(floors, **k),
        "distance": lambda **k: distance_figure(
            reach_distance(_random(20, 6), _random(20, 6, seed=1), n_slots=(1, 2, 4)), **k
        ),
    }


@dataclass(frozen=True)
class Drawn:
    """The texts of a drawn figure, with their boxes in points from the lower left corner."""

    texts: list
    width: float
    height: float

    def outside(self, slack=0.6):
        """Texts that the edge of the figure cuts."""
        return [
            text for text, (x0, y0, x1, y1) in self.texts
            if min(x0, y0) < -slack or x1 > self.width + slack or y1 > self.height + slack
        ]  # fmt: skip

    def overlaps(self, slack=0.6):
        """Pairs of texts of which one covers a part of the other."""
        return [
            (a, b)
            for i, (a, p) in enumerate(self.texts)
            for b, q in self.texts[:i]
            if min(p[2], q[2]) - max(p[0], q[0]) > slack
            and min(p[3], q[3]) - max(p[1], q[1]) > slack
        ]


def drawn(figure, ending, monkeypatch):
    """Return what a file of a figure shows, by what its renderer is asked to write."""
    found, draw, dpi = [], Text.draw, 72 if ending == "pdf" else 150

    def noted(self, renderer):
        if self.get_visible() and self.get_text().strip():
            box = self.get_window_extent(renderer)
            found.append((self.get_text(), tuple(72 / dpi * x for x in box.extents)))
        draw(self, renderer)

    with monkeypatch.context() as patched:
        patched.setattr(Text, "draw", noted)
        figure.savefig(io.BytesIO(), format=ending, dpi=dpi)
    # A layout draws more than once; the last drawing counts.
    last = {(text, tuple(round(x) for x in box)): (text, box) for text, box in found}
    width, height = (72 * x for x in figure.get_size_inches())
    return Drawn(list(last.values()), width, height)
