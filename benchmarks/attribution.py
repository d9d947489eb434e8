"""Patching sweeps and their first-order estimate against TransformerLens's own helpers.

python benchmarks/attribution.py

Every ratio comes from one run in which the peers take turns, and the helpers compute no gradients.
"Sweep" times only the patches, not the runs with and without the prefix; "whole" times these runs
too, on both sides.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from speed import median_seconds
from transformer_lens import ActivationCache, HookedTransformer, patching

import prefix_interp as pi
from prefix_interp.attribution.contrast import Contrast, contrast
from prefix_interp.attribution.gradients import attribution_patch
from prefix_interp.attribution.patching import Cell, patch_cells, patch_heads
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import masked_hooks

N_LAYERS, N_HEADS, D_MODEL, N_PREFIX, BATCH = 4, 4, 256, 1, 32


class Case(NamedTuple):
    """A model with a prefix, a batch, and what each side needs before it starts."""

    model: HookedTransformer
    prefix: pi.Prefix
    batch: pi.Batch
    pair: Contrast
    cache: ActivationCache


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


def heads(case: Case) -> None:
    """Compare the sweep over heads."""
    three = case.model, case.prefix, case.batch
    cells = [Cell(Site.Z, *at) for at in itertools.product(range(N_LAYERS), range(N_HEADS))]
    ours = partial(patch_heads, *three, progress=False)
    sweep = partial(patch_cells, case.pair, cells, "denoise", False)
    peer = partial(theirs, case, patching.get_act_patch_attn_head_out_all_pos)
    difference = (ours().values["log_prob"].mean(-1) - peer()).abs().max()
    a, b, c, d = median_seconds(peer, sweep, partial(peer, whole=True), ours, rounds=9)
    print(
        f"{len(cells)} patches of z by head, sweep: TransformerLens {a * 1e3:.0f} ms, ours "
        f"{b * 1e3:.0f} ms, ratio {a / b:.2f}; whole: {c * 1e3:.0f} ms, {d * 1e3:.0f} ms, ratio "
        f"{c / d:.2f}; largest difference {difference:.1e}"
    )


def positions(case: Case) -> None:
    """Compare the sweep over heads and positions, and the estimate that stands in for it."""
    three, n_pos = (case.model, case.prefix, case.batch), case.batch.tokens.shape[1]
    rows = range(N_PREFIX, N_PREFIX + n_pos)  # theirs counts from the first row, which is a slot
    grid = itertools.product(range(N_LAYERS), rows, range(N_HEADS))
    peer = partial(
        theirs,
        case,
        patching.get_act_patch_attn_head_out_by_pos,
        index_axis_names=None,
        index_df=pd.DataFrame(grid),
    )
    exact = partial(patch_heads, *three, by_position=True, progress=False)
    estimate = partial(attribution_patch, *three, by_position=True)
    found = exact()
    ours = found.values["log_prob"].mean(-1).transpose(1, 2)
    difference = (ours.flatten() - peer()).abs().max()
    a, b, c = median_seconds(partial(peer, whole=True), exact, estimate, rounds=3)
    print(
        f"{ours.numel()} patches of z by head and position, whole: TransformerLens {a:.2f} s, ours "
        f"{b:.2f} s, ratio {a / b:.2f}; largest difference {difference:.1e}"
    )
    print(
        f"attribution patching {c * 1e3:.0f} ms: {a / c:.0f} times as fast as TransformerLens's "
        f"patches, {b / c:.1f} times as fast as ours"
    )
    print(f"agreement of the estimate with the patches: {estimate().compare_with(found)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    case = make_case()
    heads(case)
    positions(case)
