"""Does a prefix need the subspace of its bias, and is that subspace enough?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from analyses.study import Rows
from prefix_interp.estimates import mean_interval, wilson
from prefix_interp.models.host import Model
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.baselines import RunPair, run_pair
from prefix_interp.prefixes.layout import answer_rows_hooks, offset_hooks
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_seed
from prefix_interp.tasks import Batch
from prefix_interp.theory.projection import projection_hooks, random_subspace_like
from prefix_interp.theory.subspace import BiasSubspace

Spaces = Sequence[BiasSubspace]


class Removal(NamedTuple):
    """One row to measure: one set of subspaces per draw, and how to remove them.

    Attributes:
        run: ``"on"`` with the prefix, ``"off"`` without it (masked baseline).
        level: ``"head"``, ``"layer"``, or None if nothing is removed.
        space: ``"none"``, ``"own"``, ``"random"``, ``"other"`` or ``"content"``.
        remove: as for `projection_hooks`; None if nothing is removed.
        draws: sets of subspaces, each removed alone; the row is the mean.
    """

    run: str
    level: str | None
    space: str
    remove: str | None
    draws: Sequence[Spaces]


def removals(
    own: Spaces, others: Sequence[Spaces], content: Spaces, draws: int, seed: int
) -> Iterator[Removal]:
    """Yield every removal of the study.

    Spaces: the bias's own; random ones of equal rank; those of the prefixes for other tasks (one
    draw each); and ``"content"``, equally many of the strongest directions of what the pretrained
    heads write. The last three control for the rank, the task and the size of what is removed. In
    the run without prefix, the same removals show how much of the pretrained computation lies in
    the subspace.

    Args:
        own: the prefix's subspaces, of every head and layer.
        others: those of other prefixes.
        content: content subspaces of every head.
        draws: number of random sets.
        seed: decides the random sets.
    """
    yield Removal("on", None, "none", None, [()])
    yield Removal("off", None, "none", None, [()])
    for level in ("head", "layer"):
        here = [s for s in own if s.level == level]
        chance = [
            [random_subspace_like(s, derive_seed(seed, "draw", i)) for s in here]
            for i in range(draws)
        ]
        elsewhere = [[s for s in other if s.level == level] for other in others]
        for remove in ("output", "restore", "isolate"):
            yield Removal("on", level, "own", remove, [here])
            yield Removal("on", level, "random", remove, chance)
            if elsewhere:
                yield Removal("on", level, "other", remove, elsewhere)
        if level == "head":  # for a layer both are the same
            yield Removal("on", level, "own", "bias", [here])
        yield Removal("off", level, "own", "output", [here])
        yield Removal("off", level, "random", "output", chance)
    yield Removal("on", "head", "content", "output", [content])
    yield Removal("on", "head", "content", "restore", [content])
    yield Removal("off", "head", "content", "output", [content])


def removal_rows(
    about: dict[str, Any],
    model: Model,
    prefix: Prefix,
    batch: Batch,
    chosen: Iterator[Removal],
) -> Rows:
    """Return one row per removal: exact match, token accuracy and loss on one batch.

    Each metric has ``value``, its 95% interval over sequences ``low`` and ``high`` and, if there
    are several draws, ``min`` and ``max`` over draws. ``late_token_accuracy`` is token accuracy in
    the second half of the outputs, where earlier answers have shown a model without prefix which
    skill to use.

    Args:
        about: keys that describe every row.
        model: a supported model.
        prefix: a prefix that fits it.
        batch: unseen sequences.
        chosen: from `removals`.
    """
    pair, rows = run_pair(model, prefix, batch.tokens), []
    for one in chosen:
        logits = [_logits(pair, batch, one, spaces) for spaces in one.draws]
        rows.append(
            {
                **about,
                "run": one.run,
                "level": one.level,
                "space": one.space,
                "remove": one.remove,
                "draws": len(one.draws),
                "n": len(batch.tokens),
                **_scores(torch.stack(logits), batch),
            }
        )
    return rows


def _logits(
    pair: RunPair, batch: Batch, one: Removal, spaces: Spaces
) -> Float[Tensor, "batch n_out d_vocab"]:
    """Return the logits at the outputs, with `spaces` removed."""
    model, n_out = pair.model, batch.answers.shape[1]
    # The bias is read from the slots' columns; other removals are equal, and faster, without slots.
    slots = one.remove == "bias"
    hooks = [] if slots else answer_rows_hooks(model, n_out)
    if one.remove is not None:
        hooks += projection_hooks(
            model,
            spaces,
            one.remove,
            plain=pair.off if one.remove in ("restore", "isolate") else None,
            prefix=pair.prefix if slots else None,
        )
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if one.run == "on":
            stack.enter_context(attach(model, pair.prefix, "slots" if slots else "mixture"))
        else:
            hooks = [*offset_hooks(model, pair.prefix.n_slots), *hooks]
        stack.enter_context(model.hooks(fwd_hooks=hooks))
        return model(pair.tokens)[:, -n_out:]


def _scores(logits: Float[Tensor, "draw batch n_out d_vocab"], batch: Batch) -> dict[str, Any]:
    logits, right = logits.cpu(), batch.answers.cpu()
    hits: Bool[Tensor, "draw batch n_out"] = logits.argmax(dim=-1) == right
    answers = right.expand(len(logits), -1, -1)
    losses = F.cross_entropy(logits.flatten(0, 2), answers.flatten(), reduction="none")
    late = hits[..., hits.shape[-1] // 2 :]
    return {
        "exact_match": _spread(hits.all(dim=-1), share=True),
        "token_accuracy": _spread(hits.double().mean(dim=-1), share=True),
        "late_token_accuracy": _spread(late.double().mean(dim=-1), share=True),
        "loss": _spread(losses.view(answers.shape).mean(dim=-1), share=False),
    }


def _spread(values: Tensor, share: bool) -> dict[str, float]:
    """Return mean and interval over sequences, and the range over draws (``draw batch``)."""
    values = values.double()
    each, mean = values.mean(dim=1), values.mean(dim=0)
    n = len(mean)
    found = wilson(min(float(mean.sum()), n), n) if share else mean_interval(mean)
    draws = {"min": float(each.min()), "max": float(each.max())} if len(each) > 1 else {}
    return found.to_dict() | draws
