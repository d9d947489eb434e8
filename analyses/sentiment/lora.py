"""LoRA by PEFT on the same model, with as many parameters as a prefix."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import hub_model, model_id
from prefix_interp.seeds import derive_seed
from prefix_interp.tasks import Batch, Task, mean_over_answers
from prefix_interp.tasks.choice import beats_foils
from prefix_interp.tuning.evaluate import Evaluation, marked, scored
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.recipes import Recipe

TARGETS = ("q_proj", "v_proj")
_WRAPPED = "._original_component"  # what a bridge adds to the names of weights
_PASS = 32  # sequences per pass of an evaluation


def lora_shape(model: Model, n_parameters: int) -> tuple[int, int]:
    """Return the rank and the number of layers whose LoRA comes nearest to so many parameters.

    With SmolLM2 every size is met exactly: rank 1 in 6 layers is as much as one slot of keys and
    values in all 30.

    Args:
        model: a language model.
        n_parameters: of the prefix.
    """
    host = host_of(model)
    q, v = (n * host.d_head for n in (host.n_heads, host.n_kv_heads))
    one = 2 * host.d_model + q + v  # a rank of one layer
    every = range(1, host.n_layers + 1)
    ranks = range(1, max(2, n_parameters // one + 1))
    pairs = [(rank, layers) for rank in ranks for layers in every]
    return min(pairs, key=lambda p: (abs(p[0] * p[1] * one - n_parameters), p[0]))


def plain_copy(model: Model) -> Any:
    """Return a copy of the Hugging Face model under a bridge, without the bridge.

    Raises:
        PrefixInterpError: a weight of it is not found.
    """
    wrapped: Any = hub_model(model)  # type: ignore[arg-type]
    plain = type(wrapped)(copy.deepcopy(wrapped.config)).to(host_of(model).dtype)
    weights = {name.replace(_WRAPPED, ""): x for name, x in wrapped.state_dict().items()}
    missing = sorted(set(plain.state_dict()) - set(weights))
    if missing:
        raise PrefixInterpError(f"model has no weight {missing[0]!r}; use another model")
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    plain.set_attn_implementation("eager")
    return plain.eval()


def with_lora(model: Model, rank: int, n_layers: int, seed: int) -> Any:
    """Return a copy of the model with LoRA on the queries and values of some layers.

    Args:
        model: a language model.
        rank: of each.
        n_layers: how many layers, spread evenly.
        seed: decides the start.

    Raises:
        PrefixInterpError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise PrefixInterpError(
            "peft is not installed (extra [lm]); pip install 'prefix-interp[lm]'"
        ) from error
    depth = host_of(model).n_layers
    layers = [round(i * depth / n_layers) for i in range(n_layers)]
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=rank, lora_dropout=0.0,
        target_modules=list(TARGETS), layers_to_transform=layers,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks transformers for a name that it calls deprecated, and draws from the global
        # generator.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(derive_seed(seed, "lora", rank, n_layers) % (1 << 63))
        return get_peft_model(plain_copy(model), config).eval()


def trained(adapted: Any) -> dict[str, Tensor]:
    """Return the weights of the adapter, by name."""
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}


def tune_adapter(
    adapted: Any, model: Model, task: Task, recipe: Recipe, seed: int,
    checkpoint: Path | None = None, progress: bool = True,
) -> float:  # fmt: skip
    """Tune the adapter in place as `tune_prefix` tunes a prefix; return the last training loss.

    Args:
        adapted: from `with_lora`.
        model: that it was made of.
        task: source of the batches.
        recipe: steps, rate and so on.
        seed: decides the batches.
        checkpoint: file to save to and resume from.
        progress: show a bar.
    """
    own = trained(adapted)

    def loss(batch: Batch, step: int) -> Float[Tensor, " run"]:
        logits = _answer_logits(adapted, batch)
        losses = F.cross_entropy(logits.float().mT, batch.answers, reduction="none")
        return mean_over_answers(losses, batch.answers).mean()[None]

    history = optimise(
        [Run(f"lr={recipe.lr!r}", own, recipe.lr, frozenset(own))], loss, task, recipe, seed=seed,
        identity={"model": model_id(model), "lora": {k: list(x.shape) for k, x in own.items()}},
        checkpoint=checkpoint, progress=progress, description="lora",
    )  # fmt: skip
    return float(history["loss"].iloc[-1])


def adapter_scores(adapted: Any, name: str, batch: Batch) -> Evaluation:
    """Return how well the adapted model answers, as `evaluate` does.

    Args:
        adapted: from `with_lora`.
        name: of the task.
        batch: questions with their answers and foils.
    """
    assert batch.foils is not None
    parts = []
    for start in range(0, len(batch.tokens), _PASS):
        own = batch.part(slice(start, start + _PASS))
        with torch.no_grad():
            logits = _answer_logits(adapted, own).float()
        assert own.foils is not None
        parts.append((*marked(logits, own.answers), beats_foils(logits, own.answers, own.foils)))
    return scored(name, batch, *(torch.cat(each) for each in zip(*parts, strict=True)))


def _answer_logits(adapted: Any, batch: Batch) -> Float[Tensor, "batch n_out d_vocab"]:
    return batch.read(adapted(input_ids=batch.tokens, logits_to_keep=batch.n_rows).logits)
