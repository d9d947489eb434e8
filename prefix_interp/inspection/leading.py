"""The leading heads, exactly: patched, beside random prefixes; their attention, and their fades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.controls import NORM_MATCHED
from prefix_interp.attribution.pair import Contrast
from prefix_interp.attribution.patching import Cell, patch_cells
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.inspection.chunks import Effort, chunk_size, stack_size
from prefix_interp.inspection.measure import Measured, quiet_about_positions
from prefix_interp.inspection.sentences import Sentences
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator

FADES = (1.0, 0.75, 0.5, 0.25, 0.0)
Heads = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Shown:
    """One sentence at the leading heads.

    Attributes:
        slots: attention to each slot with the prefix.
        on: attention over the content with the prefix, renormalised.
        off: attention over the content without it.
        fades: log-probability of each answer when the prefix is faded at that head alone.
    """

    slots: Float[Tensor, "head query slot"]
    on: Float[Tensor, "head query key"]
    off: Float[Tensor, "head query key"]
    fades: Float[Tensor, "head fade n_out"]


@dataclass(frozen=True, eq=False)
class Leading:
    """Exact effects of the leading heads on the log-probability, per example, from off to on.

    Attributes:
        heads: layer and head of each, the largest estimate first.
        denoise: the head's prefixed output in the plain run: is it enough?
        noise: its plain output in the prefixed run: is it needed?
        controls: denoise under norm-matched random prefixes.
        fades: log-probability with the prefix faded at that head alone, by `FADES`.
        shown: the sentences of the explorer.
        rounding: size of an effect that could be rounding.
    """

    heads: tuple[tuple[int, int], ...]
    denoise: Float[Tensor, "head batch"]
    noise: Float[Tensor, "head batch"]
    controls: Float[Tensor, "draw head batch"]
    fades: Float[Tensor, "head fade batch"]
    shown: tuple[Shown, ...]
    rounding: float

    @property
    def level(self) -> float:
        """Return the level of the interval of the excess over the controls (see `Elicitation`)."""
        return 1 - 2 / (len(self.controls) + 1)

    def rows(self) -> list[dict[str, float | int | bool | None]]:
        """Return one row per head: means, intervals, controls, and whether it is elicited.

        As in `Elicitation`, a head is elicited if its effect lies outside the range of the random
        prefixes and its own interval excludes 0 on the same side.
        """
        ends = [_interval(x) for x in (self.denoise, self.noise)]
        draws = self.controls.mean(dim=-1)
        rows = []
        for i, (layer, head) in enumerate(self.heads):
            effect, (low, high) = float(self.denoise[i].mean()), (float(x[i]) for x in ends[0])
            smallest, largest = float(draws[:, i].min()), float(draws[:, i].max())
            above = effect - largest > self.rounding and low > 0
            below = effect - smallest < -self.rounding and high < 0
            rows.append(
                {
                    "layer": layer, "head": head, "enough": effect, "enough_low": low,
                    "enough_high": high, "needed": float(self.noise[i].mean()),
                    "needed_low": float(ends[1][0][i]), "needed_high": float(ends[1][1][i]),
                    "control": float(draws[:, i].mean()), "control_low": smallest,
                    "control_high": largest, "elicited": above or below,
                }
            )  # fmt: skip
        return rows


def _interval(values: Float[Tensor, "head batch"]) -> tuple[Tensor, Tensor]:
    if values.shape[-1] < 2:  # a single example has no interval: it is taken as unknown
        nothing = torch.full(values.shape[:1], torch.nan, dtype=torch.float64)
        return nothing, nothing
    return bootstrap_interval(values)


def leading_heads(measured: Measured, n: int) -> tuple[tuple[int, int], ...]:
    """Return the heads with the largest first-order effect in either direction.

    Args:
        measured: its estimates rank the heads.
        n: how many.
    """
    means = [x.mean(dim=-1).abs() for x in measured.estimates.values()]
    size = torch.stack(means).amax(dim=0)
    order = size.flatten().argsort(descending=True, stable=True)[:n].tolist()
    return tuple(divmod(i, size.shape[1]) for i in order)


def patch_leading(
    model: Model,
    prefix: Prefix,
    sentences: Sentences,
    heads: Heads,
    effort: Effort,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Leading:
    """Return the exact effects of some heads, beside those of random prefixes, and their fades.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        sentences: what is patched; the first ones are shown.
        heads: layer and head of each.
        effort: numbers of examples, draws and shown sentences.
        seed: chooses the random prefixes.
        progress: show a bar.
    """
    sentences = sentences.first(effort.n_examples)
    size = chunk_size(model, int(sentences.lengths.max()), prefix.n_slots)
    controls = [
        norm_matched(prefix, derive_generator(seed, "elicitation", NORM_MATCHED, i))
        for i in range(effort.n_random)
    ]
    found: dict[str, list[Tensor]] = {"denoise": [], "noise": [], "controls": [], "fades": []}
    shown: list[Shown] = []
    largest = 1.0
    total = len(list(sentences.chunks(size))) * (len(controls) + 3)
    with tqdm(total=total, desc="patching the leading heads", disable=not progress) as bar:
        for chunk in sentences.chunks(size):
            with quiet_about_positions():
                pair = contrast(model, prefix, chunk.batch)
            off, on = (x["log_prob"].double() for x in (pair.off, pair.on))
            largest = max(largest, float(off.abs().max()), float(on.abs().max()))
            cells = [Cell(Site.Z, layer, head) for layer, head in heads]
            found["denoise"].append(_patched(pair, cells, "denoise") - off)
            found["noise"].append(on - _patched(pair, cells, "noise"))
            bar.update(2)
            drawn = _control_values(pair, controls, heads, bar)
            found["controls"].append(drawn - off)
            faded, places = _faded(pair, heads)
            found["fades"].append(faded)
            room = effort.n_shown - len(shown)
            shown += [_shown(pair, heads, chunk, i, places) for i in range(min(room, len(chunk)))]
            bar.update()
    eps = torch.finfo(host_of(model).dtype).eps
    whole = {name: torch.cat(values, dim=-1).cpu() for name, values in found.items()}
    return Leading(heads=tuple(heads), **whole, shown=tuple(shown), rounding=1000 * eps * largest)


def _patched(pair: Contrast, cells: Sequence[Cell], direction: str) -> Float[Tensor, "head batch"]:
    return patch_cells(pair, cells, direction, progress=False)["log_prob"].double()


def _control_values(
    pair: Contrast, controls: Sequence[Prefix], heads: Heads, bar: tqdm
) -> Float[Tensor, "draw head batch"]:
    """Return the log-probability when a head of the plain run has its output under each control."""
    model, n_pos = pair.model, pair.tokens.shape[1]
    names = sorted({Site.Z.at(layer) for layer, _ in heads})
    donors = []
    for control in controls:
        with torch.no_grad(), attach(model, control, method="mixture"):
            _, cache = model.run_with_cache(
                pair.tokens, names_filter=lambda name: name in names, return_cache_object=False
            )
        own = [cache[Site.Z.at(layer)][:, -n_pos:, :, :][:, :, head] for layer, head in heads]
        donors.append(torch.stack(own))
        bar.update()
    values = torch.empty(len(controls), len(heads), pair.n_batch, dtype=torch.float64)
    size = stack_size(model, pair.n_batch, n_pos)
    for layer in sorted({layer for layer, _ in heads}):
        places = [
            (draw, i) for i, at in enumerate(heads) if at[0] == layer for draw in range(len(donors))
        ]
        for part in _slices(len(places), size):
            own = places[part]
            given = torch.stack([donors[draw][i] for draw, i in own])
            which = [heads[i][1] for _, i in own]

            def make(
                part: slice, layer: int = layer, given: Tensor = given, which: list[int] = which
            ) -> list[Hook]:
                return [_head_writer(layer, given[part], which[part])]

            run = pair.run("off", len(own), make, layer=layer, after_attention=True)
            draws, rows = zip(*own, strict=True)
            values[list(draws), list(rows)] = run["log_prob"].double().cpu()
    return values.to(pair.off["log_prob"].device)


def _slices(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _head_writer(
    layer: int, given: Float[Tensor, "stack batch pos d_head"], heads: Sequence[int]
) -> Hook:
    """Return a hook that writes one head into each block of rows."""
    n = len(heads)
    rows = torch.arange(n, device=given.device)
    which = torch.tensor(heads, device=given.device)

    def write(z: Float[Tensor, "stacked pos head d_head"], hook: object) -> Tensor:
        z = rearrange(z, "(stack batch) ... -> stack batch ...", stack=n).clone()
        z[rows, :, :, which] = given.to(z)
        return rearrange(z, "stack batch ... -> (stack batch) ...")

    return Site.Z.at(layer), write


def _faded(
    pair: Contrast, heads: Heads
) -> tuple[Float[Tensor, "head fade batch"], Float[Tensor, "head fade batch n_out"]]:
    """Return the log-probability, and that of each answer, with the prefix faded at one head."""
    host, answers = host_of(pair.model), pair.target.answers
    size = stack_size(pair.model, pair.n_batch, pair.tokens.shape[1])
    at = answers.clamp(min=0)[..., None]
    known = pair.target.logits_on.log_softmax(dim=-1).gather(-1, at)[..., 0]
    means, places = [], []
    for layer, head in heads:
        gates = host.cast(torch.ones(len(FADES) - 1, host.n_layers, host.n_heads, pair.n_slots))
        gates[:, layer, head] = host.cast(torch.tensor(FADES[1:]))[:, None]
        rows = [known[None]]
        with torch.no_grad():
            for part in _slices(len(gates), size):
                own = gates[part]
                logits = pair.logits("on", len(own), [], layer=layer, gates=own)
                index = at.expand(len(own), *at.shape)
                rows.append(logits.log_softmax(dim=-1).gather(-1, index)[..., 0])
        values = torch.cat(rows).double().where(pair.batch.given, torch.nan)
        places.append(values)
        means.append(values.nanmean(dim=-1))
    return torch.stack(means), torch.stack(places)


def _shown(
    pair: Contrast,
    heads: Heads,
    chunk: Sentences,
    sequence: int,
    places: Float[Tensor, "head fade batch n_out"],
) -> Shown:
    n, length = pair.n_slots, int(chunk.lengths[sequence])
    on = torch.stack([pair.runs.on[Site.PATTERN.at(i)][sequence, j] for i, j in heads])
    on = on[:, :length, : n + length].double().cpu()
    off = torch.stack([pair.activation("off", Site.PATTERN, i)[sequence, j] for i, j in heads])
    content = on[..., n:]
    left = content.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return Shown(
        slots=on[..., :n],
        on=content / left,
        off=off[:, :length, :length].double().cpu(),
        fades=places[:, :, sequence].cpu(),
    )
