"""How a prefix sorts with attention as it was: what the head's own output says, and the gate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.study import Rows
from prefix_interp.models.host import Model, host_of
from prefix_interp.tasks import DigitTask
from prefix_interp.theory.reach_tables import HeadRows, PrefixTable, head_rows, parts_of


def frozen_outputs(
    model: Model, task: DigitTask, table: PrefixTable, what: str, n: int, seed: int
) -> Callable[[HeadRows], Tensor]:
    """Return the head outputs of a table with one part held at its mean over each cell.

    Args:
        model: a toy with one layer.
        task: source of the sequences for the means.
        table: acts in place of a prefix.
        what: ``"gate"`` (the mass no longer depends on the content) or ``"content"`` (t is held,
            so that the content acts through the gate alone).
        n: training sequences for the means.
        seed: chooses them.
    """
    cells, values = [], []
    for part in parts_of(task.sample(n, "train", seed), host_of(model).device):
        with torch.no_grad():
            rows = head_rows(model, part)
            cells.append(rows.cell.flatten())
            own = table.gate(rows)[..., None] if what == "gate" else rows.base
            values.append(own.flatten(0, 1))
    mean = _cell_means(torch.cat(cells), torch.cat(values), table.log_mass[0].numel())

    def outputs(rows: HeadRows) -> Tensor:
        held, (_, value) = mean[rows.cell], table.read(rows.cell)
        gate = held if what == "gate" else table.gate(rows)[..., None]
        base = rows.base if what == "gate" else held
        return (1 - gate) * base + gate * value

    return outputs


def read_out_rows(model: Model, task: DigitTask, n: int, seed: int) -> Rows:
    """Return how well the counts of the input's digits can be read off the heads' own output.

    One least-squares map with a constant for each output, fitted on training sequences. R^2 is on
    test sequences, by ``output`` (1-based): ``r2`` (mean over digits), ``r2_min``.

    Args:
        model: a toy with one layer, without a prefix.
        task: one of the paper's tasks.
        n: sequences to fit on; as many test it.
        seed: chooses them.
    """
    x, y = zip(*(_outputs_and_counts(model, task, n, split, seed) for split in ("train", "test")),
               strict=True)  # fmt: skip
    rows: Rows = []
    for i in range(x[0].shape[1]):
        ones = [torch.cat([own[:, i], own.new_ones(len(own), 1)], dim=1) for own in x]
        weights = torch.linalg.lstsq(ones[0], y[0], driver="gelsd").solution
        missed = (y[1] - ones[1] @ weights).square().sum(0)
        r2 = 1 - missed / (y[1] - y[1].mean(0)).square().sum(0)
        rows.append({"output": i + 1, "r2": float(r2.mean()), "r2_min": float(r2.min())})
    return rows


def _outputs_and_counts(
    model: Model, task: DigitTask, n: int, split: str, seed: int
) -> tuple[Float[Tensor, "batch n_out width"], Float[Tensor, "batch digit"]]:
    batch = task.sample(n, split, seed)
    with torch.no_grad():
        base = [head_rows(model, part).base for part in parts_of(batch, host_of(model).device)]
    inputs = batch.tokens[:, : task.length]
    counts = torch.stack([(inputs == digit).sum(1) for digit in range(8)], dim=1)
    return torch.cat(base).flatten(2).double().cpu(), counts.double()


def _cell_means(
    cell: Int[Tensor, " row"], values: Float[Tensor, "row head width"], n_cells: int
) -> Float[Tensor, "cell head width"]:
    """Return the mean over the rows of each cell; the mean over all rows where there is none."""
    sums = values.new_zeros(n_cells, *values.shape[1:]).index_add(0, cell, values)
    counts = torch.bincount(cell, minlength=n_cells)[:, None, None]
    return torch.where(counts > 0, sums / counts.clamp_min(1), values.mean(0))
