"""How many behaviours one token can call up: real tokens, random ones, and searched soft tokens.

One hard token from a vocabulary of V tokens calls up at most V continuations. This bound does not
apply to soft tokens. The number of targets that a search reaches is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.errors import PrefixInterpError, check_number, check_positive
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.support import check_supported
from prefix_interp.prefixes.context import check_finite
from prefix_interp.prefixes.generation import can_cache, continue_rows
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import check_vocabulary
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEQUENCES = 1024  # prompts per pass


@dataclass(frozen=True, eq=False, repr=False)
class SoftSearch(ResultObject):
    """Soft tokens, each optimised to make the model emit one target.

    Attributes:
        vectors: one soft token per target.
        targets: what each soft token should make the model emit.
        emitted: what it makes the model emit, by greedy decoding.
        losses: last training loss of each, mean over tokens in nats (teacher forcing).
        steps: number of optimiser steps.
    """

    vectors: Float[Tensor, "target slot d_model"]
    targets: Int[Tensor, "target n_out"]
    emitted: Int[Tensor, "target n_out"]
    losses: Float[Tensor, " target"]
    steps: int

    @property
    def reached(self) -> int:
        """Return how many targets are emitted exactly."""
        return int(self.is_reached.sum())

    @property
    def distinct(self) -> int:
        """Return how many different continuations the soft tokens call up."""
        return count_distinct(self.emitted)

    @property
    def is_reached(self) -> Bool[Tensor, " target"]:
        """Return whether each target is emitted exactly."""
        return (self.emitted == self.targets).all(dim=1)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per target: ``target``, ``emitted``, ``reached`` and ``loss``."""
        words = {
            name: [" ".join(map(str, row)) for row in x.tolist()]
            for name, x in (("target", self.targets), ("emitted", self.emitted))
        }
        columns = {"reached": self.is_reached.tolist(), "loss": self.losses.tolist()}
        return pd.DataFrame({**words, **columns})

    def caption(self) -> str:
        """Return how many targets are reached, their length, and the size of the search."""
        n, length = self.targets.shape
        return (
            f"{self.reached} of {n} targets of length {length} reached, {self.distinct} different "
            f"continuations; n_slots={self.vectors.shape[1]}, {self.steps} steps"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the loss of every target, in rising order, and which are reached."""
        return drawing("fits.search_figure")(
            self.losses, self.is_reached, figsize=figsize, width=width
        )


def count_distinct(continuations: Int[Tensor, "prompt n_out"]) -> int:
    """Return the number of different rows."""
    return len(torch.unique(continuations, dim=0))


def hard_continuations(
    model: Model, n_out: int, tokens: Int[Tensor, " prompt"] | None = None
) -> Int[Tensor, "prompt n_out"]:
    """Return what the model emits after each single token, by greedy decoding.

    Args:
        model: a supported model.
        n_out: tokens to emit, at least 1.
        tokens: the tokens to try; None for the whole vocabulary.

    Raises:
        PrefixInterpError: tokens outside the vocabulary, or more outputs than the context holds.
    """
    host = host_of(model)
    every = torch.arange(host.d_vocab) if tokens is None else tokens
    if every.ndim != 1:
        raise PrefixInterpError(f"tokens have shape {tuple(every.shape)}; give one axis: prompt")
    check_vocabulary(model, every)
    with torch.no_grad():
        vectors = host.embed(rearrange(every, "prompt -> prompt 1"))
    return soft_continuations(model, vectors, n_out)


def soft_continuations(
    model: Model, vectors: Float[Tensor, "prompt slot d_model"], n_out: int
) -> Int[Tensor, "prompt n_out"]:
    """Return what the model emits after each soft prompt alone, by greedy decoding.

    Args:
        model: a supported model.
        vectors: soft prompts, inserted at the embedding.
        n_out: tokens to emit, at least 1.

    Raises:
        PrefixInterpError: another shape, NaN or infinity, or more outputs than the context holds.
    """
    host, shape = host_of(model), tuple(vectors.shape)
    if len(shape) != 3 or 0 in shape or shape[2] != host.d_model:
        raise PrefixInterpError(
            f"vectors have shape {shape}; give 3 axes of at least 1, prompt, slot and d_model of "
            f"{host.d_model}"
        )
    check_finite("vectors", vectors)
    _check(model, n_out, shape[1])
    places = None
    if host.learned_positions and not host.places_rows:
        places = host.position_rows(shape[1], n_out - 1)

    def decode(rows: Tensor) -> Tensor:
        if can_cache(model):
            return continue_rows(model, rows, n_out, places=places)
        return _greedy_recomputed(model, rows, n_out)

    with torch.no_grad():
        parts = host.cast(vectors).split(_SEQUENCES)
        return torch.cat([decode(part).cpu() for part in parts])


def _greedy_recomputed(
    model: Model, vectors: Float[Tensor, "prompt slot d_model"], n_out: int
) -> Int[Tensor, "prompt n_out"]:
    hooks = soft_hooks(model, vectors[:, None], predict_first=True)
    emitted = torch.zeros(len(vectors), 0, dtype=torch.long, device=vectors.device)
    for _ in range(n_out):
        logits = model.run_with_hooks(emitted, fwd_hooks=hooks)
        emitted = torch.cat([emitted, logits[:, -1:].argmax(dim=-1)], dim=1)
    return emitted


def search_soft_tokens(
    model: Model,
    targets: Int[Tensor, "target n_out"],
    *,
    n_slots: int = 1,
    steps: int = 500,
    lr: float = 0.1,
    init_std: float = 1.0,
    starts: Float[Tensor, "target slot d_model"] | None = None,
    until_reached: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> SoftSearch:
    """Return one soft token per target, optimised to make the frozen model emit it.

    Adam minimises the teacher-forced cross-entropy for all targets of a pass at once. Each target
    has its own clipping (norm 1) and moments, so up to rounding it ends as it would alone. The
    learning rate falls to 5 % along a cosine. Success is then judged by greedy decoding.

    Args:
        model: a supported model; its weights stay as they are.
        targets: tokens to emit.
        n_slots: rows per soft prompt, at least 1.
        steps: number of optimiser steps.
        lr: peak learning rate.
        init_std: standard deviation of the normal starts.
        starts: what to start from in place of noise, e.g. the vectors found for shorter targets.
        until_reached: keep each vector as it is when its target is reached, and stop with the last.
        seed: decides the starts.
        progress: show a bar.

    Raises:
        PrefixInterpError: targets outside the vocabulary or longer than the context, or a loss
            that is not finite.
    """
    for name, value in (("n_slots", n_slots), ("steps", steps)):
        check_positive(name, value)
    check_number("lr", lr, low_open=True)
    check_number("init_std", init_std, low_open=True)
    if targets.ndim != 2 or not targets.numel():
        raise PrefixInterpError(
            f"targets have shape {tuple(targets.shape)}; give at least one row of tokens"
        )
    check_vocabulary(model, targets)
    targets = targets.long().clone()
    _check(model, targets.shape[1], n_slots)
    rng = derive_generator(seed, "soft-search", n_slots)
    host = host_of(model)
    shape = (len(targets), n_slots, host.d_model)
    start = torch.randn(shape, generator=rng) * init_std if starts is None else starts
    if tuple(start.shape) != shape:
        raise PrefixInterpError(
            f"starts have shape {tuple(start.shape)} but the targets need {shape}; give a soft "
            "prompt for each"
        )
    check_finite("starts", start)
    found, losses = [], []
    for part in torch.arange(len(targets)).split(_SEQUENCES):
        vectors, loss = _optimise(
            model,
            host.cast(start[part]),
            targets[part].to(host.device),
            steps,
            lr,
            until_reached,
            progress,
        )
        found.append(vectors)
        losses.append(loss)
    vectors = torch.cat(found)
    emitted = soft_continuations(model, vectors, targets.shape[1])
    return SoftSearch(vectors.cpu(), targets.cpu(), emitted, torch.cat(losses).cpu(), steps)


def _optimise(
    model: Model,
    start: Float[Tensor, "target slot d_model"],
    targets: Int[Tensor, "target n_out"],
    steps: int,
    lr: float,
    until_reached: bool,
    progress: bool,
) -> tuple[Float[Tensor, "target slot d_model"], Float[Tensor, " target"]]:
    vectors = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([vectors], lr=lr, betas=(0.9, 0.95))
    losses, kept = start.new_zeros(len(start)), start.clone()
    left = torch.arange(len(start), device=start.device)  # targets that are still searched for
    for step in tqdm(range(steps), desc="soft tokens", disable=not progress):
        optimiser.param_groups[0]["lr"] = lr * (
            0.05 + 0.475 * (1 + math.cos(math.pi * step / steps))
        )
        hooks = soft_hooks(model, vectors[left][:, None], predict_first=True)
        logits = model.run_with_hooks(targets[left, :-1], fwd_hooks=hooks)
        own = F.cross_entropy(logits.transpose(1, 2), targets[left], reduction="none").mean(dim=1)
        losses[left] = own.detach()
        # Differentiate by the vectors only: the weights may require gradients themselves.
        (gradient,) = torch.autograd.grad(own.sum(), vectors)
        if until_reached:
            reached = (logits.argmax(dim=-1) == targets[left]).all(dim=1)
            kept[left[reached]] = vectors.detach()[left[reached]]
            left = left[~reached]
            if not len(left):
                break
        norms = gradient.flatten(1).norm(dim=1).clamp_min(1.0)
        vectors.grad = gradient / norms[:, None, None]
        optimiser.step()
    kept[left] = vectors.detach()[left]
    if not bool(torch.isfinite(losses).all()):
        raise PrefixInterpError(f"lr={lr!r} made a loss NaN or infinite; choose a smaller one")
    return kept, losses


def _check(model: Model, n_out: int, n_slots: int) -> None:
    check_supported(model)
    check_free(model)
    check_positive("n_out", n_out)
    # The last emitted token is never fed.
    room = host_of(model).room(n_slots) + 1
    if n_out > room:
        raise PrefixInterpError(
            f"n_out={n_out!r} is more than the context of {host_of(model).n_ctx} holds behind the "
            f"slots; give at most {room}"
        )
