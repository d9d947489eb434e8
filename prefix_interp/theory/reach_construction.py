"""A long kv prefix that does what a table says: one slot for each cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_number
from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.theory.least_squares import least_distance
from prefix_interp.theory.reach_tables import cell_queries, check_one_layer, table_of_prefix
from prefix_interp.theory.reachability import AnyLengthBound

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class TablePrefix(ResultObject):
    """A kv prefix built from a table, and how far it is from it.

    Attributes:
        prefix: one slot for each cell that the task uses.
        cells: each slot's own position and token.
        leak: what was allowed at a cell: mass of all other slots over that of its own.
        mass_error: largest difference of the log masses, over heads, at each cell, in nats.
        value_error: length of the difference of the mean values, the largest over heads, relative
            to the largest mean value of the head.
        key_norm: length of each slot's longest key.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> best = pi.any_length_bound(toy, task, preset="smoke", n=64, n_select=64, progress=False)
        >>> built = prefix_from_table(toy, best)
        >>> built.prefix.n_slots == int((best.n_cell > 0).sum())
        True
    """

    prefix: Prefix
    cells: Int[Tensor, "slot 2"]
    leak: float
    mass_error: Float[Tensor, " slot"]
    value_error: Float[Tensor, " slot"]
    key_norm: Float[Tensor, " slot"]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per slot: ``pos``, ``token``, both errors and the key's length."""
        pos, token = self.cells.T.tolist()
        columns = {
            "mass_error": self.mass_error.tolist(),
            "value_error": self.value_error.tolist(),
            "key_norm": self.key_norm.tolist(),
        }
        return pd.DataFrame({"pos": pos, "token": token, **columns})

    def caption(self) -> str:
        """Return the number of slots, and the largest errors."""
        return (
            f"{self.prefix.n_slots} slots, one for each cell; largest error of a log mass "
            f"{self.mass_error.max():.2g} nats, of a mean value {self.value_error.max():.2g} of "
            f"the largest; keys up to {self.key_norm.max():.3g} long"
        )

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return both errors at each cell."""
        return drawing("reachability.construction_figure")(self, figsize=figsize, width=width)


def prefix_from_table(
    model: Model, bound: AnyLengthBound, *, leak: float = 1e-4, lowest: float = 15.0
) -> TablePrefix:
    """Return a kv prefix with one slot for each cell that does what a table says.

    Each slot's key is the shortest that gives its own query the table's log mass, and all other
    queries so little that the other slots together have at most `leak` times a cell's mass. Such
    keys exist for every table and every leak if each query lies alone on an edge of the cone that
    the queries span, e.g. if they are linearly independent. Then the bound is tight.

    Args:
        model: the model of the bound.
        bound: from `any_length_bound`.
        leak: allowed mass of the other slots, relative to the cell's own; 0 to 1, without the ends.
        lowest: log masses more than this below the head's content are raised to there, where the
            prefix has a share of exp(-lowest): less makes keys longer to no effect.

    Raises:
        PrefixInterpError: another model, values out of range, or a cell for which there is no key.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> best = pi.any_length_bound(toy, task, preset="smoke", n=64, n_select=64, progress=False)
        >>> float(prefix_from_table(toy, best).mass_error.max()) < 0.01
        True
    """
    check_one_layer(model)
    check_number("leak", leak, 0.0, 0.999, low_open=True)
    check_number("lowest", lowest, low_open=True)
    if bound.model_id != model_id(model):
        raise PrefixInterpError(
            f"bound.model_id={bound.model_id!r} is not this model's {model_id(model)!r}; give the "
            "model that it was searched for"
        )
    host, used = host_of(model), bound.n_cell > 0
    queries = cell_queries(model, used.shape[0])[:, used.to(host.device)].double().cpu()
    mass = bound.log_mass[:, used].double().cpu()
    mass = mass.maximum(bound.log_content.double().cpu()[:, None] - lowest)
    scale = host.attention(0).scale
    cells = used.nonzero()
    keys = torch.stack(
        [
            _keys(q, m, scale, leak, cells, h)
            for h, (q, m) in enumerate(zip(queries, mass, strict=True))
        ],
        dim=1,
    )
    values = rearrange(bound.mean_value[:, used], "head slot d_head -> 1 slot head d_head")
    prefix = Prefix(
        "kv", keys=host.cast(keys)[None], values=host.cast(values), model_id=bound.model_id,
        metadata={"task": bound.task, "built_from": "any-length table"},
    )  # fmt: skip
    found = table_of_prefix(model, prefix)
    value = bound.mean_value[:, used].double().cpu()
    far = (found.mean_value[:, used].double().cpu() - value).norm(dim=-1)
    longest = value.norm(dim=-1).amax(dim=1, keepdim=True).clamp_min(torch.finfo(value.dtype).tiny)
    return TablePrefix(
        prefix, cells, leak,
        mass_error=(found.log_mass[:, used].double().cpu() - mass).abs().amax(dim=0),
        value_error=(far / longest).amax(dim=0),
        key_norm=keys.norm(dim=-1).amax(dim=1),
    )  # fmt: skip


def _keys(
    queries: Float[Tensor, "cell d_head"],
    mass: Float[Tensor, " cell"],
    scale: float,
    leak: float,
    cells: Int[Tensor, "cell 2"],
    head: int,
) -> Float[Tensor, "cell d_head"]:
    """Return one head's key for each cell."""
    margin = math.log(max(len(queries) - 1, 1) / leak)
    found = []
    for i, (own, level) in enumerate(zip(queries, mass, strict=True)):
        others = torch.arange(len(queries)) != i
        key = least_distance(
            queries[others], scale * (mass[others] - margin), own, float(scale * level)
        )
        if key is None:
            pos, token = cells[i].tolist()
            raise PrefixInterpError(
                f"bound cannot be built at position {pos}, token {token}, head {head}: its query "
                "is not alone on an edge of the cone of all queries, so that no key reaches it "
                "without reaching others; give a larger leak, or take the table as a bound alone"
            )
        found.append(key)
    return torch.stack(found)


def extreme_cells(model: Model, n_cell: Int[Tensor, "pos token"]) -> Bool[Tensor, "head cell"]:
    """Return which used cells' queries lie alone on an edge of the cone of all used queries.

    Args:
        model: a toy with one layer.
        n_cell: 0 for cells that are not used.
    """
    check_one_layer(model)
    used = n_cell > 0
    queries = cell_queries(model, used.shape[0])[:, used].double().cpu()
    queries = queries / queries.norm(dim=-1, keepdim=True)
    alone = [
        [
            least_distance(own[torch.arange(len(own)) != i], -torch.ones(len(own) - 1), q, 0.0)
            is not None
            for i, q in enumerate(own)
        ]
        for own in queries
    ]
    return torch.tensor(alone)
