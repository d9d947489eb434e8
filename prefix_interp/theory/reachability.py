"""What no prefix of any length can do in one layer: the best table that a search finds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save as to_bytes
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice, check_positive
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.models.toy import toy_config
from prefix_interp.prefixes.given import ContextLike
from prefix_interp.prefixes.guard import check_free
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch, Task, as_task
from prefix_interp.theory.reach_polish import polished
from prefix_interp.theory.reach_search import (
    Groups,
    Values,
    best_starts,
    cell_losses,
    group_losses,
    merged,
    noise_tables,
)
from prefix_interp.theory.reach_tables import (
    PrefixTable,
    check_one_layer,
    head_rows,
    output_scores,
    parts_of,
    table_of_prefix,
)
from prefix_interp.tuning.evaluate import Evaluation, scored
from prefix_interp.tuning.loop import optimise
from prefix_interp.tuning.objective import check_batch, frozen
from prefix_interp.tuning.parallel import one_thread
from prefix_interp.tuning.recipes import Recipe
from prefix_interp.words import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Batches are large: a cell's data are the rows with its token.
_BATCH = {"fast": 512, "paper": 512, "smoke": 16}
_POLISH = {"fast": 300, "paper": 1000, "smoke": 2}


@dataclass(frozen=True, eq=False, repr=False)
class AnyLengthBound(ResultObject):
    """The best table found for a task: no prefix of any length is known to do better.

    A table contains every prefix, so the optimum over tables bounds them all. The search is not
    convex: this is the best that was found, with its search in `history`, and no proof that no
    better one exists.

    Attributes:
        task: the task's name.
        log_mass: log of the slots' summed exponentials (see `PrefixTable`).
        mean_value: mean value of the slots.
        log_content: mean over rows of the log of the content's summed exponentials, by head.
        values: on what the mean value could depend: ``"cell"`` is the bound on all prefixes, the
            others are restricted.
        chosen: which of `starts` each cell's entry comes from.
        n_cell: answers predicted in each cell among the sequences that chose; 0 for cells without
            any, whose entries mean nothing.
        starts: what each start was, in words; last come the given prefixes as they were, and
            ``polished``: the best of all these, further improved.
        start_losses: each one's loss on those sequences, in nats per output.
        evaluation: the table's scores on unseen sequences.
        by_output: share of right answers at each output.
        history: columns step, run, loss, lr: the whole search; a run is one start at one position.
        recipe: how it was searched.
        model_id: fingerprint of the model.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> best = pi.any_length_bound(toy, task, preset="smoke", n=64, n_select=64, progress=False)
        >>> best.starts, best.values
        (('noise 0', 'noise 1', 'noise 2', 'polished'), 'cell')
    """

    task: str
    log_mass: Float[Tensor, "head pos token"]
    mean_value: Float[Tensor, "head pos token d_head"]
    log_content: Float[Tensor, " head"]
    values: str
    chosen: Int[Tensor, "pos token"]
    n_cell: Int[Tensor, "pos token"]
    starts: tuple[str, ...]
    start_losses: Float[Tensor, " start"]
    evaluation: Evaluation
    by_output: Float[Tensor, " n_out"]
    history: pd.DataFrame
    recipe: Recipe
    model_id: str

    @property
    def table(self) -> PrefixTable:
        """Return the table, which acts in place of a prefix."""
        return PrefixTable(self.log_mass, self.mean_value)

    def trace(self) -> pd.DataFrame:
        """Return the search by start: columns step, run, loss (mean over positions)."""
        loss: dict[tuple[str, int], list[float]] = {}
        for run, step, value in zip(
            self.history["run"], self.history["step"], self.history["loss"], strict=True
        ):
            start = self.starts[int(run.split()[0].removeprefix("start="))]
            loss.setdefault((start, step), []).append(value)
        rows = [(*key, fmean(found)) for key, found in loss.items()]
        return pd.DataFrame(rows, columns=["run", "step", "loss"])

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per output: ``output`` (1-based) and ``token_accuracy``."""
        share = self.by_output.tolist()
        return pd.DataFrame({"output": range(1, len(share) + 1), "token_accuracy": share})

    def caption(self) -> str:
        """Return the scores, how they were searched, and that they are no proof."""
        only = "" if self.values == "cell" else f" (mean value: {self.values})"
        return (
            f"best table found{only}, a prefix of any length: {self.evaluation.caption()}; "
            f"{counted(self.history['run'].str.split().str[0].nunique(), 'start')} of "
            f"{self.recipe.steps} steps, losses "
            f"{', '.join(f'{x:.4g}' for x in self.start_losses.tolist())}; not convex, so no proof "
            "that none is better"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the training loss of each start against the step."""
        return drawing("fits.history_figure")(self.trace(), figsize=figsize, width=width)


def any_length_bound(
    model: Model,
    task: Task | str,
    *,
    starts: int = 3,
    warm: Sequence[ContextLike] = (),
    values: Values | str = "cell",
    preset: str = "fast",
    recipe: Recipe | None = None,
    polish: int | None = None,
    n_select: int = 20_000,
    n: int = 3200,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> AnyLengthBound:
    """Return the best table found for a task, which bounds kv and residual prefixes of any length.

    First AdamW on free tables, from several starts at once, on fresh training sequences. Each cell
    takes the start with the lowest loss there, and L-BFGS improves the whole on fixed sequences;
    what it finds counts in the cells where the loss of other sequences is lower too. Answers at
    different positions share no cell, so each position is a search of its own.

    Args:
        model: a toy with one layer and any number of heads; its weights stay frozen.
        task: a task or its name.
        starts: number of starts from noise, at least 1.
        warm: prefixes to start from as well, of any lengths; only for ``values="cell"``.
        values: on what the slots' mean value may depend: ``"cell"`` (token and position: all that a
            prefix can do), ``"position"``, ``"shared"`` (one for all) or ``"zero"`` (the prefix
            acts through its gate alone). The log mass always depends on both.
        preset: ``"paper"``, ``"fast"`` or ``"smoke"``: its recipe for prefixes, on larger batches.
        recipe: replaces the preset's.
        polish: most iterations of L-BFGS at each position, each over `n_select` sequences; 0 leaves
            it out, None is the recipe's preset's.
        n_select: training sequences for L-BFGS, and others on which each cell chooses.
        n: test sequences to score on, those of `evaluate`.
        seed: decides noise and data.
        checkpoint: file to save to and resume from.
        progress: show a bar.

    Raises:
        PrefixInterpError: more than one layer, no toy, unknown names, values out of range, a task
            or a prefix that does not fit the model, a loss that is not finite.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> best = pi.any_length_bound(toy, task, preset="smoke", n=64, n_select=64, progress=False)
        >>> best.evaluation.n
        64
    """
    check_one_layer(model)
    check_free(model)
    check_choice("values", values, get_args(Values))
    check_positive("starts", starts)
    check_positive("n_select", n_select)
    task = as_task(task)
    if recipe is None:
        recipe = Recipe.from_preset(preset, "prefix", batch_size=_BATCH.get(preset))
    if polish is None:
        polish = _POLISH[recipe.preset or "fast"]
    elif polish != 0:
        check_positive("polish", polish)
    if warm and values != "cell":
        raise PrefixInterpError(
            f"warm={len(warm)} prefixes do not go with values={values!r}, since their values "
            "differ by cell; leave them out, or use values='cell'"
        )
    host, cfg = host_of(model), toy_config(model)
    select, other = (
        task.sample_from(derive_generator(seed, "any-length", use), n_select, "train")
        for use in ("select", "other")
    )
    check_batch(model, select, name=task.name)
    with torch.no_grad():
        rows = head_rows(model, parts_of(select, host.device)[0])
    shape = torch.Size((cfg.n_heads, cfg.n_content, cfg.d_vocab, host.d_head))
    begins = noise_tables(rows, shape, starts, seed, recipe.init_std)
    begins += [table_of_prefix(model, prefix) for prefix in warm]
    groups = Groups(values, _read_positions(select), cfg.n_content, cfg.d_vocab)
    runs = [groups.runs(i, begin, recipe.lr) for i, begin in enumerate(begins)]

    def tables() -> list[PrefixTable]:
        return [groups.table(own, begin) for own, begin in zip(runs, begins, strict=True)]

    def loss(batch: Batch, step: int) -> Float[Tensor, " run"]:
        return group_losses(model, batch.to(host.device), groups, tables(), recipe)

    own_id = model_id(model)
    with frozen(model):
        history = optimise(
            [run for own in runs for run in own], loss, task, recipe, seed=seed,
            identity={
                "model": own_id, "table": values, "starts": starts,
                "warm": [_checksum(begin) for begin in begins[starts:]],
            },
            check=lambda batch: check_batch(model, batch, name=task.name),
            checkpoint=checkpoint, progress=progress,
            description=f"any length, {values}, {task.name}",
        )  # fmt: skip
        with torch.no_grad():
            found = tables() + begins[starts:]  # so it is never worse than what it starts from
        best = _choose(model, groups, found, (select, other), recipe, polish, progress)
    with torch.no_grad(), one_thread():
        test = task.sample(n, "test", seed)
        right, losses = output_scores(model, test, best.table.outputs)
    return AnyLengthBound(
        task=task.name,
        log_mass=best.table.log_mass,
        mean_value=best.table.mean_value,
        log_content=rows.log_content.mean(dim=(0, 1)),
        values=values,
        chosen=best.chosen,
        n_cell=best.counts.view_as(best.chosen).long(),
        starts=(
            *(f"noise {i}" for i in range(starts)),
            *(f"prefix {i}" for i in range(len(warm))),
            *(f"prefix {i} as given" for i in range(len(warm))),
            *(["polished"] if polish else []),
        ),
        start_losses=best.sums.sum(dim=1) / best.counts.sum(),
        evaluation=scored(task.name, test, right, losses),
        by_output=_by_output(test, right),
        history=history,
        recipe=recipe,
        model_id=own_id,
    )  # fmt: skip


class _Choice(NamedTuple):
    """The table that takes each cell from the best of several, and how they did."""

    table: PrefixTable
    chosen: Int[Tensor, "pos token"]
    sums: Float[Tensor, "start cell"]
    counts: Float[Tensor, " cell"]


def _choose(
    model: Model, groups: Groups, tables: Sequence[PrefixTable], batches: tuple[Batch, Batch],
    recipe: Recipe, polish: int, progress: bool,
) -> _Choice:  # fmt: skip
    """Return the best table cell by cell on the last batch, after a polish on the first."""
    exact, units = replace(recipe, precision="float32"), groups.units(tables[0].log_mass[0].numel())

    def choice(tables: Sequence[PrefixTable], batch: Batch) -> _Choice:
        sums, counts = cell_losses(model, batch, tables, exact)
        chosen = best_starts(sums, units).view(groups.n_pos, groups.d_vocab)
        return _Choice(merged(tables, chosen), chosen, sums, counts)

    with one_thread():
        if polish:
            best = choice(tables, batches[0]).table
            better = polished(model, batches[0], groups, best, polish, progress=progress)
            tables = [*tables, better]
        return choice(tables, batches[1])


def _read_positions(batch: Batch) -> tuple[int, ...]:
    """Return the content positions (0-based) at which answers are predicted."""
    every = torch.arange(batch.tokens.shape[1]).expand(len(batch.tokens), -1)
    return tuple(batch.read(every[..., None])[..., 0][batch.given].unique().tolist())


def _by_output(batch: Batch, right: Bool[Tensor, "batch n_out"]) -> Float[Tensor, " n_out"]:
    given = batch.given.to(right.device)
    return (right & given).sum(0) / given.sum(0)


def _checksum(table: PrefixTable) -> str:
    data = {"log_mass": table.log_mass, "mean_value": table.mean_value}
    return hashlib.sha256(
        to_bytes({k: x.detach().cpu().contiguous() for k, x in data.items()})
    ).hexdigest()
