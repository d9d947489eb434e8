"""The last stage of the search for the best table: L-BFGS on fixed sequences.

On fixed data the loss of a cell is a smooth function of a few hundred numbers, which a quasi-Newton
method takes much further than steps on fresh noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.models.host import Model, host_of
from prefix_interp.tasks import Batch
from prefix_interp.theory.reach_search import Groups
from prefix_interp.theory.reach_tables import HeadRows, PrefixTable, head_rows, parts_of, row_logits
from prefix_interp.tuning.parallel import one_thread

Tensors = Mapping[str, Tensor]
_LEAST_GATE = 1e-4  # a gate of 0 would divide by 0


def polished(
    model: Model, batch: Batch, groups: Groups, table: PrefixTable, iterations: int, *,
    progress: bool = False,
) -> PrefixTable:  # fmt: skip
    """Return a table after L-BFGS on the mean loss of a batch.

    Where every cell has its own value, each cell is minimised alone, else each group of cells.

    Args:
        model: a toy with one layer, whose weights are frozen.
        batch: the sequences that count.
        groups: the cells that are searched together.
        table: where the search begins.
        iterations: most of each cell or group.
        progress: show a bar.
    """
    rows, answers = _read(model, batch)
    with one_thread():
        search = _by_cell if groups.values == "cell" else _by_group
        return search(model, rows, answers, groups, table, iterations, progress)


def _by_cell(
    model: Model, rows: HeadRows, answers: Int[Tensor, " row"], groups: Groups,
    table: PrefixTable, iterations: int, progress: bool,
) -> PrefixTable:  # fmt: skip
    mass, value = table.log_mass.detach().clone(), table.mean_value.detach().clone()
    cells = rows.cell[:, 0].unique().tolist()
    for cell in tqdm(cells, desc="polish", disable=not progress):
        own = rows.cell[:, 0] == cell
        pos, token = divmod(cell, groups.d_vocab)
        part = replace(_part(rows, own), cell=torch.zeros_like(rows.cell[own]))

        def loss(now: Tensors, part=part, answers=answers[own]) -> Tensor:
            alone = PrefixTable(now["log_mass"][:, None, None], now["mean_value"][:, None, None])
            logits = row_logits(model, part.resid, alone.outputs(part))
            return F.cross_entropy(logits[:, 0], answers)

        start = {"log_mass": mass[:, pos, token], "mean_value": value[:, pos, token]}
        # A value u acts as g u: with u itself as variable, a cell with a small gate hardly moves.
        gate = (start["log_mass"] - part.log_content.mean(dim=(0, 1))).sigmoid()
        scales = {"mean_value": gate.clamp_min(_LEAST_GATE)[:, None]}
        found = _minimise(start, loss, iterations, scales)
        mass[:, pos, token], value[:, pos, token] = found["log_mass"], found["mean_value"]
    return PrefixTable(mass, value)


def _by_group(
    model: Model, rows: HeadRows, answers: Int[Tensor, " row"], groups: Groups,
    table: PrefixTable, iterations: int, progress: bool,
) -> PrefixTable:  # fmt: skip
    runs = groups.runs(0, table, 1.0)
    mask = groups.of_rows(rows.cell)[..., 0].bool()
    done = list(runs)
    for i in tqdm(range(len(runs)), desc="polish", disable=not progress):
        part = _part(rows, mask[i])

        def loss(now: Tensors, i=i, part=part, answers=answers[mask[i]]) -> Tensor:
            these = [*runs[:i], replace(runs[i], parameters=now), *runs[i + 1 :]]
            logits = row_logits(model, part.resid, groups.table(these, table).outputs(part))
            return F.cross_entropy(logits[:, 0], answers)

        found = _minimise(runs[i].parameters, loss, iterations, {})
        done[i] = replace(runs[i], parameters=found)
    with torch.no_grad():
        return groups.table(done, table)


def _minimise(
    start: Tensors, loss: Callable[[Tensors], Tensor], iterations: int, scales: Tensors
) -> dict[str, Tensor]:
    """Return the tensors where the search ends, or the start if its loss is lower.

    Args:
        start: by name.
        loss: of such tensors.
        iterations: the most.
        scales: what some tensors are multiplied with to be the variables.
    """
    start = {name: x.detach() for name, x in start.items()}
    free = {name: x * scales.get(name, 1) for name, x in start.items()}
    leaves = [x.requires_grad_(True) for x in free.values()]
    optimiser = torch.optim.LBFGS(
        leaves, max_iter=iterations, history_size=50, tolerance_grad=1e-9,
        tolerance_change=1e-12, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def now() -> dict[str, Tensor]:
        return {name: x / scales.get(name, 1) for name, x in free.items()}

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(now())
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        found = now()
        return found if bool(loss(found) <= loss(start)) else dict(start)


def _part(rows: HeadRows, own: Tensor) -> HeadRows:
    return HeadRows(*(x[own] for x in vars(rows).values()))


def _read(model: Model, batch: Batch) -> tuple[HeadRows, Int[Tensor, " row"]]:
    """Return the rows where answers are predicted, one after the other, and the answers."""
    found: list[HeadRows] = []
    answers: list[Tensor] = []
    for part in parts_of(batch, host_of(model).device):
        with torch.no_grad():
            rows = head_rows(model, part)
        flat = [rearrange(x, "batch n_out ... -> (batch n_out) 1 ...") for x in vars(rows).values()]
        given = part.given.flatten()
        found.append(HeadRows(*(x[given] for x in flat)))
        answers.append(part.answers.flatten()[given])
    joined = zip(*(vars(rows).values() for rows in found), strict=True)
    return HeadRows(*(torch.cat(each) for each in joined)), torch.cat(answers)
