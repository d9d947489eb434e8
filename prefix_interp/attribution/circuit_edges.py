"""What each edge of a circuit carries: one edge is cut at a time, the rest stays as it is.

An edge from a slot is cut by closing its gate at one head. An edge between nodes is cut by path
patching (Wang et al. 2023, Goldowsky-Dill et al. 2023): only its target reads a residual stream in
which the source's contribution has its value without the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from tqdm.auto import tqdm

from prefix_interp.attribution.circuit_runs import Node, circuit_metrics
from prefix_interp.attribution.pair import Contrast
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook


class Link(NamedTuple):
    """An edge, given by its ends; a target of None means the logits."""

    source: Node
    target: Node | None


def circuit_links(pair: Contrast, inside: Sequence[Node]) -> list[Link]:
    """Return every direct edge between the nodes of a circuit, and from them to the logits.

    Edges run from slots to the heads of their layer, and from heads and MLPs to whatever reads
    the residual stream after them. If a norm follows the attention's output (as in Gemma 2), what a
    single head writes is not defined, and only edges from slots are returned.

    Args:
        pair: from `contrast`; its model defines the architecture.
        inside: the circuit.
    """
    return [
        Link(source, target)
        for source in inside
        for target in [*inside, None]
        if _reads(pair, source, target)
    ]


def _reads(pair: Contrast, source: Node, target: Node | None) -> bool:
    host = host_of(pair.model)
    if source.kind == "slot":
        return target is not None and (target.kind, target.layer) == ("head", source.layer)
    if host.norms_attention_out:
        return False
    if target is None or target.kind == "slot":
        return target is None
    if target.layer == source.layer:
        return (source.kind, target.kind) == ("head", "mlp") and not host.parallel
    return target.layer > source.layer


def cut_links(
    pair: Contrast,
    nodes: Sequence[Node],
    inside: Sequence[Node],
    links: Sequence[Link],
    bar: tqdm | None = None,
) -> dict[str, Float[Tensor, "stack batch"]]:
    """Return the metrics of the circuit with each link cut, one at a time.

    Args:
        pair: from `contrast`.
        nodes: all nodes of the search.
        inside: the circuit.
        links: from `circuit_links`.
        bar: advanced by the number of links done.
    """
    host = host_of(pair.model)
    keep = torch.tensor([[node in set(inside) for node in nodes]])
    gates = torch.ones(len(links), host.n_layers, host.n_heads, pair.n_slots)
    gates = host.cast(gates)
    for i, (source, target) in enumerate(links):
        if source.kind == "slot" and target is not None:
            gates[i, source.layer, target.index, source.index] = 0.0
    seen = _record(pair, keep, nodes)
    return circuit_metrics(
        pair, keep.expand(len(links), -1), nodes, gates=gates,
        extra_hooks=lambda part: _cut_hooks(pair, seen, links[part]), bar=bar,
    )  # fmt: skip


def _record(pair: Contrast, keep: Tensor, nodes: Sequence[Node]) -> dict[str, Tensor]:
    """Return what heads and MLPs put out in the run of one circuit, by hook name."""
    seen: dict[str, Tensor] = {}
    host = host_of(pair.model)
    sites = [Site.Z] if host.attn_only else [Site.Z, Site.MLP_OUT]
    names = [site.at(i) for i in range(host.n_layers) for site in sites]

    def reader(name: str) -> Hook:
        def read(x: Tensor, hook: object) -> None:
            seen[name] = x

        return name, read

    circuit_metrics(pair, keep, nodes, extra_hooks=lambda _: [reader(name) for name in names])
    return seen


def _cut_hooks(pair: Contrast, seen: dict[str, Tensor], links: Sequence[Link]) -> list[Hook]:
    """Return hooks that make the target of each link read a changed residual stream."""
    host = host_of(pair.model)
    last = host.n_layers - 1
    change = torch.stack([_change(pair, seen, source) for source, _ in links])

    def is_target(kind: str, layer: int) -> Tensor:
        hit = [s.kind != "slot" and t is not None and (t.kind, t.layer) == (kind, layer)
               for s, t in links]  # fmt: skip
        return change.new_tensor(hit)

    logits = change.new_tensor([t is None for _, t in links])
    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        heads, mlp = is_target("head", layer), is_target("mlp", layer)
        # The change is added where the target reads and removed again after it.
        if not host.has_resid_mid:
            added = {Site.RESID_PRE: heads + mlp, Site.RESID_POST: -heads - mlp}
        else:  # in a language model a write in between reaches the MLP and not the stream
            left = mlp if host.is_live(Site.RESID_MID) else heads
            added = {Site.RESID_PRE: heads, Site.RESID_MID: mlp - heads, Site.RESID_POST: -left}
        if layer == last:
            added[Site.RESID_POST] = added[Site.RESID_POST] + logits
        for site, weight in added.items():
            if bool(weight.any()):
                hooks.append((site.at(layer), _adder(weight, change)))
        # Other heads read the changed stream along with the target: their values are put back.
        together = heads + mlp if host.parallel else heads
        if bool(together.any()):
            back = repeat(together.bool(), "stack -> stack head", head=host.n_heads).clone()
            for i, (_, target) in enumerate(links):
                if heads[i] and target is not None:
                    back[i, target.index] = False
            name = Site.Z.at(layer)
            hooks.append((name, _restorer(back[:, None, None, :, None], seen[name])))
        if host.parallel and bool(heads.any()):
            name = Site.MLP_OUT.at(layer)
            hooks.append((name, _restorer(heads.bool()[:, None, None, None], seen[name])))
    return hooks


def _change(
    pair: Contrast, seen: dict[str, Tensor], source: Node
) -> Float[Tensor, "batch pos d_model"]:
    """Return how a source's part of the residual stream would change without the prefix."""
    site = Site.MLP_OUT if source.kind == "mlp" else Site.Z
    off = pair.activation("off", site, source.layer)
    if source.kind == "slot":
        return torch.zeros_like(pair.activation("off", Site.RESID_PRE, 0))
    now = seen[site.at(source.layer)]
    moved = off[:, -now.shape[1] :] - now
    if source.kind == "head":
        w_o = host_of(pair.model).attention(source.layer).W_O[source.index]
        moved = moved[:, :, source.index] @ w_o
    return pad(moved, (0, 0, off.shape[1] - now.shape[1], 0))


def _adder(weight: Tensor, change: Float[Tensor, "stack batch pos d_model"]):
    def add(x: Float[Tensor, "stacked pos d_model"], hook: object) -> Tensor:
        rows = (weight[:, None, None, None] * change)[:, :, -x.shape[1] :]
        return x + rearrange(rows, "stack batch ... -> (stack batch) ...")

    return add


def _restorer(back: Tensor, given: Tensor):
    def restore(x: Float[Tensor, "stacked pos *rest"], hook: object) -> Tensor:
        x = rearrange(x, "(stack batch) ... -> stack batch ...", stack=len(back))
        return rearrange(torch.where(back, given, x), "stack batch ... -> (stack batch) ...")

    return restore
