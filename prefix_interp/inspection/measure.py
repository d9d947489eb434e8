"""One pass over the sentences in chunks: what the prefix does at every head, and to the answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.gradients import attribution_patch
from prefix_interp.attribution.pair import Contrast
from prefix_interp.inspection.chunks import chunk_size
from prefix_interp.inspection.sentences import Sentences
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.theory.decompose import Decomposition, decompose_attention
from prefix_interp.theory.subspace import BiasSubspace

PARTS = ("gate", "base", "scaled_base", "bias", "propagated")
_SAMPLES = 16  # positions at which what a head writes is read in the vocabulary


@dataclass(frozen=True, eq=False)
class Measured:
    """What one pass over all sentences measured. "Without" is the masked baseline.

    Attributes:
        parts: means over sequences of the gate, and of the norms of t, (1 - g) t, bias and
            propagated, by name (see `Decomposition`).
        count: sequences that have content at each position.
        residual: largest norm of what eq. 7 leaves over.
        sink_on: attention of later content to the first content token, with the prefix.
        sink_off: the same without it.
        moved: how far relative attention moves between the runs: total variation, 0 to 1.
        eq6: largest violation of eq. 6, by layer.
        eq7: largest violation of eq. 7, divided by the largest output of a head.
        spaces: the bias's subspace of every head, layer by layer.
        mean_bias: mean over positions and sequences.
        estimates: first-order effects on the log-probability, ``"denoise"`` and ``"noise"``.
        log_prob_on: of each answer, with the prefix; NaN where there is no answer.
        log_prob_off: the same without it.
        plain: mean log-probability of the model as it is.
        kl: KL(with prefix || without) at each place of an answer, mean, in nats.
        changed: share of the answers' places whose most likely token changes.
        logit_change: largest difference of a logit with and without the prefix, divided by the
            largest logit.
        methods: largest difference between the logits of both ways to inject, divided by the
            largest logit.
        final: residual streams behind the last layer with the prefix, at answers.
    """

    parts: dict[str, Float[Tensor, "layer head pos"]]
    count: Float[Tensor, " pos"]
    residual: Float[Tensor, "layer head pos"]
    sink_on: Float[Tensor, "layer head"]
    sink_off: Float[Tensor, "layer head"]
    moved: Float[Tensor, "layer head"]
    eq6: Float[Tensor, " layer"]
    eq7: float
    spaces: tuple[tuple[BiasSubspace, ...], ...]
    mean_bias: Float[Tensor, "layer head d_head"]
    estimates: dict[str, Float[Tensor, "layer head batch"]]
    log_prob_on: Float[Tensor, "batch n_out"]
    log_prob_off: Float[Tensor, "batch n_out"]
    plain: float
    kl: float
    changed: float
    logit_change: float
    methods: float
    final: Float[Tensor, "row d_model"]

    @property
    def gate(self) -> Float[Tensor, "layer head pos"]:
        """Return the mean gate."""
        return self.parts["gate"]

    def mean(self, part: str) -> Float[Tensor, "layer head"]:
        """Return the mean of one of `parts` over all content, each token counted once."""
        return self.parts[part] @ self.count / self.count.sum()


@dataclass
class _Sums:
    """What is added up over chunks."""

    n_pos: int
    count: Tensor = field(default_factory=lambda: torch.zeros(0))
    by_pos: dict[str, Tensor] = field(default_factory=dict)
    by_head: dict[str, Tensor] = field(default_factory=dict)
    largest: dict[str, Tensor] = field(default_factory=dict)
    listed: dict[str, list[Tensor]] = field(default_factory=dict)
    triangles: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values: Tensor, real: Bool[Tensor, "batch pos"]) -> None:
        """Add values (layer batch head pos) at real positions."""
        weighed = values.double() * real[:, None]
        summed = weighed.sum(dim=1)
        known = self.by_pos.setdefault(name, summed.new_zeros(*summed.shape[:2], self.n_pos))
        known[..., : summed.shape[-1]] += summed

    def keep_largest(self, name: str, values: Tensor) -> None:
        """Keep the largest of values of one shape."""
        self.largest[name] = torch.maximum(self.largest.get(name, values), values)

    def join(self, name: str, rows: Float[Tensor, "layer head row d_head"]) -> None:
        """Keep the triangle that has the singular values of all rows so far."""
        rows = rows.double()
        if name in self.triangles:
            rows = torch.cat([self.triangles[name], rows], dim=2)
        self.triangles[name] = torch.linalg.qr(rows, mode="r").R

    def list(self, name: str, values: Tensor) -> None:
        """Keep all values."""
        self.listed.setdefault(name, []).append(values)


@contextmanager
def quiet_about_positions() -> Iterator[None]:
    """Leave out the warning that positions alone change a metric: the page says it in numbers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*positions", category=UserWarning)
        yield


def measure(
    model: Model, prefix: Prefix, sentences: Sentences, *, progress: bool = True
) -> Measured:
    """Return what the prefix does at every head; memory does not grow with the sentences.

    Args:
        model: a supported model, float32 or float64.
        prefix: a prefix that fits it.
        sentences: from `as_sentences`.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`.
    """
    n_pos = int(sentences.lengths.max())
    size = chunk_size(model, n_pos, prefix.n_slots)
    sums = _Sums(n_pos, torch.zeros(n_pos, dtype=torch.float64, device=host_of(model).device))
    with tqdm(total=len(sentences), desc="measuring", disable=not progress) as bar:
        for i, chunk in enumerate(sentences.chunks(size)):
            with quiet_about_positions():
                pair = contrast(model, prefix, chunk.batch)
            _add_answers(sums, pair)
            if i == 0:
                _add_methods(sums, pair)
            with torch.no_grad():
                _add_heads(sums, pair, chunk)
            for direction in ("denoise", "noise"):
                grid = attribution_patch(model, prefix, pair, direction=direction)
                sums.list(direction, grid.effect().detach())
            bar.update(len(chunk))
    return _measured(sums, prefix)


def _add_heads(sums: _Sums, pair: Contrast, chunk: Sentences) -> None:
    real = chunk.real.to(pair.tokens.device)
    parts = decompose_attention(pair.runs)
    sums.count[: real.shape[1]] += real.double().sum(dim=0)
    sums.add("gate", parts.gate, real)
    for name in PARTS[1:]:
        sums.add(name, getattr(parts, name).norm(dim=-1), real)
    residual = (parts.residual.norm(dim=-1) * real[:, None]).amax(dim=1).double()
    padded = residual.new_zeros(*residual.shape[:2], sums.n_pos)
    padded[..., : residual.shape[-1]] = residual
    sums.keep_largest("residual", padded)
    eq6 = parts.pattern_residual.abs() * real[:, None, :, None]
    sums.keep_largest("eq6", eq6.flatten(1).amax(dim=1).double())
    for name, values in (("left", parts.residual), ("output", parts.output)):
        at_real = values.abs().amax(dim=-1) * real[:, None]
        sums.keep_largest(name, at_real.max().double())
    _add_attention(sums, pair, parts, real)
    by_row = "layer batch head query d_head -> layer head (batch query) d_head"
    rows = real.flatten()
    moved = rearrange(parts.output - parts.scaled_base, by_row)[:, :, rows]
    sums.join("bias", moved)
    sums.join("output", rearrange(parts.output, by_row)[:, :, rows])
    bias = rearrange(parts.bias, by_row)[:, :, rows].double().sum(dim=2)
    sums.by_head["bias"] = sums.by_head.get("bias", 0) + bias
    last = host_of(pair.model).n_layers - 1
    stream = pair.batch.read(pair.activation("on", Site.RESID_POST, last))
    sums.list("final", _evenly(stream[pair.batch.given]))


def _add_attention(
    sums: _Sums, pair: Contrast, parts: Decomposition, real: Bool[Tensor, "batch pos"]
) -> None:
    """Add the attention to the first content token, and how far relative attention moves."""
    later = real.clone()
    later[:, 0] = False  # the first token can only see itself
    on = parts.content_pattern * (1 - parts.gate[..., None])
    layers = range(len(on))
    off = torch.stack([pair.activation("off", Site.PATTERN, layer) for layer in layers])
    distance = (parts.content_pattern - off).abs().sum(dim=-1) / 2
    for name, values in (("sink_on", on[..., 0]), ("sink_off", off[..., 0]), ("moved", distance)):
        summed = (values.double() * later[:, None]).sum(dim=(1, 3))
        sums.by_head[name] = sums.by_head.get(name, 0) + summed
    sums.by_head["later"] = sums.by_head.get("later", 0) + later.double().sum()


def _add_answers(sums: _Sums, pair: Contrast) -> None:
    target, given = pair.target, pair.batch.given
    on, off = (x.log_softmax(dim=-1) for x in (target.logits_on, target.logits_off))
    at = target.answers.clamp(min=0)[..., None]
    for name, values in (("on", on), ("off", off)):
        own = values.gather(-1, at)[..., 0].double()
        sums.list(f"log_prob_{name}", own.where(given, torch.nan))
    kl = (on.exp() * (on - off)).sum(dim=-1).double()
    sums.list("kl", kl[given])
    sums.list("changed", (on.argmax(dim=-1) != off.argmax(dim=-1))[given].double())
    change = (target.logits_on - target.logits_off).abs().amax(dim=-1)
    sums.keep_largest("logit_change", change[given].max().double())
    sums.keep_largest("logit", target.logits_on[given].abs().max().double())
    sums.list("plain", pair.plain["log_prob"].double())


def _add_methods(sums: _Sums, pair: Contrast) -> None:
    """Compare both ways to inject a prefix: slots, and the exact mixture."""
    with torch.no_grad(), attach(pair.model, pair.prefix, method="mixture"):
        mixture = pair.model(pair.tokens)
    slots = pair.runs.logits_on
    difference = (mixture[:, -slots.shape[1] :] - slots).abs().max() / slots.abs().max()
    sums.keep_largest("methods", difference.double())


def _measured(sums: _Sums, prefix: Prefix) -> Measured:
    count = sums.count.clamp(min=1)
    parts = {name: sums.by_pos[name] / count for name in PARTS}
    later = sums.by_head["later"].clamp(min=1)
    n_rows = int(sums.count.sum())
    listed = {name: _stacked(values) for name, values in sums.listed.items()}
    return Measured(
        parts={name: x.cpu() for name, x in parts.items()},
        count=sums.count.cpu(),
        residual=sums.largest["residual"].cpu(),
        sink_on=(sums.by_head["sink_on"] / later).cpu(),
        sink_off=(sums.by_head["sink_off"] / later).cpu(),
        moved=(sums.by_head["moved"] / later).cpu(),
        eq6=sums.largest["eq6"].cpu(),
        eq7=float(sums.largest["left"] / sums.largest["output"].clamp_min(1e-300)),
        spaces=_spaces(sums, n_rows, prefix),
        mean_bias=sums.by_head["bias"] / n_rows,
        estimates={name: listed[name].double().cpu() for name in ("denoise", "noise")},
        log_prob_on=listed["log_prob_on"].cpu(),
        log_prob_off=listed["log_prob_off"].cpu(),
        plain=float(listed["plain"].mean()),
        kl=float(listed["kl"].mean()),
        changed=float(listed["changed"].mean()),
        logit_change=float(sums.largest["logit_change"] / sums.largest["logit"]),
        methods=float(sums.largest["methods"]),
        final=_evenly(listed["final"]),
    )


def _evenly(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "few d_model"]:
    """Return a few of the rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // _SAMPLES))]


def _stacked(values: list[Tensor]) -> Tensor:
    """Return values of all chunks as one tensor; rows that are shorter end with NaN."""
    if values[0].ndim == 3:
        return torch.cat(values, dim=-1)  # layer head batch
    if values[0].ndim == 1 or len({x.shape[1] for x in values}) == 1:
        return torch.cat(values)
    wide = max(x.shape[1] for x in values)
    return torch.cat(
        [torch.nn.functional.pad(x, (0, wide - x.shape[1]), value=torch.nan) for x in values]
    )


def _spaces(sums: _Sums, n_rows: int, prefix: Prefix) -> tuple[tuple[BiasSubspace, ...], ...]:
    _, s, vh = torch.linalg.svd(sums.triangles["bias"].cpu(), full_matrices=False)
    scales = torch.linalg.matrix_norm(sums.triangles["output"].cpu(), 2)
    # The rank's threshold is the rounding of the runs, not that of these sums.
    dtype = next(iter(prefix.tensors.values())).dtype
    s, vh = s.to(dtype), vh.to(dtype)
    bound = min(vh.shape[-1], prefix.n_slots)
    return tuple(
        tuple(
            BiasSubspace("head", i, j, bound, s[i, j], vh[i, j], n_rows, float(scales[i, j]))
            for j in range(s.shape[1])
        )
        for i in range(len(s))
    )
