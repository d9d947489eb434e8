"""The last stage of the search for the best table: L-BFGS on fixed sequences.

On fixed data the loss of a group of cells is a smooth function of a few hundred numbers, which a
quasi-Newton method takes much further than steps on fresh noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.models.host import Model, host_of
from prefix_interp.tasks import Batch
from prefix_interp.theory.reach_search import Groups
from prefix_interp.theory.reach_tables import HeadRows, PrefixTable, head_rows, parts_of, row_logits
from prefix_interp.tuning.loop import Run
from prefix_interp.tuning.parallel import one_thread


def polished(
    model: Model, batch: Batch, groups: Groups, table: PrefixTable, iterations: int, *,
    progress: bool = False,
) -> PrefixTable:  # fmt: skip
    """Return a table after L-BFGS on each group of its cells, for the mean loss on a batch.

    A value u enters as g u, and the gate g differs by cell. So where each cell has its own value,
    its variable is u times the cell's usual gate: otherwise a cell with a small gate hardly moves.

    Args:
        model: a toy with one layer, whose weights are frozen.
        batch: the sequences that count.
        groups: the cells that are searched together.
        table: where the search begins.
        iterations: most of each group.
        progress: show a bar.
    """
    rows, answers = _read(model, batch)
    usual = _usual_gates(rows, table)
    runs = groups.runs(0, table, 1.0)
    done = []
    mask = groups.of_rows(rows.cell)[..., 0].bool()
    bar = tqdm(list(zip(runs, mask, strict=True)), desc="polish", disable=not progress)
    with one_thread():
        for run, own in bar:
            part = HeadRows(*(x[own] for x in vars(rows).values()))
            gates = None
            if groups.values == "cell":
                (pos,) = groups.members[len(done)]
                gates = usual[:, pos : pos + 1, :, None]

            def loss(now: Run, run=run, part=part, answers=answers[own]) -> Tensor:
                found = groups.table([now if each is run else each for each in runs], table)
                logits = row_logits(model, part.resid, found.outputs(part))
                return F.cross_entropy(logits[:, 0], answers)

            done.append(_minimise(run, loss, gates, iterations))
    with torch.no_grad():
        return groups.table(done, table)


def _minimise(
    run: Run, loss: Callable[[Run], Tensor], gates: Tensor | None, iterations: int
) -> Run:
    """Return the run at the minimum that is found; at its start if that is no worse."""
    scales = {"mean_value": gates} if gates is not None else {}
    with torch.no_grad():
        free = {k: (x * scales.get(k, 1)).requires_grad_(True) for k, x in run.parameters.items()}

    def now() -> Run:
        found = {k: x / scales.get(k, 1) for k, x in free.items()}
        return Run(run.label, found, run.lr, run.decayed)

    optimiser = torch.optim.LBFGS(
        list(free.values()), max_iter=iterations, history_size=50, tolerance_grad=1e-9,
        tolerance_change=1e-12, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(now())
        value.backward()
        return value

    optimiser.step(closure)
    with torch.no_grad():
        return now() if bool(loss(now()) <= loss(run)) else run


def _read(model: Model, batch: Batch) -> tuple[HeadRows, Tensor]:
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


def _usual_gates(rows: HeadRows, table: PrefixTable) -> Float[Tensor, "head pos token"]:
    """Return the gate of each cell at the mean of its content's log; at that of all if unseen."""
    logs, cell = rows.log_content[:, 0], rows.cell[:, 0]
    n_heads, n_pos, d_vocab = table.log_mass.shape
    sums = logs.new_zeros(n_pos * d_vocab, n_heads).index_add(0, cell, logs)
    counts = torch.bincount(cell, minlength=n_pos * d_vocab)[:, None]
    mean = torch.where(counts > 0, sums / counts.clamp_min(1), logs.mean(dim=0))
    usual = rearrange(mean, "(pos token) head -> head pos token", token=d_vocab)
    # A gate of 0 would divide by 0.
    return (table.log_mass - usual).sigmoid().clamp_min(1e-4)
