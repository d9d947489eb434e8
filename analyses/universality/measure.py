"""How well one fixed head fits functions on a sphere with 4 to 1024 slots (Petrov et al. 2024).

One prefix fits all functions at once, with their outputs side by side. Besides the error, the study
measures what no prefix can change: relative attention (eq. 6), the split of the head's output (eq.
7) and the bound on the bias's rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from analyses.study import Job, Rows, Tables
from analyses.universality.kernel_head import KernelHead, kernel_head, slots_for
from analyses.universality.sphere import concentration, random_points, sphere_functions
from prefix_interp.models.model import clone, to_dtype
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.decompose import decompose_attention
from prefix_interp.theory.subspace import subspaces_of

# How the values are chosen, and kappa as a multiple of the rule's.
METHODS: dict[str, tuple[str, float]] = {
    "quadrature": ("quadrature", 1.0),
    "least squares": ("least_squares", 1.0),
    "least squares, flat": ("least_squares", 0.25),
    "random values": ("random", 1.0),
}
N_SLOPE = 16  # smallest number of slots for the order of convergence


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        dims: m of the spheres S^m.
        n_slots: numbers of slots to try.
        n_test: number of held-out points.
        gate: the slots' share of the mass.
        n_sweep: number of slots at which `sharpnesses` and `gates` are swept.
        sharpnesses: kappa as multiples of the rule's.
        gates: shares of the mass.
        n_company: points per sequence when there is more than one.
    """

    dims: tuple[int, ...] = (1, 2, 4)
    n_slots: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    n_test: int = 4096
    gate: float = 0.99
    n_sweep: int = 256
    sharpnesses: tuple[float, ...] = (0.0625, 0.25, 0.5, 1.0, 2.0, 4.0)
    gates: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999)
    n_company: int = 8


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(
        dims=(2,), n_slots=(4, 16, 64), n_test=256, n_sweep=16, sharpnesses=(0.25, 1.0),
        gates=(0.5, 0.99), n_company=4,
    ),
}  # fmt: skip


def settings(preset: str) -> dict[str, Any]:
    """Return how the values are chosen under each method."""
    return {"methods": {method: list(how) for method, how in METHODS.items()}}


def measure(job: Job) -> Tables:
    """Return errors of one fixed head on `sphere_functions` against the number of slots.

    The seed decides the rotation of the keys, and training and test points. All rows have
    ``seed``, ``dim`` and ``method``: ``quadrature``, ``least squares`` (same keys), ``least
    squares, flat`` (a quarter of kappa), and the controls ``random values`` (same keys) and
    ``constant`` (0, the mean). Errors are by function: ``rmse`` and ``max_error`` (largest over
    points and outputs) on held-out points alone in their sequence; functions have variance 1.

    - ``"fit"``: errors at ``n_slots`` slots, ``rmse_float32`` of the same prefix in float32,
      ``kappa``, ``largest_value`` in the prefix; and for sequences of several points ``eq6`` and
      ``eq7`` (largest violations), ``rank`` and ``bound`` of the bias, ``gate`` at the first and
      ``gate_in_company`` at the last position (means).
    - ``"order"``: minus the slope of log error against log slots, from 16 slots on.
    - ``"sharpness"``: errors at one number of slots with kappa ``sharpness`` times the rule's.
    - ``"gate"``: errors with another ``gate``, and ``rmse_in_company`` at the last of several
      points, where content takes more of the mass.

    Args:
        job: one seed of the study.
    """
    tables: dict[str, Rows] = {}
    for dim in tqdm(job.protocol.dims, desc="spheres", disable=not job.progress):
        sphere = job.tables(f"sphere-{dim}", partial(_sphere, job.seed, dim, job.protocol))
        for name, rows in sphere.items():
            tables.setdefault(name, []).extend(rows)
    return tables


def _sphere(seed: int, dim: int, protocol: Protocol) -> Tables:
    return _Sphere(seed, dim, protocol).run()


class _Sphere:
    """One seed's fits on one sphere, and their rows."""

    def __init__(self, seed: int, dim: int, protocol: Protocol) -> None:
        self.seed, self.dim, self.protocol = seed, dim, protocol
        rng = derive_generator(seed, "universality", "test", dim)
        self.test = random_points(dim, protocol.n_test, rng)
        self.company = random_points(dim, 64 * protocol.n_company, rng).unflatten(
            0, (-1, protocol.n_company)
        )
        parts = sphere_functions(self.test)
        self.sizes = {name: values.shape[1] for name, values in parts.items()}
        self.truth = _side_by_side(self.test)
        self.head = kernel_head(dim, self.truth.shape[1], protocol.n_company)
        single = to_dtype(clone(self.head.model), torch.float32)
        self.single = KernelHead(single, dim, self.head.n_out)
        self.rows: dict[str, Rows] = {}

    def run(self) -> dict[str, Rows]:
        """Return the rows of all four tables."""
        self._row("fit", "constant", n_slots=0, **self._errors(torch.zeros_like(self.truth)))
        for method in METHODS:
            fits = [self._fit(method, n) for n in self.protocol.n_slots]
            self._row("order", method, **self._orders(fits))
        for method in ("quadrature", "least squares"):
            for sharpness in self.protocol.sharpnesses:
                prefix = self._slots(method, self.protocol.n_sweep, sharpness=sharpness)
                about = {"n_slots": self.protocol.n_sweep, "sharpness": sharpness}
                self._row("sharpness", method, **about, **self._errors(self._alone(prefix)))
        for method in ("quadrature", "least squares, flat"):
            for gate in self.protocol.gates:
                self._gate(method, gate)
        return self.rows

    def _slots(self, method: str, n_slots: int, **changed: float) -> Prefix:
        how, sharpness = METHODS[method]
        return slots_for(
            self.head, _side_by_side, n_slots, how, seed=self.seed,
            **{"gate": self.protocol.gate, "sharpness": sharpness, **changed},
        )  # fmt: skip

    def _alone(self, prefix: Prefix) -> Tensor:
        return self.head.outputs(prefix, self.test[:, None])[:, 0]

    def _fit(self, method: str, n_slots: int) -> dict[str, Any]:
        prefix = self._slots(method, n_slots)
        errors = self._errors(self._alone(prefix))
        coarse = self.single.outputs(
            prefix.for_any_model().to(self.single.model), self.test[:, None]
        )
        assert prefix.vectors is not None
        self._row(
            "fit", method, n_slots=n_slots, **errors,
            rmse_float32=self._errors(coarse[:, 0].double())["rmse"],
            kappa=METHODS[method][1] * concentration(self.dim, n_slots),
            largest_value=float(prefix.vectors[..., -self.head.n_out :].abs().max()),
            **identities(self.head, prefix, self.company[:8]),
        )  # fmt: skip
        return errors

    def _gate(self, method: str, gate: float) -> None:
        prefix = self._slots(method, self.protocol.n_sweep, gate=gate)
        last = self.head.outputs(prefix, self.company)[:, -1]
        self._row(
            "gate", method, n_slots=self.protocol.n_sweep, gate=gate,
            **self._errors(self._alone(prefix)),
            rmse_in_company=self._errors(last, _side_by_side(self.company[:, -1]))["rmse"],
        )  # fmt: skip

    def _errors(self, found: Tensor, truth: Tensor | None = None) -> dict[str, dict[str, float]]:
        misses = (found - (self.truth if truth is None else truth)).split(
            list(self.sizes.values()), dim=1
        )
        by_name = dict(zip(self.sizes, misses, strict=True))
        return {
            "rmse": {k: float(x.square().mean().sqrt()) for k, x in by_name.items()},
            "max_error": {k: float(x.abs().max()) for k, x in by_name.items()},
        }

    def _orders(self, fits: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        counts = self.protocol.n_slots
        late = [(n, fit) for n, fit in zip(counts, fits, strict=True) if n >= N_SLOPE]
        return {
            metric: {
                name: -log_slope([n for n, _ in late], [fit[metric][name] for _, fit in late])
                for name in self.sizes
            }
            for metric in ("rmse", "max_error")
        }

    def _row(self, part: str, method: str, **found: Any) -> None:
        about = {"seed": self.seed, "dim": self.dim, "method": method}
        self.rows.setdefault(part, []).append(about | found)


def _side_by_side(points: Float[Tensor, "batch coordinate"]) -> Float[Tensor, "batch out"]:
    return torch.cat(list(sphere_functions(points).values()), dim=1)


def identities(
    head: KernelHead, prefix: Prefix, points: Float[Tensor, "batch pos coordinate"]
) -> dict[str, float | int]:
    """Check the theory's statements on attention and bias, on sequences of several points.

    Args:
        head: from `kernel_head`.
        prefix: a prefix for its model.
        points: unit vectors, more than `d_head`, or the rank says nothing.

    Returns:
        ``eq6`` and ``eq7`` (largest violations), ``rank`` and ``bound`` of the bias, and the mean
        gate at the first position (``gate``) and at the last (``gate_in_company``).
    """
    with head.feed(points) as tokens:
        parts = decompose_attention(run_pair(head.model, prefix, tokens))
    space = subspaces_of(parts, head.model, prefix.n_slots)[0]
    return {
        **parts.max_errors(),
        "rank": space.rank,
        "bound": space.bound,
        "gate": float(parts.gate[..., 0].mean()),
        "gate_in_company": float(parts.gate[..., -1].mean()),
    }


def log_slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Return the slope of the least-squares line through log errors against log counts."""
    x = [math.log(n) for n in counts]
    y = [math.log(max(error, 1e-300)) for error in errors]
    centre = sum(x) / len(x)
    return sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum(
        (a - centre) ** 2 for a in x
    )
