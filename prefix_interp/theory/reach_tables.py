"""A prefix of any length in a one-layer toy: two functions of the query, as a free table.

In one layer a query depends on its token and position alone: its *cell*. However many slots there
are, a head sees only the log of their summed exponentials and the mean of their values, and both
depend on the query alone. A table of both, free at every head and cell, contains every prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.models.toy import toy_config
from prefix_interp.prefixes.given import ContextLike, as_prefix
from prefix_interp.tasks import Batch
from prefix_interp.tuning.evaluate import marked

_ROWS = 2000  # sequences per pass


@dataclass(frozen=True, eq=False)
class HeadRows:
    """What the content alone gives each head where answers are predicted.

    Attributes:
        cell: number of the query's cell, position * d_vocab + token.
        resid: residual stream before the layer.
        log_content: log of the content's summed exponentials.
        base: the head's output without a prefix (t in the formulas).
    """

    cell: Int[Tensor, "batch n_out"]
    resid: Float[Tensor, "batch n_out d_model"]
    log_content: Float[Tensor, "batch n_out head"]
    base: Float[Tensor, "batch n_out head d_head"]


@dataclass(frozen=True, eq=False)
class PrefixTable:
    """What a prefix of any length is to each head of a one-layer toy.

    Attributes:
        log_mass: log of the slots' summed exponentials, at each position (0-based, among the
            content) and token of the query.
        mean_value: mean of the slots' values, weighted by their attention.
    """

    log_mass: Float[Tensor, "head pos token"]
    mean_value: Float[Tensor, "head pos token d_head"]

    def read(
        self, cell: Int[Tensor, "batch n_out"]
    ) -> tuple[Float[Tensor, "batch n_out head"], Float[Tensor, "batch n_out head d_head"]]:
        """Return log mass and mean value of the cells of some rows; gradients flow to the table."""
        mass = rearrange(self.log_mass, "head pos token -> (pos token) head")
        value = rearrange(self.mean_value, "head pos token d_head -> (pos token) (head d_head)")
        n_heads = self.log_mass.shape[0]
        # F.embedding has a faster backward pass than indexing.
        values = F.embedding(cell, value).unflatten(-1, (n_heads, -1))
        return F.embedding(cell, mass), values

    def gate(self, rows: HeadRows) -> Float[Tensor, "batch n_out head"]:
        """Return the share of attention that the prefix takes at some rows."""
        return (self.read(rows.cell)[0] - rows.log_content).sigmoid()

    def outputs(self, rows: HeadRows) -> Float[Tensor, "batch n_out head d_head"]:
        """Return each head's output at some rows: (1 - g) t + g u, with u the mean value."""
        mass, value = self.read(rows.cell)
        gate = (mass - rows.log_content).sigmoid()[..., None]
        return (1 - gate) * rows.base + gate * value


def check_one_layer(model: Model) -> None:
    """Raise unless `model` is a toy with one layer.

    Raises:
        PrefixInterpError: it is not.
    """
    n_layers = toy_config(model).n_layers
    if n_layers != 1:
        raise PrefixInterpError(
            f"model has {n_layers} layers; in deeper ones a query depends on more than its token "
            "and position: give a toy with one layer"
        )


def head_rows(model: Model, batch: Batch) -> HeadRows:
    """Return what the content gives each head at the rows that predict the batch's answers.

    Args:
        model: a toy with one layer.
        batch: tokens and answers, on the device of the model.
    """
    host = host_of(model)
    attn, n_pos = host.attention(0), batch.tokens.shape[1]
    start = host.content_positions(host.n_reserved or 0, n_pos)
    resid = host.embed(batch.tokens) + start
    pos = repeat(torch.arange(n_pos, device=resid.device), "pos -> batch pos 1", batch=len(resid))
    at, token, rows = (batch.read(x) for x in (pos, batch.tokens[..., None], resid))
    q, k, v = attn.project(rows, "Q"), attn.project(resid, "K"), attn.project(resid, "V")
    scores = einsum(q, k, "batch query head d_head, batch key head d_head -> batch query head key")
    later = torch.arange(n_pos, device=resid.device) > at  # batch query key
    scores = (scores / attn.scale).masked_fill(later[:, :, None], -torch.inf)
    base = einsum(
        scores.softmax(dim=-1), v,
        "batch query head key, batch key head d_head -> batch query head d_head",
    )  # fmt: skip
    cell = (at * host.d_vocab + token)[..., 0]
    return HeadRows(cell, rows, scores.logsumexp(dim=-1), base)


def outputs_without_prefix(
    model: Model, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos head d_head"]:
    """Return what each head of a one-layer toy puts out at the content, without a prefix.

    Args:
        model: a toy with one layer; its content stands behind the positions kept for slots.
        tokens: content, without slots.

    Raises:
        PrefixInterpError: more than one layer, or no toy.

    Example:
        >>> toy = pi.load_toy("sort-descending-1l1h-fine-tuned")
        >>> tuple(outputs_without_prefix(toy, tokens).shape)
        (4, 19, 1, 96)
    """
    check_one_layer(model)
    with torch.no_grad():
        return head_rows(model, Batch(tokens, tokens).to(host_of(model).device)).base


def row_logits(
    model: Model,
    resid: Float[Tensor, "batch n_out d_model"],
    z: Float[Tensor, "batch n_out head d_head"],
) -> Float[Tensor, "batch n_out d_vocab"]:
    """Return the logits of rows whose heads put out `z`; gradients flow to it.

    Args:
        model: a toy with one layer, all of which but its attention acts on each row alone.
        resid: residual stream before the layer.
        z: as at `hook_z`.
    """
    host = host_of(model)
    with host.hooked([(Site.Z.at(0), lambda x, hook: z)]):
        return host.run_from(0, resid, skip_attention=True)


def cell_queries(model: Model, n_pos: int) -> Float[Tensor, "head pos token d_head"]:
    """Return the query of every cell.

    Args:
        model: a toy with one layer.
        n_pos: content positions.
    """
    host = host_of(model)
    tokens = host.embed(torch.arange(host.d_vocab))
    resid = tokens + host.content_positions(host.n_reserved or 0, n_pos)[:, None]
    queries = host.attention(0).project(resid, "Q").detach()
    return rearrange(queries, "pos token head d_head -> head pos token d_head")


def table_of_prefix(model: Model, prefix: ContextLike) -> PrefixTable:
    """Return the table of an actual prefix: its log mass and mean value in every cell.

    Args:
        model: a toy with one layer.
        prefix: of either parameterization.

    Raises:
        PrefixInterpError: another model, or a prefix that does not fit it.

    Example:
        >>> toy = pi.load_toy("sort-ascending-1l1h")
        >>> table = table_of_prefix(toy, pi.load_prefixes("sort-ascending-1l1h")["sort_descending"])
        >>> tuple(table.mean_value.shape)  # head, pos, token, d_head
        (1, 19, 11, 96)
    """
    check_one_layer(model)
    host, own = host_of(model), as_prefix(prefix)
    ((keys, values),) = own.keys_values(model)
    q = cell_queries(model, toy_config(model).n_content)
    scores = einsum(q, keys, "head pos token d, slot head d -> head pos token slot")
    scores = (scores / host.attention(0).scale).detach()
    mean = einsum(
        scores.softmax(-1), values.detach(),
        "head pos token slot, slot head d -> head pos token d",
    )  # fmt: skip
    return PrefixTable(scores.logsumexp(-1), mean)


def output_scores(
    model: Model, batch: Batch, outputs: Callable[[HeadRows], Tensor]
) -> tuple[Bool[Tensor, "batch n_out"], Float[Tensor, " batch"]]:
    """Return which answers are right with other head outputs, and the losses in nats per output.

    Args:
        model: a toy with one layer.
        batch: sequences and answers.
        outputs: each head's output at some rows, e.g. the method of a `PrefixTable`.
    """
    found = []
    for part in parts_of(batch, host_of(model).device):
        with torch.no_grad():
            rows = head_rows(model, part)
            found.append(marked(row_logits(model, rows.resid, outputs(rows)), part.answers))
    right, loss = (torch.cat(each) for each in zip(*found, strict=True))
    return right, loss


def parts_of(batch: Batch, device: torch.device) -> list[Batch]:
    """Return a batch in parts that fit into memory, on a device."""
    starts = range(0, len(batch.tokens), _ROWS)
    return [batch.part(slice(i, i + _ROWS)).to(device) for i in starts]
