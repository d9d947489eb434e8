"""Activation patching between a run with the prefix and one without, stacked and resumed.

*Denoise* puts an activation of the prefixed run into the plain run: is it enough? *Noise* puts an
activation of the plain run into the prefixed run: is it needed? (Heimersheim and Nanda 2024.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.grid import Direction, PatchGrid
from prefix_interp.attribution.metrics import Metrics
from prefix_interp.attribution.pair import Contrast, State, Values
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.given import ContextLike
from prefix_interp.prefixes.layout import Hook
from prefix_interp.tasks import Batch, Task

HeadSite = Literal["z", "q", "k", "v", "pattern"]
HEAD_SITES = {
    "z": Site.Z, "q": Site.Q, "k": Site.K, "v": Site.V, "pattern": Site.PATTERN,
}  # fmt: skip
STREAM_SITES = {
    "resid_pre": Site.RESID_PRE, "attn_out": Site.ATTN_OUT, "resid_mid": Site.RESID_MID,
    "mlp_out": Site.MLP_OUT, "resid_post": Site.RESID_POST,
}  # fmt: skip
SLOT_AXES = (("layer", "head", "slot"), ("layer", "head"), ("layer", "slot"), ("layer",))


@dataclass(frozen=True)
class Cell:
    """One patch: an activation of one layer, at one head and position or at all of them."""

    site: Site
    layer: int
    head: int | None = None
    pos: int | None = None


def patch_heads(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    direction: Direction | str = "denoise",
    site: HeadSite | str = "z",
    by_position: bool = False,
    n: int = 64,
    seed: int = 0,
    metrics: Metrics = ("log_prob",),
    progress: bool = True,
) -> PatchGrid:
    """Return the effect of patching each head, optionally at each position.

    The site is what is patched of the head: its output ``"z"``, its queries, keys or values of the
    content, or its attention ``"pattern"``. A pattern includes the slots' columns. In a run without
    prefix they meet values of 0, which leaves (1 - g) t: the gate without the bias.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made.
        direction: ``"denoise"`` or ``"noise"``.
        site: ``"z"``, ``"q"``, ``"k"``, ``"v"`` or ``"pattern"``; keys and values have one
            entry per key-value head.
        by_position: patch each content position alone.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task.
        metrics: names in `METRICS`, or functions by name; all come from one sweep.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, or an unknown direction or site.

    Example:
        >>> grid = pi.patch_heads(model, prefix, task, n=8, progress=False)
        >>> grid.recovered().shape
        torch.Size([1, 4])
    """
    check_choice("site", site, HEAD_SITES)
    check_choice("direction", direction, ("denoise", "noise"))
    pair = contrast(model, prefix, task, n=n, seed=seed, metrics=metrics)
    prefix = pair.prefix
    place = HEAD_SITES[site]
    host = host_of(model)
    n_heads = host.n_heads
    if place in (Site.K, Site.V):
        n_heads = pair.activation("on", place, 0).shape[2]
    positions = range(pair.tokens.shape[1]) if by_position else [None]
    cells = [
        Cell(place, layer, head, pos)
        for layer in range(host.n_layers)
        for head in range(n_heads)
        for pos in positions
    ]
    axes = ("layer", "head", "pos") if by_position else ("layer", "head")
    shape = [host.n_layers, n_heads] + [len(positions)] * by_position
    values = patch_cells(pair, cells, direction, progress)
    return _grid(pair, direction, f"{site} of a head", axes, shape, values)


def patch_sites(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    direction: Direction | str = "denoise",
    sites: Sequence[str] | None = None,
    by_position: bool = True,
    n: int = 64,
    seed: int = 0,
    metrics: Metrics = ("log_prob",),
    progress: bool = True,
) -> PatchGrid:
    """Return the effect of patching the residual stream, or what a layer writes into it.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made.
        direction: ``"denoise"`` or ``"noise"``.
        sites: of ``"resid_pre"``, ``"attn_out"``, ``"resid_mid"``, ``"mlp_out"``,
            ``"resid_post"``; None for all that the model has.
        by_position: patch each content position alone.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task.
        metrics: names in `METRICS`, or functions by name; all come from one sweep.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, or a site that the model lacks.

    Example:
        >>> grid = pi.patch_sites(model, prefix, task, n=8, progress=False)
        >>> grid.axes
        ('site', 'layer', 'pos')
    """
    check_choice("direction", direction, ("denoise", "noise"))
    if sites is not None and not isinstance(sites, str) and not sites:
        raise PrefixInterpError(f"sites=() is empty; name one of {', '.join(STREAM_SITES)}")
    sites = [sites] if isinstance(sites, str) else sites
    for name in sites or ():
        check_choice("sites", name, STREAM_SITES)
    if sites is not None and len(set(sites)) != len(sites):
        raise PrefixInterpError(f"sites={list(sites)!r} names a site twice; name each once")
    pair = contrast(model, prefix, task, n=n, seed=seed, metrics=metrics)
    prefix = pair.prefix
    if sites is None:
        cache = pair.runs.on.cache_dict
        host = host_of(model)
        found = [name for name, place in STREAM_SITES.items() if place.at(0) in cache]
        sites = [name for name in found if host.is_live(STREAM_SITES[name])]
    n_layers = host_of(model).n_layers
    positions = range(pair.tokens.shape[1]) if by_position else [None]
    cells = [
        Cell(STREAM_SITES[name], layer, None, pos)
        for name in sites
        for layer in range(n_layers)
        for pos in positions
    ]
    axes = ("site", "layer", "pos") if by_position else ("site", "layer")
    shape = [len(sites), n_layers] + [len(positions)] * by_position
    values = patch_cells(pair, cells, direction, progress)
    grid = _grid(pair, direction, "residual stream", axes, shape, values)
    return replace(grid, labels={"site": tuple(sites)})


def patch_slots(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    direction: Direction | str = "denoise",
    axes: tuple[str, ...] = ("layer", "head", "slot"),
    n: int = 64,
    seed: int = 0,
    metrics: Metrics = ("log_prob",),
    progress: bool = True,
) -> PatchGrid:
    """Return the effect of keeping or dropping the prefix at single heads and slots.

    Only prefixes allow this intervention: the slot's attention mass is gated, and the head works
    with the rest. *Denoise* keeps the prefix at that head and slot and drops it everywhere else;
    *noise* drops it only there.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made.
        direction: ``"denoise"`` or ``"noise"``.
        axes: ``("layer", "head", "slot")``; without ``"slot"`` all slots of a head are gated
            together, without ``"head"`` a slot at all heads of its layer.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task.
        metrics: names in `METRICS`, or functions by name; all come from one sweep.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, or unknown axes.

    Example:
        >>> grid = pi.patch_slots(model, prefix, task, n=8, progress=False)
        >>> grid.axes
        ('layer', 'head', 'slot')
    """
    check_choice("direction", direction, ("denoise", "noise"))
    if axes not in SLOT_AXES:
        allowed = ", ".join(map(str, SLOT_AXES))
        raise PrefixInterpError(f"axes={axes!r} are unknown; choose one of {allowed}")
    pair = contrast(model, prefix, task, n=n, seed=seed, metrics=metrics)
    prefix = pair.prefix
    host = host_of(model)
    sizes = {"layer": host.n_layers, "head": host.n_heads, "slot": prefix.n_slots}
    shape = [sizes[axis] for axis in axes]
    n_cells = torch.Size(shape).numel()
    ones = host.cast(torch.eye(n_cells).unflatten(1, shape))
    for i, axis in enumerate(sizes, start=1):
        if axis not in axes:
            ones = torch.stack([ones] * sizes[axis], dim=i)
    base = "off" if direction == "denoise" else "on"
    gates = ones if direction == "denoise" else 1 - ones
    a_layer = n_cells // host.n_layers
    parts: list[Values] = []
    with tqdm(total=n_cells, desc=f"patching slots, {direction}", disable=not progress) as bar:
        for layer in range(host.n_layers):
            own = gates[layer * a_layer : (layer + 1) * a_layer]
            parts.append(pair.run(base, a_layer, lambda _: [], layer=layer, gates=own, bar=bar))
    values = {name: torch.cat([p[name] for p in parts]) for name in pair.metrics}
    return _grid(pair, direction, "prefix mass", axes, shape, values)


def patch_cells(
    pair: Contrast, cells: Sequence[Cell], direction: Direction | str, progress: bool = True
) -> Values:
    """Return the metrics of patches, each done alone, in the order of `cells`.

    Patches of one layer and position share a stack, which starts there, and after the layer's
    attention if all of them act after it.

    Args:
        pair: from `contrast`.
        cells: what to patch.
        direction: ``"denoise"`` or ``"noise"``.
        progress: show a bar.
    """
    base, donor = ("off", "on") if direction == "denoise" else ("on", "off")
    for site in {cell.site for cell in cells} - {Site.PATTERN}:  # which is written at `Site.Z`
        host_of(pair.model).check_live(site)
    groups: dict[tuple[int, int | None, bool], list[int]] = {}
    for i, cell in enumerate(cells):
        behind = cell.site not in (Site.RESID_PRE, Site.Q, Site.K, Site.V)
        groups.setdefault((cell.layer, cell.pos, behind), []).append(i)
    order = [i for group in groups.values() for i in group]
    parts: list[Values] = []
    with tqdm(total=len(cells), desc=f"patching, {direction}", disable=not progress) as bar:
        for (layer, pos, behind), group in groups.items():
            own = [cells[i] for i in group]
            start = {"layer": layer, "first_pos": pos or 0, "after_attention": behind}

            def make(part: slice, own: list[Cell] = own) -> list[Hook]:
                return _patch_hooks(pair, own[part], base, donor)

            parts.append(pair.run(base, len(own), make, **start, bar=bar))
    back = torch.tensor(order).argsort()
    return {name: torch.cat([p[name] for p in parts])[back] for name in pair.metrics}


def _patch_hooks(pair: Contrast, cells: Sequence[Cell], base: str, donor: str) -> list[Hook]:
    """Return one hook per site that writes the donor's activation into each cell's block."""
    hooks: list[Hook] = []
    for site in dict.fromkeys(cell.site for cell in cells):
        rows = [i for i, cell in enumerate(cells) if cell.site is site]
        layer, pos = cells[rows[0]].layer, cells[rows[0]].pos
        given = donor_activation(pair, site, layer, base, donor)
        place = Site.Z if site is Site.PATTERN else site
        heads = [h for i in rows if (h := cells[i].head) is not None]
        hooks.append((place.at(layer), _writer(given, len(cells), rows, heads, pos)))
    return hooks


def _writer(given: Tensor, n_stack: int, stack: list[int], heads: list[int], pos: int | None):
    def write(x: Float[Tensor, "stacked pos *rest"], hook: object) -> Tensor:
        before = given.shape[1] - x.shape[1]  # rows that did not run
        if pos is not None and pos < before:
            return x  # no output reads this position any more
        here = slice(None) if pos is None else slice(pos - before, pos - before + 1)
        new = given[:, before:][:, here].to(x)
        x = rearrange(x, "(stack batch) ... -> stack batch ...", stack=n_stack).clone()
        if heads:
            x[stack, :, here, heads] = rearrange(
                new[:, :, heads], "batch pos head d -> head batch pos d"
            )
        else:
            x[stack, :, here] = new
        return rearrange(x, "stack batch ... -> (stack batch) ...")

    return write


def donor_activation(
    pair: Contrast, site: Site, layer: int, base: State | str, donor: State | str
) -> Float[Tensor, "batch pos *rest"]:
    """Return what a patch writes into the base run.

    For most sites this is the donor's activation. For a pattern it is the head's output under it:
    the donor's attention over the content, applied to the base run's values.
    """
    if site is not Site.PATTERN:
        return pair.activation(donor, site, layer)
    pattern = pair.activation(donor, Site.PATTERN, layer)
    values = pair.activation(base, Site.V, layer)
    values = host_of(pair.model).attention(layer).weighed_values(values)
    return einsum(
        pattern, values, "batch head query key, batch key head d_head -> batch query head d_head"
    )


def _grid(
    pair: Contrast,
    direction: Direction | str,
    what: str,
    axes: tuple[str, ...],
    shape: Sequence[int],
    values: Values,
) -> PatchGrid:
    shaped = {name: v.unflatten(0, tuple(shape)) for name, v in values.items()}
    return PatchGrid(direction, what, axes, shaped, pair.on, pair.off, plain=pair.plain)
