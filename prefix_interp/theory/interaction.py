"""Which pairs of inputs a model combines: the effect of two swaps beyond those of each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.given import ContextLike, as_context
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks.batch import Batch, as_given
from prefix_interp.tuning.evaluate import answer_logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEQUENCES = 512  # per pass


@dataclass(frozen=True, eq=False, repr=False)
class Interaction(ResultObject):
    """What two input tokens do to an answer together beyond what each does alone.

    Attributes:
        values: effect of both swaps minus the sum of the effects of each. Both orders of a pair
            have the same value; a position with itself, and an answer that is missing, have 0.
        alone: effect of each swap alone.
        positions: content positions that were swapped, in the order of the last axes.
        tokens: the content before any swap.
        swapped: the token that replaces that of each position.
        given: where there is an answer.

    Example:
        >>> found = interaction(model, task.sample(8, seed=0), prefix, progress=False)
        >>> tuple(found.strength().shape)  # of the ten inputs
        (10, 10)
    """

    values: Float[Tensor, "batch n_out first second"]
    alone: Float[Tensor, "batch n_out first"]
    positions: tuple[int, ...]
    tokens: Int[Tensor, "batch pos"]
    swapped: Int[Tensor, "batch first"]
    given: Bool[Tensor, "batch n_out"]

    def strength(self, output: int | None = None) -> Float[Tensor, "first second"]:
        """Return the root mean square of `values` over sequences and answers.

        Args:
            output: one of the answers (0-based); None: all.

        Raises:
            PrefixInterpError: no such answer.
        """
        if output is not None:
            check_index("output", output, self.values.shape[1])
        which = slice(None) if output is None else slice(output, output + 1)
        return _rms(self.values[:, which], self.given[:, which])

    @property
    def relative(self) -> float:
        """Return the root mean square of `values` over pairs, in units of that of `alone`.

        0: the model adds up its inputs. It does not depend on the scale of the logits.
        """
        n = len(self.positions)
        pairs = self.strength().square().sum() / max(n * (n - 1), 1)
        single = _rms(self.alone, self.given).square().mean()
        return float((pairs / single.clamp_min(torch.finfo(single.dtype).tiny)).sqrt())

    def minus(self, other: Interaction) -> Interaction:
        """Return the difference of two measurements: how `other` has to change to become this one.

        Args:
            other: of the same swaps, e.g. of the model without the prefix.

        Raises:
            PrefixInterpError: measured on another batch, other positions or with another seed.
        """
        self._check_same_swaps(other)
        return replace(self, values=self.values - other.values, alone=self.alone - other.alone)

    def similarity(self, other: Interaction) -> float:
        """Return the cosine of the angle between the values of two measurements, -1 to 1.

        Differences from one common start are alike even where nothing else is (0.5 for three
        unrelated measurements of one size), so compare measurements rather than changes.

        Args:
            other: of the same swaps, e.g. of fine-tuned weights.

        Raises:
            PrefixInterpError: measured on another batch, other positions or with another seed.
        """
        self._check_same_swaps(other)
        a, b = (x.values.flatten().double() for x in (self, other))
        return float(torch.nn.functional.cosine_similarity(a, b, dim=0))

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per answer and pair of positions, root mean squares over sequences.

        Columns: ``output``, ``first``, ``second`` (positions), ``interaction``, and ``alone_first``
        and ``alone_second``, the effects of each swap alone.
        """
        rows = []
        for output in range(self.values.shape[1]):
            both = self.strength(output).tolist()
            which = slice(output, output + 1)
            alone = _rms(self.alone[:, which], self.given[:, which]).tolist()
            for i, j in combinations(range(len(self.positions)), 2):
                place = output, self.positions[i], self.positions[j]
                rows.append((*place, both[i][j], alone[i], alone[j]))
        names = ["output", "first", "second", "interaction", "alone_first", "alone_second"]
        return pd.DataFrame(rows, columns=names)

    def caption(self) -> str:
        """Return the sizes, and how large interactions are beside the effects of single swaps."""
        n, n_out = self.given.shape
        return (
            f"{len(self.positions)} positions; {n} sequences; {n_out} answers; two swaps differ "
            f"from their sum by {self.relative:.3g} of the effect of one"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Plot the strength of each pair of positions."""
        return drawing("interaction.interaction_figure")(
            {"interaction": self}, figsize=figsize, width=width
        )

    def _check_same_swaps(self, other: Interaction) -> None:
        names = ("tokens", "swapped", "given")
        same = self.positions == other.positions and all(
            torch.equal(getattr(self, x), getattr(other, x)) for x in names
        )
        if not same:
            raise PrefixInterpError(
                "other was measured with other swaps; give both the same batch, positions and seed"
            )


def interaction(
    model: Model,
    batch: Batch | Sequence[Tensor],
    context: ContextLike | None = None,
    *,
    positions: Sequence[int] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Interaction:
    """Return how far a model's answers depend on pairs of input tokens rather than on each alone.

    The paper's two-input graph (section 6), measured: under a prefix the inputs meet in each layer
    through the pretrained weights only, while fine-tuning changes the weights with which they meet.
    Let f be the logit of the right answer less the mean over all tokens. For positions i and j the
    token of each is swapped for another, and the measure is

        f(both swapped) - f(i swapped) - f(j swapped) + f(none).

    It is the finite form of the mixed second derivative. It is preferred here to the derivative by
    the embeddings: it is exact, in units of logits, at inputs that occur, includes every order, and
    needs forward runs alone, so it works for any model. It is 0 for every pair if the answer's
    logit is a sum over inputs.

    Each position takes, for each sequence, another token that occurs at this position in the batch.
    Swaps depend on tokens, positions and seed alone, so results for a prefix, without it and for
    fine-tuned weights can be subtracted (`Interaction.minus`). The answers that are fed back stay.

    Args:
        model: a supported model.
        batch: tokens and answers.
        context: what is attached; None: the model without slots (masked baseline).
        positions: content positions; None: those up to the first that predicts an answer, without
            positions that hold the same token in all sequences.
        seed: chooses the tokens to swap in.
        progress: whether to show a progress bar.

    Raises:
        PrefixInterpError: a batch that is none, fewer than two positions, positions out of range,
            named twice or with a single token in the whole batch, a context that does not fit.

    Example:
        >>> batch = task.sample(8, seed=0)
        >>> with_prefix = interaction(model, batch, prefix, progress=False)
        >>> change = with_prefix.minus(interaction(model, batch, progress=False))
        >>> change.to_dataframe().columns.tolist()[:4]
        ['output', 'first', 'second', 'interaction']
    """
    batch = as_given("batch", batch).to(host_of(model).device)
    found = None if context is None else as_context(context)
    places = _places(batch, positions)
    swapped = torch.stack([_other_tokens(batch.tokens[:, p], seed, p) for p in places], dim=1)
    n = len(places)
    singles = [(i,) for i in range(n)]
    pairs = list(combinations(range(n), 2))
    todo = [(), *singles, *pairs]
    effects = _answers_of(model, batch, found, places, swapped, todo, progress)
    f = dict(zip(todo, effects, strict=True))
    alone = torch.stack([f[i] - f[()] for i in singles], dim=-1)
    values = alone.new_zeros(*alone.shape, n)
    for i, j in pairs:
        values[..., i, j] = values[..., j, i] = f[i, j] - f[i,] - f[j,] + f[()]
    return Interaction(values, alone, tuple(places), batch.tokens, swapped, batch.given)


def _answers_of(
    model: Model,
    batch: Batch,
    context: Context | None,
    places: Sequence[int],
    swapped: Int[Tensor, "batch first"],
    todo: Sequence[tuple[int, ...]],
    progress: bool,
) -> Iterator[Float[Tensor, "batch n_out"]]:
    """Yield f of every answer for each set of positions that are swapped together."""
    at_once = max(1, _SEQUENCES // len(batch.tokens))
    answers = batch.answers.clamp(min=0)[..., None]
    for start in tqdm(range(0, len(todo), at_once), desc="swaps", disable=not progress):
        part = todo[start : start + at_once]
        fed = batch.tokens.repeat(len(part), 1, 1)
        for tokens, which in zip(fed, part, strict=True):
            for i in which:
                tokens[:, places[i]] = swapped[:, i]
        asked = batch.repeat(len(part))._replace(tokens=fed.flatten(0, 1))
        logits = answer_logits(model, asked, context).unflatten(0, fed.shape[:2])
        right = logits.gather(-1, answers.to(logits.device).expand(len(part), -1, -1, -1))
        values = right.squeeze(-1) - logits.mean(dim=-1)
        yield from values.where(batch.given.to(values.device), 0)


def _places(batch: Batch, positions: Sequence[int] | None) -> list[int]:
    length = batch.tokens.shape[1]
    if positions is None:
        first = length - batch.n_rows
        found = [p for p in range(first + 1) if len(batch.tokens[:, p].unique()) > 1]
    else:
        found = list(positions)
        for p in found:
            check_index("positions", p, length)
            if len(batch.tokens[:, p].unique()) == 1:
                raise PrefixInterpError(
                    f"positions name {p}, which holds the same token in the whole batch, so there "
                    "is none to swap in; leave it out"
                )
    if len(found) < 2 or len(set(found)) < len(found):
        raise PrefixInterpError(
            f"positions={found} are no pairs; give at least two that differ, each with several "
            "tokens in the batch"
        )
    return found


def _other_tokens(column: Int[Tensor, " batch"], seed: int, place: int) -> Int[Tensor, " batch"]:
    """Return for each sequence a token of the same column that is not its own, chosen evenly."""
    tokens, own = column.unique(return_inverse=True)
    rng = derive_generator(seed, "interaction", place)
    step = torch.randint(1, len(tokens), column.shape, generator=rng).to(own.device)
    return tokens[(own + step) % len(tokens)]


def _rms(x: Float[Tensor, "batch n_out *any"], given: Bool[Tensor, "batch n_out"]) -> Tensor:
    return (x.square().sum((0, 1)) / given.sum().clamp(min=1).to(x.device)).sqrt()
