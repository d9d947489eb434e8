"""LoRA on language models, by PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import host_of
from prefix_interp.models.model import TransformerBridge, model_id
from prefix_interp.models.pretrained import load_pretrained
from prefix_interp.models.weights import hub_modules, plain_copy
from prefix_interp.seeds import derive_seed
from prefix_interp.tasks import Batch, Task, mean_over_answers
from prefix_interp.tuning.loop import Run, optimise
from prefix_interp.tuning.objective import check_batch
from prefix_interp.tuning.recipes import Recipe


def with_adapter(
    model: TransformerBridge,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    layers: Sequence[int],
    seed: int,
) -> Any:
    """Return a copy of the Hugging Face model under a bridge, with LoRA by PEFT.

    Args:
        model: a language model; it is not changed.
        rank: of each matrix.
        alpha: the adapter is scaled by alpha / rank.
        targets: words of `TARGETS`.
        layers: 0-based.
        seed: decides the start.

    Raises:
        PrefixInterpError: PEFT is not installed, or a target that the model lacks.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise PrefixInterpError(
            "peft is not installed (extra [lm]); pip install 'prefix-interp[lm]'"
        ) from error
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, lora_dropout=0.0,  # type: ignore[arg-type]
        target_modules=hub_modules(model, targets, layers),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks transformers for a name that it calls deprecated, says that it sees transposed
        # weights (GPT-2's) for what they are, and draws from the global generator.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        torch.manual_seed(derive_seed(seed, "lora", rank, len(layers)) % (1 << 63))
        return get_peft_model(plain_copy(model), config).eval()


def trained(adapted: Any) -> dict[str, Tensor]:
    """Return the weights of the adapter, by PEFT's names."""
    return {name: p for name, p in adapted.named_parameters() if p.requires_grad}


def write_weights(adapted: Any, weights: Mapping[str, Tensor]) -> None:
    """Set the weights of the adapter.

    Args:
        adapted: from `with_adapter`.
        weights: by PEFT's names (see `trained`).
    """
    with torch.no_grad():
        for name, p in trained(adapted).items():
            p.copy_(weights[name])


def train_adapter(
    adapted: Any,
    model: TransformerBridge,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    identity: Mapping[str, Any],
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train the adapter in place and return the history (see `optimise`).

    Args:
        adapted: from `with_adapter`.
        model: that it was made of.
        task: source of the batches.
        recipe: steps, rate and so on.
        seed: decides the batches.
        identity: tells this adapter from others.
        checkpoint: file to save to and resume from.
        progress: show a bar.
    """
    own = trained(adapted)

    def loss(batch: Batch, step: int) -> Float[Tensor, " run"]:
        batch = batch.to(host_of(model).device)
        losses = F.cross_entropy(
            adapted_logits(adapted, batch).float().mT, batch.answers, reduction="none"
        )
        return mean_over_answers(losses, batch.answers).mean()[None]

    return optimise(
        [Run(f"lr={recipe.lr!r}", own, recipe.lr, frozenset(own))], loss, task, recipe, seed=seed,
        identity={"model": model_id(model), **identity},
        check=lambda batch: check_batch(model, batch, name=task.name),
        checkpoint=checkpoint, progress=progress, description=f"lora {task.name}",
    )  # fmt: skip


def adapted_logits(adapted: Any, batch: Batch) -> Float[Tensor, "batch n_out d_vocab"]:
    """Return the logits that predict each answer, from a model with an adapter.

    Args:
        adapted: from `with_adapter`.
        batch: tokens and answers.
    """
    return batch.read(adapted(input_ids=batch.tokens, logits_to_keep=batch.n_rows).logits)


def merged(adapted: Any, model: TransformerBridge) -> TransformerBridge:
    """Return the adapted model under a bridge, the adapter added to its weights.

    Args:
        adapted: from `with_adapter`; it is used up.
        model: that it was made of; gives the tokenizer.
    """
    return load_pretrained(adapted.merge_and_unload(), model.tokenizer)  # type: ignore[arg-type]
