"""Which heads a prefix elicits, and by which part of its effect on them.

A head's total effect is split into gate, bias and propagated (see `coalitions`) and compared with
the effects of random prefixes at the same head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.coalitions import (
    PARTS,
    coalition_values,
    shapley_values,
)
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.controls import (
    check_controls,
    head_effects,
    random_prefixes,
)
from prefix_interp.attribution.elicited import Elicitation
from prefix_interp.attribution.grid import Direction
from prefix_interp.attribution.metrics import Metric, choose_metric
from prefix_interp.attribution.pair import Contrast
from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.norms import read_before
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import Batch, Task, mean_over_answers
from prefix_interp.theory.decompose import Decomposition, decompose_attention


def head_elicitation(
    model: Model,
    prefix: ContextLike,
    task: Task | Batch | Contrast | str,
    *,
    direction: Direction | str = "denoise",
    metric: str | Mapping[str, Metric] = "log_prob",
    n_random: int = 39,
    controls: Mapping[str, Prefix] | None = None,
    n: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> Elicitation:
    """Return which heads a prefix elicits: its effect through each head, in parts, and controls.

    Every control is compared with its own run without prefix on the same batch, and with
    ``metric="kl"`` also with its own prefixed run.

    Args:
        model: a supported model.
        prefix: a prefix that fits it.
        task: a task, its name, a batch of your own, or a `Contrast` already made, with at least
            2 examples.
        direction: ``"denoise"`` or ``"noise"``.
        metric: a name in `METRICS`, or one metric of your own by name.
        n_random: draws of each random control, at least 2; 39 draws allow a level of 95%.
        controls: prefixes to compare with by name, e.g. another task's or another seed's.
        n: number of examples of a task; a batch or contrast is used whole.
        seed: chooses the examples of a task, and the random prefixes.
        progress: show a bar.

    Raises:
        PrefixInterpError: as in `contrast`, an unknown direction or metric, controls that do not
            fit or whose name is taken, or too few examples or draws.

    Example:
        >>> found = pi.head_elicitation(model, prefix, task, n=8, n_random=2, progress=False)
        >>> tuple(found.effect.shape)  # layer, head, example
        (1, 4, 8)
    """
    check_choice("direction", direction, ("denoise", "noise"))
    (name,) = chosen = choose_metric(metric)
    check_positive("n_random", n_random)
    if n_random < 2:
        raise PrefixInterpError("n_random=1 makes an interval of level 0; give at least 2")
    prefix = as_prefix(prefix)
    named = check_controls(model, prefix, controls)
    pair = contrast(model, prefix, task, n=n, seed=seed, metrics=chosen)
    if pair.n_batch < 2:
        raise PrefixInterpError("n=1 example has no interval; give at least 2")
    drawn = random_prefixes(model, prefix, n_random, seed)
    steps = 1 + host_of(model).n_layers + sum(map(len, drawn.values())) + len(named)
    with tqdm(total=steps, desc=f"eliciting, {direction}", disable=not progress) as bar:
        (effect,) = head_effects(pair, [prefix], direction, bar)
        parts = decompose_attention(pair.runs)
        values = coalition_values(pair, parts, direction, effect, bar)
        found = {k: head_effects(pair, group, direction, bar) for k, group in drawn.items()}
        for who, control in named.items():  # its slots may differ, and so its plain run
            own = contrast(model, control, pair.batch, metrics=chosen)
            found[who] = head_effects(own, [control], direction, bar)
    split = shapley_values(values)
    alone = values[[1 << i for i in range(len(PARTS))]] - values[0]
    return Elicitation(
        direction=direction,
        metric=name,
        effect=effect,
        interaction=effect - alone.sum(dim=0),
        logit_attribution=bias_logit_attribution(pair, parts),
        on=pair.on[name],
        off=pair.off[name],
        plain=pair.plain[name],
        controls=found,
        **dict(zip(PARTS, split, strict=True)),
    )


def bias_logit_attribution(
    pair: Contrast, parts: Decomposition
) -> Float[Tensor, "layer head batch"]:
    """Return how much each head's bias raises the right answer's logit above the mean logit.

    This counts only the direct path: b W_O through the final norm and the unembedding, before any
    cap on logits. The norm's scale is frozen at that of the prefixed run, which makes it linear.
    Later layers and MLPs are left out, so a head whose bias only an MLP reads shows nothing here:
    compare with its effect.

    Args:
        pair: from `contrast`.
        parts: its decomposition.

    Returns:
        Logits, mean over outputs.
    """
    host, batch = host_of(pair.model), pair.batch
    answers = batch.answers.clamp(min=0)
    with torch.no_grad():
        read = host.W_U.T[answers] - host.W_U.mean(dim=-1)  # batch n_out d_model
        last = pair.activation("on", Site.RESID_POST, host.n_layers - 1)
        read = read_before(host.final_norm, batch.read(last), read)
        found = []
        for layer, bias in enumerate(parts.bias):
            attn = host.attention(layer)
            out = attn.written(pair.activation("on", Site.Z, layer)) + attn.b_O
            own = read_before(attn.norm_behind, batch.read(out), read)
            written = einsum(
                batch.read(bias.transpose(0, 1)),
                attn.W_O,
                "head batch n_out d_head, head d_head d_model -> batch head n_out d_model",
            )
            raised = einsum(
                written, own, "batch head n_out d_model, batch n_out d_model -> head batch n_out"
            )
            found.append(mean_over_answers(raised, batch.answers))
        return torch.stack(found).double()
