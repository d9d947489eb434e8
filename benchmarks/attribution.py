"""Patching sweeps and their first-order estimate against TransformerLens's own helpers.

The helpers compute no gradients. "Sweep" times only the patches, not the runs with and without the
prefix; "whole" times these runs too, on both sides.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import pandas as pd
import torch
from transformer_lens import ActivationCache, HookedTransformer, patching

import prefix_interp as pi
from benchmarks.compare import Ratio, compare
from prefix_interp.attribution.contrast import Contrast, contrast
from prefix_interp.attribution.gradients import attribution_patch
from prefix_interp.attribution.patching import Cell, patch_cells, patch_heads
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import masked_hooks
from prefix_interp.theory.subspace import bias_subspaces

N_LAYERS, N_HEADS, D_MODEL, N_PREFIX, BATCH = 4, 4, 256, 1, 32


class Case(NamedTuple):
    """A model with a prefix, a batch, and what each side needs before it starts."""

    model: HookedTransformer
    prefix: pi.Prefix
    batch: pi.Batch
    pair: Contrast
    cache: ActivationCache


@cache
def make_case() -> Case:
    """Return an untrained toy: what it has learned does not change how long it runs."""
    model = pi.build_toy(pi.ToyConfig(N_LAYERS, N_HEADS, D_MODEL, N_PREFIX))
    prefix = pi.Prefix.random(model, N_PREFIX)
    batch = pi.get_task("four_skills").sample(BATCH, split="test")
    pair = contrast(model, prefix, batch)
    return Case(model, prefix, batch, pair, both_runs(model, prefix, batch))


def both_runs(model: HookedTransformer, prefix: pi.Prefix, batch: pi.Batch) -> ActivationCache:
    """Do the runs that a sweep needs: a cached run with the prefix, a plain one without."""
    with torch.no_grad():
        model.run_with_hooks(batch.tokens, fwd_hooks=masked_hooks(model, N_PREFIX))
        with pi.attach(model, prefix):
            return model.run_with_cache(batch.tokens)[1]


def theirs(
    case: Case, helper: Callable[..., torch.Tensor], whole: bool = False, **options: object
) -> torch.Tensor:
    """Run a helper of TransformerLens that puts the prefixed cache into the masked model."""
    answers = case.batch.answers
    cache = both_runs(case.model, case.prefix, case.batch) if whole else case.cache

    def metric(logits: torch.Tensor) -> torch.Tensor:
        logs = logits[:, -answers.shape[1] :].log_softmax(-1)
        return logs.gather(-1, answers[..., None]).mean()

    hooks = masked_hooks(case.model, N_PREFIX)
    silence = contextlib.redirect_stderr(io.StringIO())
    with torch.no_grad(), silence, case.model.hooks(fwd_hooks=hooks):
        return helper(case.model, case.batch.tokens, cache, metric, **options)


def heads() -> Iterator[Ratio]:
    """Compare the sweep over heads."""
    case = make_case()
    three = case.model, case.prefix, case.batch
    cells = [Cell(Site.Z, *at) for at in itertools.product(range(N_LAYERS), range(N_HEADS))]
    ours = partial(patch_heads, *three, progress=False)
    peer = partial(theirs, case, patching.get_act_patch_attn_head_out_all_pos)
    _check_equal(ours().values["log_prob"].mean(-1), peer())
    work, name = f"{len(cells)} patches of z by head", "TransformerLens"
    sweep = partial(patch_cells, case.pair, cells, "denoise", False)
    yield compare(f"{work}, sweep", sweep, name, peer)
    yield compare(f"{work}, whole", ours, name, partial(peer, whole=True))


def positions() -> Iterator[Ratio]:
    """Compare the sweep over heads and positions, and the estimate that stands in for it."""
    case = make_case()
    three, n_pos = (case.model, case.prefix, case.batch), case.batch.tokens.shape[1]
    rows = range(N_PREFIX, N_PREFIX + n_pos)  # theirs counts from the first row, which is a slot
    grid = itertools.product(range(N_LAYERS), rows, range(N_HEADS))
    peer = partial(
        theirs, case, patching.get_act_patch_attn_head_out_by_pos, whole=True,
        index_axis_names=None, index_df=pd.DataFrame(grid),
    )  # fmt: skip
    exact = partial(patch_heads, *three, by_position=True, progress=False)
    found = exact().values["log_prob"].mean(-1).transpose(1, 2)
    _check_equal(found.flatten(), peer())
    work, name = f"{found.numel()} patches of z by head and position, whole", "TransformerLens"
    yield compare(work, exact, name, peer, rounds=3)
    yield compare(
        f"{work}, estimated by gradients", partial(attribution_patch, *three, by_position=True),
        f"exact ones of {name}", peer, rounds=3,
    )  # fmt: skip


def subspaces() -> Iterator[Ratio]:
    """Compare the biases' subspaces of a whole model from one pair of runs with a loop of heads."""
    case = make_case()
    tokens = case.batch.tokens

    def at_once() -> list[int]:
        layers = (bias_subspaces(case.model, case.prefix, tokens, i)[:-1] for i in range(N_LAYERS))
        return [head.rank for layer in layers for head in layer]

    def one_by_one() -> list[int]:
        cells = itertools.product(range(N_LAYERS), range(N_HEADS))
        return [pi.bias_subspace(case.model, case.prefix, tokens, *at).rank for at in cells]

    assert at_once() == one_by_one()
    yield compare(
        f"subspaces of the bias, {N_LAYERS * N_HEADS} heads", at_once, "head by head", one_by_one,
        rounds=5,
    )  # fmt: skip


def _check_equal(ours: torch.Tensor, peer: torch.Tensor) -> None:
    difference = float((ours - peer).abs().max())
    assert difference < 1e-5, f"the peers differ by {difference:.1e}"


ALL = (heads, positions, subspaces)
