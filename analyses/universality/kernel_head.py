"""One head with fixed weights that a prefix turns into any continuous function on a sphere.

Petrov, Torr and Bibi (2024) construct a single attention head that a sufficiently long prefix makes
approximate any continuous function of a unit vector x. This agrees with eq. 6 and 7: the bias sum_s
A_s(x) v_s stays in the span of the values, and attention within the content does not change. But
with many slots the shares A_s(x) form a kernel that can follow x anywhere.

Here the head is a `HookedTransformer` whose weights are ones and zeros. The score of a slot is
<x, k_s> + c_s, so a key k_s = kappa p_s of length kappa yields the von Mises-Fisher kernel
exp(kappa <x, p_s>). The prefix thus also sets the sharpness of the kernel, and the same weights
serve any number of slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.universality.sphere import concentration, even_points, random_points
from prefix_interp.errors import (
    PrefixInterpError,
    check_choice,
    check_number,
    check_positive,
)
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id, to_dtype
from prefix_interp.models.sites import Site
from prefix_interp.models.toy import ToyConfig, build_toy
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator

SlotValues = Literal["quadrature", "least_squares", "random"]
Function = Callable[[Tensor], Tensor]

RIDGE = 1e-13  # of the trace: 500 times the rounding of the normal equations
N_TRAIN = 512  # points at least; four per slot if that is more
UNIT = 1e-6  # largest deviation of a point's norm from 1


@dataclass(frozen=True, eq=False)
class KernelHead:
    """A transformer with one layer and one head; a prefix makes its logits a function of x.

    The residual stream has four parts: the ``point`` x of the content, which is query, key and
    value; the ``key`` and the ``offset`` of a slot, which only keys read; and its ``value``, which
    only the logits read. Content is 0 in the last three. So without a prefix all logits are 0 and
    the head averages points by their similarity. With a prefix it still does, scaled by 1 - g, and
    the logits are only the bias:

        f(x) = sum_s exp(<x, k_s> + c_s) v_s / (e + sum_s exp(<x, k_s> + c_s)),

    where e = exp(<x, x>) is the weight of x itself, the same everywhere on the sphere. Further
    content in front of x also takes mass, which scales f by the ratio of the gates.

    Attributes:
        model: the transformer; in float64 if made by `kernel_head`.
        dim: m of the sphere S^m.
        n_out: outputs of the function.
    """

    model: Model
    dim: int
    n_out: int

    def prefix(
        self,
        keys: Float[Tensor, "slot coordinate"],
        offsets: Float[Tensor, " slot"],
        values: Float[Tensor, "slot out"],
    ) -> Prefix:
        """Return the residual prefix whose slots have these keys, offsets and values.

        Args:
            keys: of any length.
            offsets: added to each slot's score.
            values: what each slot writes.

        Raises:
            PrefixInterpError: shapes that do not fit this head.
        """
        n = len(keys)
        expected = ((n, self.dim + 1), (n,), (n, self.n_out))
        for name, x, shape in zip(
            ("keys", "offsets", "values"), (keys, offsets, values), expected, strict=True
        ):
            if tuple(x.shape) != shape:
                raise PrefixInterpError(
                    f"{name} has shape {tuple(x.shape)} but {n} slots of this head need {shape}; "
                    "give one row per slot"
                )
        unused = keys.new_zeros(n, self.dim + 1)  # slots are not points
        vectors = torch.cat([unused, keys, offsets[:, None], values], dim=1)[None]
        own = model_id(self.model)
        return Prefix("residual", vectors.to(host_of(self.model).dtype), model_id=own)

    @contextmanager
    def feed(
        self, points: Float[Tensor, "batch pos coordinate"]
    ) -> Iterator[Int[Tensor, "batch pos"]]:
        """Write `points` at the embedding within a with block; yield tokens to call with.

        The tokens only indicate the number of points. Use `attach` and `run_pair` inside the block.

        Args:
            points: unit vectors, one sequence per row; a query also sees the points before it.

        Raises:
            PrefixInterpError: another number of coordinates, or a vector whose length is not 1.
        """
        self._check_points(points)
        tokens = torch.zeros(points.shape[:2], dtype=torch.long)

        def write(embed: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
            rest = embed.new_zeros(*points.shape[:2], embed.shape[2] - points.shape[2])
            return torch.cat([points.to(embed.dtype), rest], dim=2)

        with self.model.hooks(fwd_hooks=[(Site.EMBED.at(), write)]):
            yield tokens

    def outputs(
        self, prefix: Prefix, points: Float[Tensor, "batch pos coordinate"]
    ) -> Float[Tensor, "batch pos out"]:
        """Return the model's logits at `points` under `prefix`: the function it computes.

        Args:
            prefix: from `prefix` or `slots_for`.
            points: unit vectors; with one position, the function of x alone.

        Raises:
            PrefixInterpError: bad points, or a prefix of another model.
        """
        with torch.no_grad(), self.feed(points) as tokens:
            # No rows for slots: there may be a thousand of them, and a single point per sequence.
            with attach(self.model, prefix, method="mixture"):
                return self.model(tokens)

    def _check_points(self, points: Tensor) -> None:
        if points.shape[-1] != self.dim + 1:
            raise PrefixInterpError(
                f"points have {points.shape[-1]} coordinates but the sphere S^{self.dim} has "
                f"{self.dim + 1}; give unit vectors of that many"
            )
        off = float((points.norm(dim=-1) - 1).abs().max())
        if not off <= UNIT:
            raise PrefixInterpError(
                f"points have lengths up to {off:.3g} away from 1; divide them by their norms"
            )


def kernel_head(dim: int, n_out: int, n_content: int = 8) -> KernelHead:
    """Return the head of `KernelHead` in float64; its weights depend on these sizes alone.

    Args:
        dim: m of the sphere S^m.
        n_out: outputs of the function.
        n_content: largest number of points in a sequence.

    Raises:
        PrefixInterpError: a size below 1.
    """
    for name, size in (("dim", dim), ("n_out", n_out), ("n_content", n_content)):
        check_positive(name, size)
    point, key = torch.arange(2 * (dim + 1)).split(dim + 1)
    offset = 2 * (dim + 1)
    value = torch.arange(n_out) + offset + 1
    cfg = ToyConfig(
        n_layers=1, n_heads=1, d_model=offset + 1 + n_out, n_prefix=1, n_content=n_content,
        d_vocab=n_out, normalization="none", attn_only=True,
    )  # fmt: skip
    model = to_dtype(build_toy(cfg), torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        attn = model.blocks[0].attn
        # Queries are x and a constant 1 for the offset; the factor undoes the scaling of scores.
        attn.W_Q[0, point, point] = attn.attn_scale
        attn.b_Q[0, offset] = attn.attn_scale
        attn.W_K[0, point, point] = 1
        attn.W_K[0, key, point] = 1
        attn.W_K[0, offset, offset] = 1
        for part in (point, value):
            attn.W_V[0, part, part] = 1
        attn.W_O[0, range(cfg.d_model), range(cfg.d_model)] = 1
        model.unembed.W_U[value, range(n_out)] = 1
    return KernelHead(model, dim, n_out)


def slots_for(
    head: KernelHead,
    function: Function,
    n_slots: int,
    method: SlotValues | str = "quadrature",
    *,
    gate: float = 0.99,
    sharpness: float = 1.0,
    seed: int = 0,
) -> Prefix:
    """Return a prefix of `n_slots` slots that makes `head` approximate `function`.

    Keys are even points on the sphere times kappa. One common offset sets the slots' share of the
    mass: averaged over the sphere, the logit of the gate is that of `gate`. Values are

    - ``"quadrature"``: function(p_s) / gate, so that f is a weighted mean of nearby values;
    - ``"least_squares"``: the best for these keys on random points, with a ridge of 1e-13 of the
      trace (the equations include the effect of the gate);
    - ``"random"``: normal with variance 1, as a control.

    Args:
        head: from `kernel_head`.
        function: takes points ``batch coordinate``, returns ``batch out``.
        n_slots: slots.
        method: how to choose the values.
        gate: the slots' share of the mass with one point of content, between 0 and 1.
        sharpness: kappa as a multiple of `concentration`.
        seed: decides the rotation of the points, the training points and random values.

    Raises:
        PrefixInterpError: an argument out of range, or a function of another shape.
    """
    check_choice("method", method, get_args(SlotValues))
    check_positive("n_slots", n_slots)
    check_number("sharpness", sharpness, low_open=True)
    check_number("gate", gate, low_open=True)
    if gate >= 1:
        raise PrefixInterpError(f"gate={gate!r} must be below 1: content keeps some of its mass")
    points = even_points(head.dim, n_slots, seed)
    keys = sharpness * concentration(head.dim, n_slots) * points
    rng = derive_generator(seed, "universality", n_slots)
    train = random_points(head.dim, max(N_TRAIN, 4 * n_slots), rng)
    scores = train @ keys.T
    offset = math.log(gate / (1 - gate)) + 1 - float(scores.logsumexp(dim=-1).mean())
    if method == "quadrature":
        values = _evaluated(head, function, points) / gate
    elif method == "least_squares":
        own = scores.new_ones(len(train), 1)  # <x, x>
        mass = torch.cat([scores + offset, own], dim=1).softmax(dim=-1)[:, :-1]
        values = _ridge(mass, _evaluated(head, function, train))
    else:
        values = torch.randn(n_slots, head.n_out, generator=rng, dtype=torch.float64)
    return head.prefix(keys, keys.new_full((n_slots,), offset), values)


def _evaluated(head: KernelHead, function: Function, points: Tensor) -> Tensor:
    values = function(points)
    if tuple(values.shape) != (len(points), head.n_out):
        raise PrefixInterpError(
            f"function returns shape {tuple(values.shape)} for {len(points)} points; this head "
            f"needs {(len(points), head.n_out)}, one row per point"
        )
    if not bool(torch.isfinite(values).all()):
        raise PrefixInterpError("function returns NaN or infinity; give one that is finite")
    return values.to(points.dtype)


def _ridge(
    mass: Float[Tensor, "batch slot"], targets: Float[Tensor, "batch out"]
) -> Float[Tensor, "slot out"]:
    gram = mass.T @ mass
    gram.diagonal().add_(RIDGE * gram.trace())
    return torch.cholesky_solve(mass.T @ targets, torch.linalg.cholesky(gram))
