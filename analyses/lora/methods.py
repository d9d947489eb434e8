"""The methods: how large each is, and how it is tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefix_interp.models.host import Host, Model, host_of
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.tuning.contexts import sweep
from prefix_interp.tuning.edits import tune_edit
from prefix_interp.tuning.evaluate import Evaluation
from prefix_interp.tuning.lora import tune_lora
from prefix_interp.tuning.recipes import Recipe
from prefix_interp.tuning.train import ModelFit, fine_tune

Side = Literal["contexts", "weights", "edits", "full"]


class Found(NamedTuple):
    """One training.

    Attributes:
        lr: peak learning rate.
        n_parameters: counted from the tensors that were tuned.
        train_loss: the last one, in nats per output.
        evaluation: on unseen inputs.
    """

    lr: float
    n_parameters: int
    train_loss: float
    evaluation: Evaluation


@dataclass(frozen=True)
class Work:
    """What every tuning needs besides its size.

    Attributes:
        model: frozen.
        task: name.
        recipe: its rate is replaced by each of `lrs`.
        lrs: peak learning rates.
        seed: decides starts and data.
        checkpoint: returns the file to resume from, by name.
        progress: show bars.
    """

    model: Model
    task: str
    recipe: Recipe
    lrs: Sequence[float]
    seed: int
    checkpoint: Callable[[str], Path | None]
    progress: bool


@dataclass(frozen=True)
class Method:
    """One way to change what a model does.

    Attributes:
        side: which trial of the protocol tunes it.
        unit: what its size counts, e.g. ``"slot"``; empty if it has one size only.
        each: parameters of a unit, or of the whole if there is one size only.
        tune: does all trainings of a size.
    """

    side: Side
    unit: str
    each: Callable[[Host], int]
    tune: Callable[[Work, int], list[Found]]

    def units(self, model: Model, n_parameters: int) -> int:
        """Return the largest size with at most so many parameters, but at least 1."""
        return max(1, n_parameters // self.each(host_of(model))) if self.unit else 1


def _contexts(work: Work, start: Prefix | SoftPrompt) -> list[Found]:
    fits = sweep(
        work.model, work.task, [start], work.lrs, recipe=work.recipe, seed=work.seed,
        checkpoint=work.checkpoint("all-rates"), progress=work.progress,
    )  # fmt: skip
    return [Found(f.recipe.lr, f.context.n_parameters, f.train_loss, f.evaluation) for f in fits]


def _prefix(kind: Literal["residual", "kv"]) -> Callable[[Work, int], list[Found]]:
    def tune(work: Work, units: int) -> list[Found]:
        std = work.recipe.init_std
        return _contexts(work, Prefix.random(work.model, units, work.seed, kind, std))

    return tune


def _soft_prompt(work: Work, units: int) -> list[Found]:
    std = work.recipe.init_std
    return _contexts(work, SoftPrompt.random(work.model, units, work.seed, std=std))


def _each_rate(work: Work, tune: Callable[..., Any]) -> list[Found]:
    """Return what `tune` finds at each rate, one after the other."""
    found = []
    for lr in work.lrs:
        fit = tune(
            work.model, work.task, recipe=replace(work.recipe, lr=lr),
            seed=work.seed, checkpoint=work.checkpoint(f"lr-{lr}"), progress=work.progress,
        )  # fmt: skip
        if type(fit) is ModelFit:
            size = sum(p.numel() for p in fit.model.parameters() if p.requires_grad)
            loss = float(fit.history["loss"].iloc[-1])
        else:
            size, loss = fit.n_parameters, fit.train_loss
        found.append(Found(lr, size, loss, fit.evaluation))
    return found


def _lora(*targets: str) -> Method:
    def each(host: Host) -> int:
        q, kv = host.n_heads * host.d_head, host.n_kv_heads * host.d_head
        d, wide = host.d_model, host.d_mlp
        sizes = {"q": d + q, "k": d + kv, "v": d + kv, "o": q + d, "mlp_in": d + wide,
                 "mlp_out": wide + d}  # fmt: skip
        return host.n_layers * sum(sizes[target] for target in targets)

    def tune(work: Work, units: int) -> list[Found]:
        def one(*args: Any, **kwargs: Any) -> Any:
            return tune_lora(*args, rank=units, targets=targets, **kwargs)

        return _each_rate(work, one)

    return Method("weights", "rank", each, tune)


def _edit(kind: str, each: Callable[[Host], int], site: str | None = None) -> Method:
    def tune(work: Work, units: int) -> list[Found]:
        def one(*args: Any, **kwargs: Any) -> Any:
            return tune_edit(*args, kind=kind, rank=units, site=site, **kwargs)

        return _each_rate(work, one)

    return Method("edits", "rank" if kind == "low_rank" else "", each, tune)


def _all_weights(host: Host) -> int:
    return sum(p.numel() for p in host.model.parameters() if p.requires_grad)


METHODS: dict[str, Method] = {
    "prefix, residual": Method(
        "contexts", "slot", lambda h: h.n_layers * h.d_model, _prefix("residual")
    ),
    "prefix, kv": Method(
        "contexts", "slot", lambda h: 2 * h.n_layers * h.n_kv_heads * h.d_head, _prefix("kv")
    ),
    "soft prompt": Method("contexts", "slot", lambda h: h.d_model, _soft_prompt),
    "LoRA, MLP": _lora("mlp_in", "mlp_out"),
    "LoRA, attention": _lora("q", "k", "v", "o"),
    # The paper says "on the MLP"; its code also adapts the output matrix of attention.
    "LoRA, MLP and W_O": _lora("mlp_in", "mlp_out", "o"),
    "head offset": _edit("offset", lambda h: h.n_layers * h.n_heads * h.d_head),
    "head offset and scale": _edit(
        "offset_and_scale", lambda h: h.n_layers * h.n_heads * (h.d_head + 1)
    ),
    "residual edit, before attention": _edit(
        "low_rank", lambda h: 2 * h.n_layers * h.d_model, "RESID_PRE"
    ),
    "residual edit, before MLP": _edit(
        "low_rank", lambda h: 2 * h.n_layers * h.d_model, "RESID_MID"
    ),
    "full fine-tuning": Method(
        "full", "", _all_weights, lambda work, units: _each_rate(work, fine_tune)
    ),
}
PREFIXES = tuple(name for name in METHODS if name.startswith("prefix"))
LORAS = tuple(name for name in METHODS if name.startswith("LoRA"))
