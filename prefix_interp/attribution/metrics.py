"""How well a run answers, one number per example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.tasks import NO_ANSWER, mean_over_answers
from prefix_interp.tasks.choice import beats_foils, logits_at

Logits = Float[Tensor, "*stack batch n_out d_vocab"]


class Target(NamedTuple):
    """What the metrics compare a run with.

    Attributes:
        answers: the right outputs; -100 where an example has none.
        logits_on: at the outputs, with the prefix.
        logits_off: at the outputs, without it (masked baseline).
        logits_plain: at the outputs, of the model as it is; None for those without the prefix.
        foils: the tokens that each answer is compared with (see `Batch`); None: all others.
    """

    answers: Int[Tensor, "batch n_out"]
    logits_on: Float[Tensor, "batch n_out d_vocab"]
    logits_off: Float[Tensor, "batch n_out d_vocab"]
    logits_plain: Float[Tensor, "batch n_out d_vocab"] | None = None
    foils: Int[Tensor, "batch n_out n_foil"] | None = None

    @property
    def plain(self) -> Float[Tensor, "batch n_out d_vocab"]:
        """Return the logits at the outputs of the model as it is."""
        return self.logits_off if self.logits_plain is None else self.logits_plain


Metric = Callable[[Logits, Target], Float[Tensor, "*stack batch"]]
Metrics = Iterable[str] | Mapping[str, Metric]


def answer_log_prob(logits: Logits, target: Target) -> Float[Tensor, "*stack batch"]:
    """Return the log-probability of the right answer in nats, mean over outputs; at most 0."""
    return _mean(_at(logits.log_softmax(dim=-1), target.answers), target)


def logit_difference(logits: Logits, target: Target) -> Float[Tensor, "*stack batch"]:
    """Return the logit of the right answer minus that of a foil, mean over outputs.

    The foil is the wrong token with the highest logit in the run without prefix, of those that a
    multiple choice names, else of all. It is fixed across interventions, so the metric is linear in
    the logits.
    """
    off, answers = target.logits_off, target.answers.clamp(min=0)
    if target.foils is None:
        foils = off.scatter(-1, answers[..., None], -torch.inf).argmax(dim=-1)
    else:
        best = logits_at(off, target.foils).argmax(dim=-1, keepdim=True)
        foils = target.foils.gather(-1, best).squeeze(-1)
    return _mean(_at(logits, answers) - _at(logits, foils), target)


def kl_to_prefixed(logits: Logits, target: Target) -> Float[Tensor, "*stack batch"]:
    """Return KL(with prefix || run) in nats, mean over outputs; 0 for the prefixed run itself."""
    wanted = target.logits_on.log_softmax(dim=-1)
    return _mean((wanted.exp() * (wanted - logits.log_softmax(dim=-1))).sum(dim=-1), target)


def exact_match(logits: Logits, target: Target) -> Float[Tensor, "*stack batch"]:
    """Return 1 if every output is right under teacher forcing, else 0."""
    right = (logits.argmax(dim=-1) == target.answers) | (target.answers == NO_ANSWER)
    return right.all(dim=-1).to(logits.dtype)


def choice(logits: Logits, target: Target) -> Float[Tensor, "*stack batch"]:
    """Return 1 if every answer has a higher logit than each of its foils, else 0.

    Without foils all other tokens are foils: `exact_match`.
    """
    if target.foils is None:
        return exact_match(logits, target)
    return beats_foils(logits, target.answers, target.foils).to(logits.dtype)


METRICS: dict[str, Metric] = {
    "log_prob": answer_log_prob,
    "logit_difference": logit_difference,
    "kl": kl_to_prefixed,
    "exact_match": exact_match,
    "choice": choice,
}


def choose_metrics(chosen: Metrics) -> dict[str, Metric]:
    """Return metrics by name.

    Args:
        chosen: names in `METRICS`, or metrics of your own by name.

    Raises:
        PrefixInterpError: an unknown name, or none at all.
    """
    if isinstance(chosen, str):
        chosen = (chosen,)
    if callable(chosen):
        name = getattr(chosen, "__name__", "mine")
        raise PrefixInterpError(
            f"metrics={name} is a function without a name; give {{{name!r}: {name}}}"
        )
    if isinstance(chosen, Mapping):
        found = dict(chosen)
    else:
        for name in (chosen := tuple(chosen)):
            check_choice("metrics", name, METRICS)
        found = {name: METRICS[name] for name in chosen}
    if not found:
        raise PrefixInterpError(f"metrics=() is empty; name one of {', '.join(METRICS)}")
    return found


def choose_metric(chosen: str | Mapping[str, Metric]) -> dict[str, Metric]:
    """Return one metric by name.

    Args:
        chosen: a name in `METRICS`, or one metric of your own by name.

    Raises:
        PrefixInterpError: an unknown name, none at all, or several.
    """
    if isinstance(chosen, str):
        check_choice("metric", chosen, METRICS)
    found = choose_metrics(chosen)
    if len(found) > 1:
        raise PrefixInterpError(f"metric={list(found)} are several; give one")
    return found


def recovered(
    value: Float[Tensor, "*grid"], off: Float[Tensor, "*off"], on: Float[Tensor, "*on"]
) -> Float[Tensor, "*grid"]:
    """Return (value - off) / (on - off): 0 without the prefix, 1 with it.

    Pass means over examples: a single example on which the prefix changes nothing divides by 0, and
    the result is infinity or NaN.

    Args:
        value: of the intervened run.
        off: of the run without prefix.
        on: of the run with it.
    """
    return (value - off) / (on - off)


def ends(
    on: Mapping[str, Float[Tensor, " batch"]],
    off: Mapping[str, Tensor],
    plain: Mapping[str, Tensor] | None = None,
) -> str:
    """Return the mean of each metric without the prefix and with it, in words.

    Args:
        on: with the prefix.
        off: without it.
        plain: of the model as it is; named where it is not `off`.
    """

    def words(name: str) -> str:
        own = off if plain is None else plain
        same = torch.equal(own[name], off[name])
        first = "" if same else f"{own[name].mean():.4g} plain, "
        return f"{name} {first}{off[name].mean():.4g} off, {on[name].mean():.4g} on"

    return ", ".join(map(words, on))


def _at(x: Logits, tokens: Int[Tensor, "batch n_out"]) -> Float[Tensor, "*stack batch n_out"]:
    return logits_at(x, tokens.clamp(min=0)[..., None]).squeeze(-1)


def _mean(values: Float[Tensor, "*stack batch n_out"], target: Target) -> Tensor:
    return mean_over_answers(values, target.answers)
