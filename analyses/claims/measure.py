"""The claims of the report, measured on shipped models: number, tolerance and verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.claims.accuracy import accuracy_claims, control_claims
from analyses.claims.claim import EXACT, VISIBLE, claim_record
from analyses.claims.zoo import N_SEQUENCES, Zoo, load_zoo, zoo_runs
from analyses.study import Job, Rows
from analyses.table1.measure import FINE_TUNED, NEW, PRETRAINED
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.baselines import RunPair, baseline_pattern
from prefix_interp.prefixes.inject import prefix_cache
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.theory.decompose import Decomposition
from prefix_interp.theory.subspace import bias_subspace


@dataclass(frozen=True)
class Protocol:
    """Sizes of one preset.

    Attributes:
        n_count: number of training sequences to estimate the content-blind rule from.
    """

    n_count: int = 400_000


PROTOCOLS = {"fast": Protocol(), "smoke": Protocol(2000)}


def settings(preset: str) -> dict[str, Any]:
    """Return what a result records about a preset besides the protocol."""
    return {
        "pretrained": PRETRAINED,
        "fine_tuned": FINE_TUNED,
        "task": NEW,
        "split": "test",
        "sequences": N_SEQUENCES,
        "dtype": "float64",
    }


def measure(job: Job) -> dict[str, Rows]:
    """Return the table ``claims``: every claim of the report, on the shipped models and results.

    A record is one claim about one subject: ``claim``, ``statement``, ``formula``, ``quantity``
    (what was measured), ``value``, ``comparison`` and ``tolerance`` (what it is compared with),
    ``verdict``, ``subject``, ``parameterization``, ``n_slots``, ``level``, ``layer``, ``baseline``,
    ``low`` and ``high`` (95%, for new seeds and new test sequences, where there are seeds) and
    ``note``.

    Args:
        job: its evidence contains the models and the result of Table 1.
    """
    evidence = job.evidence
    assert evidence is not None
    zoo, runs = evidence.once(load_zoo), evidence.once(zoo_runs)
    rows: Rows = []
    for name, (pair, parts) in runs.items():
        rows += _prefix_claims(zoo, name, pair, parts)
    rows += _fine_tuning_claims(zoo)
    if evidence.result("table1") is not None:
        rows += accuracy_claims(evidence.tables("table1"))
    return {"claims": rows + list(control_claims(job.seed, job.protocol.n_count))}


def plain_difference_spectrum(
    parts: Decomposition, layer: int = 0, head: int = 0
) -> Float[Tensor, " direction"]:
    """Return the singular values of z_pt - t, which is *not* of low rank: the gate scales t.

    Args:
        parts: from `decompose_attention`.
        layer: 0-based.
        head: 0-based.
    """
    moved = parts.output[layer, :, head] - parts.base[layer, :, head]
    return torch.linalg.svdvals(moved.flatten(0, 1))


def total_variation(
    a: Float[Tensor, "*batch key"], b: Float[Tensor, "*batch key"]
) -> Float[Tensor, "*batch"]:
    """Return the total variation distance of attention rows, 0 (equal) to 1 (disjoint)."""
    return (a - b).abs().sum(-1) / 2


def _about(subject: str, prefix: Prefix | None, level: str, layer: int | None) -> dict[str, Any]:
    return {
        "subject": subject,
        "parameterization": None if prefix is None else prefix.parameterization,
        "n_slots": None if prefix is None else prefix.n_slots,
        "level": level,
        "layer": layer,
        "baseline": "masked",
    }


def _prefix_claims(zoo: Zoo, name: str, pair: RunPair, parts: Decomposition) -> Rows:
    model, prefix, answers = zoo.pretrained, pair.prefix, slice(-zoo.n_out, None)
    found = []
    for layer in range(host_of(model).n_layers):
        for head in range(host_of(model).n_heads):
            about = _about(name, prefix, f"head {head}", layer)
            found += _head_claims(about, pair, parts, layer, head, answers)
        space = bias_subspace(model, prefix, zoo.tokens, layer)
        about = _about(name, prefix, "layer", layer)
        found.append(_rank_claim(about, space.singular_values, space.bound))
    about = _about(name, prefix, "model", None) | {"baseline": "none: all runs have the prefix"}
    found.append(_injection_claim(about, pair))
    if prefix.vectors is not None and host_of(model).n_layers == 1:
        found.append(_suffix_claim(about, pair, zoo.n_out))
    return found


def _head_claims(
    about: Mapping[str, Any], pair: RunPair, parts: Decomposition, layer: int, head: int,
    answers: slice,
) -> Rows:  # fmt: skip
    n = pair.prefix.n_slots
    gate = parts.gate[layer, :, head, answers]
    error = parts.residual[layer, :, head].abs().max() / parts.output[layer, :, head].abs().max()
    plain = plain_difference_spectrum(parts, layer, head)
    space = bias_subspace(pair.model, pair.prefix, pair.tokens, layer, head)
    before = pair.off[Site.PATTERN.at(layer)][:, head, answers, -pair.tokens.shape[1] :]
    moved = total_variation(parts.content_pattern[layer, :, head, answers], before)
    # Beyond the first layer the layer's input differs, so no theorem applies.
    line: dict[str, Any] = {"comparison": "at most", "tolerance": EXACT} if layer == 0 else {}
    return [
        claim_record(
            about, "eq6", "A prefix scales the attention to the content and changes nothing else.",
            "A_pt = (1 - g) A", "largest |A_pt - (1 - g) A| over all sequences and positions",
            float(parts.pattern_residual[layer, :, head].abs().max()), "at most", EXACT,
        ),
        claim_record(
            about, "relative-attention", "A prefix leaves relative attention to the content as it "
            "was.", "A_pt / (1 - g) = A", "largest total variation distance at the positions that "
            "predict outputs", float(moved.max()), **line,
        ),
        claim_record(
            about, "eq7", "A head's output is the scaled pretrained output plus a bias.",
            "z_pt = (1 - g) t + sum_p A_p v_p", "largest |residual| over largest |z_pt|",
            float(error), "at most", EXACT,
        ),
        _rank_claim(about, space.singular_values, space.bound),
        claim_record(
            about, "plain-difference", "The plain difference to the pretrained output is not of "
            "low rank: rank statements are about the bias alone.", "rank(z_pt - t) > n_s",
            f"singular value {n + 1} of z_pt - t over the first", float(plain[n] / plain[0]),
            "above", VISIBLE,
        ),
        claim_record(
            about, "gate-mean", "How much attention the prefix takes.", "g = sum_p A_p",
            "mean gate at the positions that predict outputs", float(gate.mean()),
        ),
        claim_record(
            about, "gate-max", "How much attention the prefix takes.", "g = sum_p A_p",
            "largest gate at the positions that predict outputs", float(gate.max()),
        ),
    ]  # fmt: skip


def _rank_claim(
    about: Mapping[str, Any], values: Float[Tensor, " direction"], bound: int
) -> dict[str, Any]:
    if about["level"] == "layer":
        where, words = "n_s n_heads", "a layer lies in at most slots times heads directions"
    else:
        where, words = "n_s", "a head lies in at most as many directions as the prefix has slots"
    return claim_record(
        about, "bias-rank", f"The bias of {words}.",
        f"rank(z_pt - (1 - g) t) <= {where}", f"singular value {bound + 1} over the first",
        float(values[bound] / values[0]), "at most", EXACT,
    )  # fmt: skip


def _injection_claim(about: Mapping[str, Any], pair: RunPair) -> dict[str, Any]:
    model, prefix, tokens = pair.model, pair.prefix, pair.tokens
    runs: dict[str, Callable[[], Tensor]] = {"mixture": lambda: _mixture_logits(pair)}
    if prefix.n_slots == host_of(model).n_reserved:
        # A cache puts content directly after the slots; in a toy only this n_s puts it there.
        cache = prefix_cache(model, prefix, len(tokens))
        mask = torch.ones_like(tokens)
        runs["cache"] = lambda: model(tokens, past_kv_cache=cache, attention_mask=mask)
    with torch.no_grad():
        gaps = [float((run() - pair.logits_on).abs().max()) for run in runs.values()]
    ways = ", ".join(["slots", *runs])
    return claim_record(
        about, "injections", "Every way to inject the prefix gives the same logits.",
        "logits(" + ") = logits(".join(["slots", *runs]) + ")",
        f"largest difference of a logit between {ways}", max(gaps), "at most", EXACT,
        note="" if "cache" in runs else "No cache: this toy's content stands at position 1, "
        f"not {prefix.n_slots}.",
    )  # fmt: skip


def _suffix_claim(about: Mapping[str, Any], pair: RunPair, n_out: int) -> dict[str, Any]:
    assert pair.prefix.vectors is not None
    position = pair.tokens.shape[1] - n_out + 1  # behind the input
    suffix = SoftPrompt(pair.prefix.vectors, position, "all")
    with torch.no_grad(), attach(pair.model, suffix):
        gap = (pair.model(pair.tokens) - pair.logits_on)[:, position:].abs().max()
    return claim_record(
        about, "suffix-is-prefix", "In one layer the same vectors behind the input, written at "
        "every layer, do at the outputs behind them what they do as a prefix.",
        "suffix = prefix, behind the slots",
        "largest difference of a logit at the positions behind the slots", float(gap),
        "at most", EXACT, note="The first output is read at the last slot of a suffix.",
    )  # fmt: skip


def _mixture_logits(pair: RunPair) -> Float[Tensor, "batch pos d_vocab"]:
    with attach(pair.model, pair.prefix, "mixture"):
        return pair.model(pair.tokens)


def _fine_tuning_claims(zoo: Zoo) -> Rows:
    about = _about(FINE_TUNED, None, "all heads", 0)
    before = baseline_pattern(zoo.pretrained, zoo.tokens)
    after = baseline_pattern(zoo.fine_tuned, zoo.tokens)
    moved = total_variation(after, before)[:, :, -zoo.n_out :]
    words = "Full fine-tuning does change relative attention to the content."
    where = "total variation distance to the pretrained pattern, positions that predict outputs"
    return [
        claim_record(about, "fine-tuning-attention", words, "A_ft != A", f"mean {where}",
               float(moved.mean()), "above", VISIBLE),
        claim_record(about, "fine-tuning-attention", words, "A_ft != A", f"largest {where}",
               float(moved.max()), "above", VISIBLE),
    ]  # fmt: skip
