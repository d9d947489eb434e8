"""The claims of the report: each a number, a tolerance and a verdict, from shipped models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.experiments.accuracy import accuracy_claims, control_claims
from prefix_interp.experiments.claim import EXACT, VISIBLE, claim_record
from prefix_interp.experiments.summary import shipped_result
from prefix_interp.experiments.table1 import FINE_TUNED, NEW, PRETRAINED
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import to_dtype
from prefix_interp.models.sites import Site
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.baselines import RunPair, baseline_run, run_pair
from prefix_interp.prefixes.inject import attach, prefix_cache
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.prefixes.soft_inject import attach_soft
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.results import Result
from prefix_interp.tasks import get_task
from prefix_interp.theory.decompose import Decomposition, decompose_attention
from prefix_interp.theory.subspace import bias_subspace

N_SEQUENCES = 256


@dataclass(frozen=True)
class Zoo:
    """The trained models and prefixes that the report is about, in float64.

    Attributes:
        pretrained: sorts ascending.
        fine_tuned: the same, fine-tuned in full to sort descending.
        prefixes: tuned on `pretrained` to sort descending, by their name in the zoo.
        tokens: test sequences of sort descending, answers fed in (teacher forcing).
        n_out: outputs a sequence; the last `n_out` positions predict them.
    """

    pretrained: Model
    fine_tuned: Model
    prefixes: Mapping[str, Prefix]
    tokens: Int[Tensor, "batch pos"]
    n_out: int


def load_zoo(seed: int = 0, device: str = "cpu", n_sequences: int = N_SEQUENCES) -> Zoo:
    """Return the models and prefixes of Table 1 with test sequences.

    Args:
        seed: chooses the sequences.
        device: where the models run.
        n_sequences: how many.
    """
    models = []
    for name in (PRETRAINED, FINE_TUNED):
        model = to_dtype(load_toy(name), torch.float64)
        models.append(model.to(device, print_details=False))
    pretrained, fine_tuned = models
    found = {name: p.to(pretrained) for name, p in load_prefixes(PRETRAINED).items()}
    order = sorted(found, key=lambda k: (found[k].parameterization == "kv", found[k].n_slots))
    task = get_task(NEW)
    tokens = task.sample(n_sequences, split="test", seed=seed).tokens.to(device)
    return Zoo(pretrained, fine_tuned, {k: found[k] for k in order}, tokens, task.length)


def measure_claims(seed: int = 0, device: str = "cpu", progress: bool = True) -> Result:
    """Return every claim of the report, measured on the shipped models and results.

    A record is one claim about one subject: ``claim``, ``statement``, ``formula``, ``quantity``
    (what was measured), ``value``, ``comparison`` and ``tolerance`` (what it is held against),
    ``verdict``, ``subject``, ``parameterization``, ``n_slots``, ``level``, ``layer``,
    ``baseline``, ``low`` and ``high`` (95% over seeds, where there are seeds) and ``note``.

    Args:
        seed: chooses the test sequences.
        device: where the models run.
        progress: show a bar.
    """
    began = time.perf_counter()
    zoo = load_zoo(seed, device)
    records: list[dict[str, Any]] = []
    bar = tqdm(zoo.prefixes.items(), desc="claims", disable=not progress)
    for name, prefix in bar:
        records += _prefix_claims(zoo, name, prefix)
    records += _fine_tuning_claims(zoo)
    table1 = shipped_result("table1", "fast")
    if table1 is not None:
        records += list(accuracy_claims(table1))
    records += list(control_claims(seed))
    settings = {
        "pretrained": PRETRAINED,
        "fine_tuned": FINE_TUNED,
        "prefixes": list(zoo.prefixes),
        "task": NEW,
        "split": "test",
        "sequences": len(zoo.tokens),
        "dtype": "float64",
        "device": device,
        "accuracies": None if table1 is None else "table1-fast",
    }
    timing = {"wall_s": round(time.perf_counter() - began, 2)}
    return Result("report", "fast", [seed], settings, records, timing=timing)


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


def baseline_pattern(
    model: Model, tokens: Int[Tensor, "batch pos"], layer: int = 0
) -> Float[Tensor, "batch head query key"]:
    """Return a toy's attention over the content without a prefix (masked baseline).

    Args:
        model: a toy.
        tokens: content.
        layer: 0-based.
    """
    slots = host_of(model).n_reserved or 0
    fed, hooks = baseline_run(model, slots, tokens, "masked")
    site, length = Site.PATTERN.at(layer), tokens.shape[1]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(fed, names_filter=site, return_cache_object=False)
    return cache[site][..., -length:, -length:]


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


def _prefix_claims(zoo: Zoo, name: str, prefix: Prefix) -> list[dict[str, Any]]:
    model, answers = zoo.pretrained, slice(-zoo.n_out, None)
    pair = run_pair(model, prefix, zoo.tokens)
    parts = decompose_attention(pair)
    found = []
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            about = _about(name, prefix, f"head {head}", layer)
            found += _head_claims(about, pair, parts, layer, head, answers)
        space = bias_subspace(model, prefix, zoo.tokens, layer)
        about = _about(name, prefix, "layer", layer)
        found.append(_rank_claim(about, space.singular_values, space.bound))
    about = _about(name, prefix, "model", None) | {"baseline": "none: all runs have the prefix"}
    found.append(_injection_claim(about, pair))
    if prefix.vectors is not None and model.cfg.n_layers == 1:
        found.append(_suffix_claim(about, pair, zoo.n_out))
    return found


def _head_claims(
    about: Mapping[str, Any], pair: RunPair, parts: Decomposition, layer: int, head: int,
    answers: slice,
) -> list[dict[str, Any]]:  # fmt: skip
    n = pair.prefix.n_slots
    gate = parts.gate[layer, :, head, answers]
    error = parts.residual[layer, :, head].abs().max() / parts.output[layer, :, head].abs().max()
    plain = plain_difference_spectrum(parts, layer, head)
    space = bias_subspace(pair.model, pair.prefix, pair.tokens, layer, head)
    before = pair.off[Site.PATTERN.at(layer)][:, head, answers, -pair.tokens.shape[1] :]
    moved = total_variation(parts.content_pattern[layer, :, head, answers], before)
    # Beyond the first layer the layer's input differs, so that no theorem speaks of it.
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
        # A cache puts the content right behind the slots, where a toy has it for this n_s alone.
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
    after = pair.tokens.shape[1] - n_out + 1  # the input
    suffix = SoftPrompt(pair.prefix.vectors, after, "layers")
    with torch.no_grad(), attach_soft(pair.model, suffix):
        gap = (pair.model(pair.tokens) - pair.logits_on)[:, after:].abs().max()
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


def _fine_tuning_claims(zoo: Zoo) -> list[dict[str, Any]]:
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
