"""The search for the best table: which parts are free, where they start, what is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.models.host import Model, host_of
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch
from prefix_interp.theory.reach_tables import (
    HeadRows,
    PrefixTable,
    head_rows,
    parts_of,
    row_logits,
)
from prefix_interp.tuning.loop import Run
from prefix_interp.tuning.objective import in_precision
from prefix_interp.tuning.recipes import Recipe

Values = Literal["cell", "position", "shared", "zero"]
# Axes of (pos, token) on which the mean value may differ.
_FREE: dict[str, tuple[bool, bool]] = {
    "cell": (True, True), "position": (True, False), "shared": (False, False)
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Groups:
    """The cells that are searched together: all of one position, or all if they share a value.

    Attributes:
        values: on what the mean value may depend.
        positions: those where answers are predicted.
        n_pos: content positions.
        d_vocab: tokens.
    """

    values: Values | str
    positions: tuple[int, ...]
    n_pos: int
    d_vocab: int

    @property
    def members(self) -> list[list[int]]:
        """Return the positions of each group."""
        if self.values == "shared":
            return [list(self.positions)]
        return [[pos] for pos in self.positions]

    def labels(self, start: int) -> list[str]:
        """Return the name of each group's run from a start."""
        alone = self.values == "shared"
        return [
            f"start={start}" if alone else f"start={start} position={own[0]}"
            for own in self.members
        ]

    def units(self, n_cells: int) -> Int[Tensor, " cell"]:
        """Return a number for each cell; cells with equal numbers must take the same start."""
        cells = torch.arange(n_cells)
        if self.values == "shared":
            return torch.zeros_like(cells)
        return cells // self.d_vocab if self.values == "position" else cells

    def of_rows(self, cell: Int[Tensor, "batch n_out"]) -> Float[Tensor, "group batch n_out"]:
        """Return 1 where a row belongs to a group."""
        at = cell // self.d_vocab
        every = [torch.isin(at, torch.tensor(own, device=at.device)) for own in self.members]
        return torch.stack(every).float()

    def runs(self, start: int, table: PrefixTable, lr: float) -> list[Run]:
        """Return one run per group, which begins at a table.

        Args:
            start: number of the start.
            table: where it begins; of a value that may not differ, the first is taken.
            lr: peak learning rate.
        """
        found = []
        for label, own in zip(self.labels(start), self.members, strict=True):
            parameters = {"log_mass": table.log_mass[:, own]}
            if self.values in _FREE:
                by_pos, by_token = _FREE[self.values]
                value = table.mean_value[:, own if by_pos else own[:1]]
                parameters["mean_value"] = value if by_token else value[:, :, :1]
            leaves = {k: x.detach().clone().requires_grad_(True) for k, x in parameters.items()}
            found.append(Run(label, leaves, lr, frozenset(leaves)))
        return found

    def table(self, runs: Sequence[Run], start: PrefixTable) -> PrefixTable:
        """Return the whole table of one start's runs; gradients flow to their parameters.

        Args:
            runs: of this start.
            start: gives the cells that no run holds.
        """
        rows: list[Tensor] = list(start.log_mass.unbind(1))
        values = [torch.zeros_like(x) for x in start.mean_value.unbind(1)]
        for run, own in zip(runs, self.members, strict=True):
            for i, pos in enumerate(own):
                rows[pos] = run.parameters["log_mass"][:, i]
                if "mean_value" in run.parameters:
                    value = run.parameters["mean_value"]
                    values[pos] = value[:, min(i, value.shape[1] - 1)].expand_as(values[pos])
        return PrefixTable(torch.stack(rows, 1), torch.stack(values, 1))


def noise_tables(
    rows: HeadRows, shape: torch.Size, n: int, seed: int, std: float
) -> list[PrefixTable]:
    """Return tables of noise: log masses around the content's, values of the size of its outputs.

    Args:
        rows: of some content.
        shape: of the mean values, ``head pos token d_head``.
        n: how many.
        seed: any integer.
        std: of the noise.
    """
    level = rows.log_content.mean(dim=(0, 1))[:, None, None]
    size = rows.base.pow(2).mean(dim=(0, 1, 3)).sqrt()[:, None, None, None]
    found = []
    for i in range(n):
        rng = derive_generator(seed, "any-length", i)
        mass, value = (
            (torch.randn(s, generator=rng) * std).to(rows.base) for s in (shape[:-1], shape)
        )
        found.append(PrefixTable(level + mass, size * value))
    return found


def group_losses(
    model: Model, batch: Batch, groups: Groups, tables: Sequence[PrefixTable], recipe: Recipe
) -> Float[Tensor, " run"]:
    """Return the mean loss in nats per output at the rows of each group, for each table in turn.

    Args:
        model: a toy with one layer.
        batch: on its device.
        groups: the cells that are searched together.
        tables: one per start.
        recipe: its precision is used.
    """
    rows = _without_grad(model, batch)
    losses = _losses(model, batch, rows, tables, recipe)
    mask = groups.of_rows(rows.cell) * batch.given
    share = mask / mask.sum(dim=(1, 2), keepdim=True).clamp_min(1)
    per_group = torch.einsum("gbo,sbo->sg", share, losses)
    return rearrange(per_group, "start group -> (start group)")


def cell_losses(
    model: Model, batch: Batch, tables: Sequence[PrefixTable], recipe: Recipe
) -> tuple[Float[Tensor, "start cell"], Float[Tensor, " cell"]]:
    """Return each table's summed loss in every cell, and how many answers each cell predicts.

    Args:
        model: a toy with one layer.
        batch: any number of sequences.
        tables: one per start.
        recipe: its precision is used.
    """
    host, n_cells = host_of(model), tables[0].log_mass[0].numel()
    sums = torch.zeros(len(tables), n_cells, dtype=torch.float64)
    counts = torch.zeros(n_cells, dtype=torch.float64)
    for part in parts_of(batch, host.device):
        rows, given = _without_grad(model, part), part.given
        with torch.no_grad():
            losses = _losses(model, part, rows, tables, recipe)[:, given].double().cpu()
        cell = rows.cell[given].cpu()
        sums.index_add_(1, cell, losses)
        counts.index_add_(0, cell, torch.ones(len(cell), dtype=torch.float64))
    return sums, counts


def best_starts(
    sums: Float[Tensor, "start cell"], units: Int[Tensor, " cell"]
) -> Int[Tensor, " cell"]:
    """Return which start has the smallest loss in each cell; equal units take the same.

    Args:
        sums: each start's summed loss in each cell.
        units: number of each cell's unit.
    """
    whole = torch.zeros(len(sums), int(units.max()) + 1, dtype=sums.dtype)
    whole = whole.index_add(1, units, sums)
    picks = whole.argmin(dim=0)
    # A cell that was never seen takes what is best on the whole.
    return torch.where((whole == 0).all(dim=0), sums.sum(dim=1).argmin(), picks)[units]


def merged(tables: Sequence[PrefixTable], chosen: Int[Tensor, "pos token"]) -> PrefixTable:
    """Return the table that takes each cell from the start chosen for it."""
    mass = torch.stack([t.log_mass for t in tables])
    value = torch.stack([t.mean_value for t in tables])
    pos, token = torch.meshgrid(*map(torch.arange, chosen.shape), indexing="ij")
    pick = chosen.to(mass.device), slice(None), pos, token
    return PrefixTable(
        rearrange(mass[pick], "pos token head -> head pos token"),
        rearrange(value[pick], "pos token head d_head -> head pos token d_head"),
    )


def _without_grad(model: Model, batch: Batch) -> HeadRows:
    with torch.no_grad():
        return head_rows(model, batch)


def _losses(
    model: Model, batch: Batch, rows: HeadRows, tables: Sequence[PrefixTable], recipe: Recipe
) -> Float[Tensor, "start batch n_out"]:
    z = torch.cat([table.outputs(rows) for table in tables])
    with in_precision(model, recipe):
        logits = row_logits(model, rows.resid.repeat(len(tables), 1, 1), z)
    answers = batch.answers.repeat(len(tables), 1)
    losses = F.cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
    return losses.unflatten(0, (len(tables), -1))
