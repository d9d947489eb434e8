"""Prompts of real tokens: exhaustive search if there are few, else greedy coordinate search."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import check_index, check_positive
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.layout import check_vocabulary
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.result_object import ResultObject
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch, Task, as_task
from prefix_interp.tuning.evaluate import Evaluation, evaluate
from prefix_interp.tuning.objective import check_batch, sequence_losses
from prefix_interp.tuning.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Search = Literal["exhaustive", "coordinate"]
_SEQUENCES = 4096  # per pass; more is not faster on a CPU and takes memory


@dataclass(frozen=True, eq=False, repr=False)
class HardPromptFit(ResultObject):
    """The best prompt of real tokens that a search found.

    Attributes:
        tokens: the prompt.
        prompt: the embeddings, to attach.
        train_loss: loss on the sequences that the search saw, in nats.
        evaluation: scores on unseen inputs.
        search: ``"exhaustive"`` (no prompt of this length has a lower `train_loss`) or
            ``"coordinate"`` (no change of a single token lowers it).
        n_tried: prompts whose loss was measured.
    """

    tokens: tuple[int, ...]
    prompt: SoftPrompt
    train_loss: float
    evaluation: Evaluation
    search: Search
    n_tried: int

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row: the tokens, the search and the scores."""
        found = {"tokens": self._words(), "search": self.search, "n_tried": self.n_tried}
        scores = {name: float(score) for name, score in self.evaluation.scores.items()}
        return pd.DataFrame([{**found, "train_loss": self.train_loss, **scores}])

    def caption(self) -> str:
        """Return the tokens, the search and the scores."""
        return (
            f"tokens {self._words()}; {self.search} search of {self.n_tried} prompts, train loss "
            f"{self.train_loss:.4g}; {self.evaluation.caption()}"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Plot the scores on unseen inputs with their intervals."""
        return self.evaluation.plot(figsize=figsize, width=width)

    def _words(self) -> str:
        return " ".join(map(str, self.tokens))


def search_hard_prompt(
    model: Model,
    task: Task | str,
    n_slots: int = 1,
    *,
    position: int = 0,
    n: int = 64,
    restarts: int = 3,
    max_exhaustive: int = 1000,
    seed: int = 0,
) -> HardPromptFit:
    """Return the prompt of `n_slots` real tokens with the lowest loss on `task`.

    All prompts are tried if there are at most `max_exhaustive`. Otherwise the search starts from
    `restarts` random prompts and replaces each token in turn by the best one until nothing
    improves.

    Args:
        model: a supported model.
        task: a task or its name.
        n_slots: tokens, at least 1.
        position: number of input tokens before the prompt.
        n: number of train-split sequences to compare prompts on.
        restarts: random prompts to start from.
        max_exhaustive: largest number of prompts to try one by one.
        seed: decides sequences and starts.

    Raises:
        PrefixInterpError: unknown names, values out of range, an unsupported model.
    """
    task = as_task(task)
    for name, value in (("n_slots", n_slots), ("n", n), ("restarts", restarts)):
        check_positive(name, value)
    check_free(model)
    check_positive("max_exhaustive", max_exhaustive)
    d_vocab = host_of(model).d_vocab
    batch = task.sample(n, split="train", seed=seed)
    check_batch(model, batch, n_slots, name=task.name)
    check_index("position", position, batch.tokens.shape[1] - batch.n_rows + 2)
    batch = batch.to(host_of(model).device)
    if d_vocab**n_slots <= max_exhaustive:
        search: Search = "exhaustive"
        every = torch.tensor(list(itertools.product(range(d_vocab), repeat=n_slots)))
        losses = prompt_losses(model, every, batch, position)
        tokens, loss, tried = every[losses.argmin()], float(losses.min()), len(every)
    else:
        search = "coordinate"
        rng = derive_generator(seed, "hard-prompt", task.name, n_slots)
        starts = torch.randint(d_vocab, (restarts, n_slots), generator=rng)
        found = [_descend(model, start, batch, position) for start in starts]
        tokens, loss, _ = min(found, key=lambda each: each[1])
        tried = sum(each[2] for each in found)
    prompt = SoftPrompt.from_tokens(model, tokens, position)
    score = evaluate(model, task, prompt, seed=seed)
    return HardPromptFit(tuple(tokens.tolist()), prompt, loss, score, search, tried)


def prompt_losses(
    model: Model,
    prompts: Int[Tensor, "prompt slot"],
    batch: Batch,
    position: int = 0,
) -> Float[Tensor, " prompt"]:
    """Return the mean loss of each prompt of real tokens on the same batch, in nats.

    Args:
        model: a supported model.
        prompts: token numbers.
        batch: sequences and answers, on the device of the model.
        position: number of input tokens before the prompt.
    """
    check_vocabulary(model, prompts)
    recipe = Recipe.from_preset("fast", "prefix", precision="float32")
    losses = []
    with torch.no_grad():
        for part in prompts.split(max(1, _SEQUENCES // len(batch.tokens))):
            vectors = host_of(model).embed(part)[:, None]  # stack layer slot d_model
            hooks = soft_hooks(model, vectors, position, read=False)
            each = sequence_losses(model, batch.repeat(len(part)), recipe, hooks)
            losses.append(each.unflatten(0, (len(part), -1)).mean(dim=-1))
    return torch.cat(losses).cpu()


def _descend(
    model: Model, start: Int[Tensor, " slot"], batch: Batch, position: int
) -> tuple[Int[Tensor, " slot"], float, int]:
    """Return a prompt that no change of one token improves, its loss, and the number tried."""
    tokens, loss, tried = start.clone(), float("inf"), 0
    while True:
        before = loss
        for i in range(len(tokens)):
            d_vocab = host_of(model).d_vocab
            candidates = tokens.repeat(d_vocab, 1)
            candidates[:, i] = torch.arange(d_vocab)
            losses = prompt_losses(model, candidates, batch, position)
            tried += len(candidates)
            if float(losses.min()) < loss:
                tokens, loss = candidates[losses.argmin()], float(losses.min())
        if loss == before:
            return tokens, loss, tried
