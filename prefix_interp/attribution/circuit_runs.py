"""Running parts of a prefixed model alone: nodes, and many circuits stacked in one run.

A circuit is a set of nodes. A node outside it is held at its value without the prefix (masked
baseline). All nodes together are therefore the prefixed run, and no nodes the run without prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.metrics import recovered
from prefix_interp.attribution.pair import Contrast, Values
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.estimates import Estimate
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator

Kind = Literal["head", "mlp", "slot"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Node:
    """A part of the model that a circuit contains or leaves out.

    Attributes:
        kind: ``"head"`` (if out, its output z is the one without prefix), ``"mlp"`` (if out, its
            output is the one without prefix) or ``"slot"`` (if out, no head attends to it).
        layer: 0-based.
        index: which head, or which slot; None for an MLP.
    """

    kind: Kind | str
    layer: int
    index: int | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        if (self.index is None) != (self.kind == "mlp"):
            raise PrefixInterpError(
                f"index={self.index!r} does not go with kind={self.kind!r}; heads and slots need "
                "a number, an MLP does not take one"
            )

    @property
    def name(self) -> str:
        """Return e.g. ``"head 0.3"`` (layer 0, head 3), ``"mlp 0"`` or ``"slot 0.0"``."""
        return f"{self.kind} {self.layer}" + ("" if self.index is None else f".{self.index}")

    @classmethod
    def parse(cls, name: str) -> Node:
        """Return the node of that name.

        Raises:
            PrefixInterpError: the text does not name a node.
        """
        kind, _, where = name.partition(" ")
        numbers = where.split(".")
        if kind in KINDS and len(numbers) == 2 - (kind == "mlp"):
            if all(x.isascii() and x.isdigit() for x in numbers):
                return cls(kind, *map(int, numbers))
        raise PrefixInterpError(
            f"name={name!r} is not a node; write e.g. 'head 0.3', 'mlp 0' or 'slot 0.1'"
        )


def circuit_nodes(model: Model, prefix: Prefix, kinds: Sequence[str] = KINDS) -> tuple[Node, ...]:
    """Return every node of a model with a prefix, layer by layer: heads, the MLP, slots.

    Args:
        model: defines layers, heads and MLPs (none in an attention-only model).
        prefix: defines the slots.
        kinds: what may be left out of a circuit; other parts always stay in and see the prefix.
            With neither heads nor slots the prefix could not be removed.

    Raises:
        PrefixInterpError: an unknown kind, or neither heads nor slots.
    """
    for kind in kinds:
        check_choice("kinds", kind, KINDS)
    if "head" not in kinds and "slot" not in kinds:
        raise PrefixInterpError(f"kinds={tuple(kinds)!r} leave the prefix in; add 'head' or 'slot'")
    host = host_of(model)
    nodes: list[Node] = []
    for layer in range(host.n_layers):
        own = [Node("head", layer, i) for i in range(host.n_heads)]
        own += [] if host.attn_only else [Node("mlp", layer)]
        own += [Node("slot", layer, i) for i in range(prefix.n_slots)]
        nodes += [node for node in own if node.kind in kinds]
    return tuple(nodes)


def circuit_metrics(
    pair: Contrast,
    keep: Bool[Tensor, "stack node"],
    nodes: Sequence[Node] | None = None,
    *,
    gates: Float[Tensor, "stack layer head slot"] | None = None,
    extra_hooks: Callable[[slice], Sequence[Hook]] | None = None,
    bar: tqdm | None = None,
) -> Values:
    """Return the metrics of many circuits, stacked on the batch axis.

    Args:
        pair: from `contrast`.
        keep: which nodes each circuit contains.
        nodes: what the columns of `keep` stand for; None for all `circuit_nodes`. Other parts of
            the model stay in.
        gates: factors on the gates of the slots, to close single edges from a slot to a head.
        extra_hooks: more interventions, which act after those of the circuit.
        bar: advanced by the number of circuits done.

    Raises:
        PrefixInterpError: `keep` and `nodes` differ in the number of nodes.
    """
    if nodes is None:
        nodes = circuit_nodes(pair.model, pair.prefix)
    if keep.shape[1] != len(nodes):
        raise PrefixInterpError(
            f"keep has {keep.shape[1]} columns but there are {len(nodes)} nodes; give one per node"
        )
    host, n_slots = host_of(pair.model), pair.n_slots
    keep = keep.to(host.device)
    heads = keep.new_ones(len(keep), host.n_layers, host.n_heads)
    mlps = keep.new_ones(len(keep), host.n_layers)
    slots = keep.new_ones(len(keep), host.n_layers, n_slots)
    for column, node in zip(keep.T, nodes, strict=True):
        if node.index is None:
            mlps[:, node.layer] = column
        else:
            (heads if node.kind == "head" else slots)[:, node.layer, node.index] = column
    open_ = repeat(slots, "stack layer slot -> stack layer head slot", head=host.n_heads)
    open_ = host.cast(open_)

    def make(part: slice) -> list[Hook]:
        more = [] if extra_hooks is None else extra_hooks(part)
        return [*_hold_hooks(pair, heads[part], mlps[part]), *more]

    gates = open_ if gates is None else open_ * gates
    return pair.run("on", len(keep), make, layer=0, gates=gates, bar=bar)


def _hold_hooks(
    pair: Contrast, heads: Bool[Tensor, "stack layer head"], mlps: Bool[Tensor, "stack layer"]
) -> list[Hook]:
    """Return hooks that hold the nodes outside each circuit at their values without the prefix."""

    def hold(site: Site, layer: int, inside: Bool[Tensor, "stack *rest"]) -> Hook:
        off = pair.activation("off", site, layer)

        def write(x: Tensor, hook: object) -> Tensor:
            x = rearrange(x, "(stack batch) ... -> stack batch ...", stack=len(inside))
            # In the last layer the MLP runs on the rows of the outputs alone.
            held = torch.where(inside, x, off[:, -x.shape[2] :])
            return rearrange(held, "stack batch ... -> (stack batch) ...")

        return site.at(layer), write

    hooks: list[Hook] = []
    for layer in range(host_of(pair.model).n_layers):
        if not bool(heads[:, layer].all()):
            hooks.append(hold(Site.Z, layer, heads[:, layer, None, None, :, None]))
        if not bool(mlps[:, layer].all()):
            hooks.append(hold(Site.MLP_OUT, layer, mlps[:, layer, None, None, None]))
    return hooks


def shares(
    pair: Contrast, metric: str, values: Float[Tensor, "stack batch"]
) -> Float[Tensor, " stack"]:
    """Return each run's share of the prefix's effect: 0 without the prefix, 1 with it.

    Args:
        pair: contains the metric with the prefix and without.
        metric: its name.
        values: the metric of the runs, one value per example.

    Raises:
        PrefixInterpError: the prefix does not change the mean of the metric.
    """
    off, on = (x[metric].double().cpu().mean() for x in (pair.off, pair.on))
    noise = 1e3 * torch.finfo(host_of(pair.model).dtype).eps * max(1.0, abs(float(on)))
    if not abs(float(on - off)) > noise:
        raise PrefixInterpError(
            f"metric={metric!r} has the mean {float(on):.4g} with the prefix and without: there "
            "is no effect to share out; choose another metric, task or prefix"
        )
    return recovered(values.double().cpu().mean(dim=-1), off, on)


def share_interval(
    pair: Contrast, metric: str, values: Float[Tensor, " batch"], resamples: int = 2000
) -> Estimate:
    """Return the share of one run with its 95% bootstrap interval over examples.

    A ratio of means: numerator and denominator are resampled with the same draws. If the prefix has
    no effect on a resample, the interval is unbounded.

    Args:
        pair: as for `shares`.
        metric: as for `shares`.
        values: metric of the run, one value per example, at least 2.
        resamples: bootstrap samples.

    Raises:
        PrefixInterpError: as in `shares`, or fewer than 2 examples.
    """
    n = len(values)
    if n < 2:
        raise PrefixInterpError(f"n={n} is too few for an interval; give at least 2")
    drawn = torch.randint(n, (resamples, n), generator=derive_generator(0, "bootstrap", n))
    value, on, off = (x.double().cpu() for x in (values, pair.on[metric], pair.off[metric]))
    ratios = (value - off)[drawn].mean(dim=-1) / (on - off)[drawn].mean(dim=-1)
    low, high = -torch.inf, torch.inf
    if bool(torch.isfinite(ratios).all()):
        low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(float(shares(pair, metric, values[None])[0]), low, high)
