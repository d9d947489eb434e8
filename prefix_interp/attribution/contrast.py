"""`contrast`: run one batch with a prefix on and off, and measure both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from prefix_interp.attribution.checks import (
    check_finite,
    check_metrics,
    check_same,
    warn_if_moved,
)
from prefix_interp.attribution.metrics import Metric, Metrics, Target, choose_metrics
from prefix_interp.attribution.pair import Contrast
from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.prefixes.guard import check_bare, check_free
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import Batch, Task, as_batch
from prefix_interp.tuning.evaluate import answer_logits
from prefix_interp.tuning.objective import check_batch


def contrast(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    n: int = 64,
    seed: int = 0,
    metrics: Metrics = ("log_prob",),
) -> Contrast:
    """Return the runs with and without `prefix` on a batch of unseen inputs, and their metrics.

    "Without" is the masked baseline: the one against which eq. 6 and 7 are exact, and the only one
    in which the prefix can be dropped at a single head. Where positions are learned it is not the
    model as it is: the content stands behind the slots. If that alone changes a metric, a warning
    says so; ``contrast.plain`` has the model's own value.

    Args:
        model: a supported model.
        prefix: a prefix that fits it, a fit of one, or the folder it was saved to.
        task: source of tokens and answers: a name, a task (its test split), or a batch of your own.
            A contrast of the same model and prefix is not run again: its logits give the metrics.
        n: number of examples of a task; a batch or a contrast is used whole.
        seed: chooses the examples of a task.
        metrics: names in `METRICS`, or functions by name.

    Raises:
        PrefixInterpError: prefix and model do not fit, unknown names, tokens outside vocabulary or
            context, answers that do not fit the tokens, half precision, hooks already on the model,
            activations that are not finite, or a contrast of another model or prefix.

    Example:
        >>> list(pi.contrast(model, prefix, task, metrics=("kl",), n=8).on)
        ['kl']
    """
    chosen, prefix = choose_metrics(metrics), as_prefix(prefix)
    check_free(model)
    check_bare(model)
    # Gradients may be needed through these runs, even if the caller has disabled them.
    with torch.inference_mode(False):
        if isinstance(task, Contrast):
            check_same(task.runs, task.model_id, model, prefix)
            pair, told = _measured(task, chosen), task.metrics
        else:
            check_positive("n", n)
            name, batch = as_batch(task, n, seed)
            pair, told = _measured(_run(model, prefix, batch, name), chosen), {}
        off = {k: x for k, x in pair.off.items() if k not in told}
        warn_if_moved(off, pair.plain, prefix.n_slots)
        return pair


def _run(model: Model, prefix: Prefix, batch: Batch, name: str) -> Contrast:
    """Return both runs, with no metric measured yet."""
    host = host_of(model)
    if host.dtype not in (torch.float32, torch.float64):
        raise PrefixInterpError(
            f"model is {host.dtype}, too coarse to compare runs; convert it with "
            "to_dtype(model, torch.float32)"
        )
    keep = prefix.keeps_positions
    check_batch(model, batch, prefix.n_slots, keep=keep, name=name)
    batch = batch.to(host.device)
    runs = run_pair(model, prefix, batch.tokens)
    check_finite(runs)
    on, off = (batch.read(logits) for logits in (runs.logits_on, runs.logits_off))
    moved = host.content_start(prefix.n_slots, keep=keep) != host.content_start(0)
    plain = answer_logits(model, batch) if moved and host.learned_positions else off
    target = Target(batch.answers, on, off, plain, batch.foils)
    return Contrast(runs, batch, target, {}, {}, {}, {}, name, model_id(model))


def _measured(both: Contrast, metrics: Mapping[str, Metric]) -> Contrast:
    """Return the same runs with other metrics."""
    check_metrics(metrics, both.target)
    target = both.target
    on, off, plain = (
        {name: metric(logits, target) for name, metric in metrics.items()}
        for logits in (target.logits_on, target.logits_off, target.plain)
    )
    return replace(both, metrics=metrics, on=on, off=off, plain=plain)
