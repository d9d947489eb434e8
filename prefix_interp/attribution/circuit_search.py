"""Finding the smallest circuit that keeps a prefix's effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_edges import circuit_links, cut_links
from prefix_interp.attribution.circuit_parts import LOGITS, Edge, SizePoint
from prefix_interp.attribution.circuit_record import SEARCHES, Search
from prefix_interp.attribution.circuit_runs import (
    KINDS,
    Node,
    circuit_metrics,
    circuit_nodes,
    share_interval,
    shares,
)
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.metrics import Metric, choose_metric
from prefix_interp.attribution.pair import Contrast
from prefix_interp.errors import PrefixInterpError, check_choice, check_number, check_positive
from prefix_interp.estimates import Estimate
from prefix_interp.models.host import Model
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.results import package_versions
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch, Task

Score = Callable[[Bool[Tensor, "stack node"]], Float[Tensor, " stack"]]
# All subsets of 12 nodes are 4096 runs.
MAX_EXHAUSTIVE = 12
# Smaller differences in faithfulness are ties: rounding must not choose between circuits.
_DECIMALS = 6


def find_circuit(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    threshold: float = 0.95,
    metric: str | Mapping[str, Metric] = "log_prob",
    n: int = 64,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    n_random: int = 20,
    search: Literal["auto"] | Search | str = "auto",
    progress: bool = True,
) -> Circuit:
    """Return the smallest set of heads, MLPs and slots that keeps the prefix's effect.

    With up to 12 nodes all sets are tried. With more, nodes are dropped one at a time (see
    `best_by_size`), which gives an upper bound on the smallest size. Both searches use the examples
    of `seed`: measure the circuit on others, ``circuit.faithfulness(contrast(..., seed=1))``.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made.
        threshold: faithfulness to reach, above 0 and at most 1.
        metric: a name in `METRICS`, or one of your own by name; a circuit must keep its mean.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task, and the random circuits.
        kinds: of ``"head"``, ``"mlp"``, ``"slot"``; parts of other kinds always stay in.
        n_random: random circuits of each size to compare with.
        search: ``"exhaustive"``, ``"backward"``, or ``"auto"``: exhaustive if feasible.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, a bad threshold, metric, kind or search, too many nodes
            to try all sets, or a prefix that has no effect.

    Example:
        >>> circuit = pi.find_circuit(model, prefix, task, n=8, progress=False)
        >>> circuit.faithfulness() > 0.9
        True
    """
    (name,) = chosen = choose_metric(metric)
    check_choice("search", search, ("auto", *SEARCHES))
    check_number("threshold", threshold, 0.0, 1.0, low_open=True)
    check_positive("n_random", n_random)
    prefix = as_prefix(prefix)
    nodes = circuit_nodes(model, prefix, kinds)
    if search == "auto":
        search = "exhaustive" if len(nodes) <= MAX_EXHAUSTIVE else "backward"
    if search == "exhaustive" and len(nodes) > MAX_EXHAUSTIVE:
        raise PrefixInterpError(
            f"search='exhaustive' would run all 2**{len(nodes)} circuits; choose 'backward', or "
            f"fewer kinds, for at most {MAX_EXHAUSTIVE} nodes"
        )
    pair = contrast(model, prefix, task, n=n, seed=seed, metrics=chosen)
    n_sizes = len(nodes) + 1
    total = n_runs(len(nodes), search) + n_sizes * (2 + 2 * n_random) + len(nodes)
    with tqdm(total=total, desc=f"circuit, {search}", disable=not progress) as bar:
        score = _memory(pair, name, nodes, bar)
        best = best_by_size(score, len(nodes), search)
        sizes = _sizes(score, nodes, best, n_random, seed)
        enough = [k for k, point in enumerate(sizes) if point.faithfulness >= threshold]
        # All nodes together are the prefixed run itself: rounding must not put them below 1.
        keep = best[enough[0]] if enough else best[-1]
        alone = ~torch.eye(len(nodes), dtype=torch.bool)
        effects = 1 - score(alone)
        bar.total += int(keep.sum()) + 2
        kept, rest = circuit_metrics(pair, torch.stack([keep, ~keep]), nodes, bar=bar)[name]
        faithful, left = (share_interval(pair, name, x) for x in (kept, rest))
        lost = faithful.value - score(keep & alone[keep])
        inside = [node for node, is_in in zip(nodes, keep.tolist(), strict=True) if is_in]
        ranked = sorted(zip(lost.tolist(), inside, strict=True), key=lambda x: -x[0])
        edges = _edges(pair, name, nodes, inside, faithful.value, bar)
    provenance = {
        "task": pair.task,
        "model_id": model_id(model),
        "parameterization": prefix.parameterization,
        "n_slots": prefix.n_slots,
        "baseline": "masked",
        "n": pair.n_batch,
        "seed": seed,
        "n_random": n_random,
        "versions": package_versions(),
    }
    return Circuit(
        nodes=tuple(node for _, node in ranked),
        all_nodes=nodes,
        threshold=float(threshold),
        metric=name,
        search=search,
        on=float(pair.on[name].double().mean()),
        off=float(pair.off[name].double().mean()),
        plain=float(pair.plain[name].double().mean()),
        scores={
            "faithfulness": faithful,
            "completeness": Estimate(1 - left.value, 1 - left.high, 1 - left.low),
        },
        minimality=tuple(x for x, _ in ranked),
        effects=tuple(effects.tolist()),
        sizes=sizes,
        edges=edges,
        provenance=provenance,
    )


def _memory(pair: Contrast, metric: str, nodes: Sequence[Node], bar: tqdm) -> Score:
    """Return faithfulness as a function that runs each circuit once."""
    known: dict[tuple[bool, ...], float] = {}

    def score(keep: Bool[Tensor, "stack node"]) -> Float[Tensor, " stack"]:
        rows = [tuple(row) for row in keep.tolist()]
        new = [row for row in dict.fromkeys(rows) if row not in known]
        bar.update(len(rows) - len(new))
        if new:
            values = circuit_metrics(pair, torch.tensor(new), nodes, bar=bar)[metric]
            known.update(zip(new, shares(pair, metric, values).tolist(), strict=True))
        return torch.tensor([known[row] for row in rows], dtype=torch.float64)

    return score


def _sizes(
    score: Score,
    nodes: Sequence[Node],
    best: Bool[Tensor, "size node"],
    n_random: int,
    seed: int,
) -> tuple[SizePoint, ...]:
    points = []
    rows = [score(torch.cat([best, ~best])).unflatten(0, (2, -1))]
    drawn = torch.stack(
        [
            random_circuits(like, nodes, n_random, derive_generator(seed, "random circuits", k))
            for k, like in enumerate(best)
        ]
    )
    both = torch.stack([drawn, ~drawn])  # what random circuits keep, and what they leave
    rows.append(score(both.flatten(0, 2)).unflatten(0, tuple(both.shape[:3])))
    for k, like in enumerate(best.tolist()):
        points.append(
            SizePoint(
                tuple(node for node, is_in in zip(nodes, like, strict=True) if is_in),
                float(rows[0][0, k]),
                1 - float(rows[0][1, k]),
                tuple(rows[1][0, k].tolist()),
                tuple((1 - rows[1][1, k]).tolist()),
            )
        )
    return tuple(points)


def _edges(
    pair: Contrast,
    metric: str,
    nodes: Sequence[Node],
    inside: Sequence[Node],
    whole: float,
    bar: tqdm,
) -> tuple[Edge, ...]:
    links = circuit_links(pair, inside)
    if not links:
        return ()
    bar.total += len(links)
    left = shares(pair, metric, cut_links(pair, nodes, inside, links, bar)[metric])
    return tuple(
        Edge(source.name, LOGITS if target is None else target.name, whole - x)
        for (source, target), x in zip(links, left.tolist(), strict=True)
    )


def best_by_size(score: Score, n_nodes: int, search: Search | str) -> Bool[Tensor, "size node"]:
    """Return the best set of each size from 0 to `n_nodes` that the search finds.

    ``"exhaustive"`` tries all sets, so its sets are the best there are. ``"backward"`` starts from
    all nodes and, at each step, drops the node whose removal leaves faithfulness highest. Its sets
    are nested, and a better set of the same size may exist.

    Args:
        score: faithfulness of each set of a stack.
        n_nodes: how many nodes there are.
        search: ``"exhaustive"`` (2^n runs) or ``"backward"`` (n (n + 1) / 2 runs).
    """
    if search == "exhaustive":
        bits = torch.arange(2**n_nodes)[:, None] >> torch.arange(n_nodes)
        masks = (bits & 1).bool()
        values, sizes = score(masks), masks.sum(-1)
        return torch.stack(
            [masks[sizes == k][_first_best(values[sizes == k])] for k in range(n_nodes + 1)]
        )
    current = torch.ones(n_nodes, dtype=torch.bool)
    path = [current]
    for _ in range(n_nodes):
        candidates = current & ~torch.eye(n_nodes, dtype=torch.bool)[current]
        current = candidates[_first_best(score(candidates))]
        path.append(current)
    return torch.stack(path[::-1])


def _first_best(values: Float[Tensor, " stack"]) -> int:
    rounded = values.round(decimals=_DECIMALS)
    return int((rounded == rounded.max()).nonzero()[0])


def n_runs(n_nodes: int, search: Search | str) -> int:
    """Return how many circuits a search runs."""
    return 2**n_nodes if search == "exhaustive" else n_nodes * (n_nodes + 1) // 2


def random_circuits(
    like: Bool[Tensor, " node"], nodes: Sequence[Node], n: int, rng: torch.Generator
) -> Bool[Tensor, "draw node"]:
    """Return random circuits with as many nodes of each kind as `like`.

    A circuit without heads or without slots does nothing, and would be too easy to beat.

    Args:
        like: the circuit to compare with.
        nodes: what the entries of `like` stand for.
        n: how many.
        rng: source of the draws; a circuit may be drawn more than once.
    """
    drawn = torch.zeros(n, len(nodes), dtype=torch.bool)
    for kind in KINDS:
        own = torch.tensor([i for i, node in enumerate(nodes) if node.kind == kind]).long()
        ranks = torch.rand(n, len(own), generator=rng).argsort(dim=-1).argsort(dim=-1)
        drawn[:, own] = ranks < int(like[own].sum())
    return drawn
