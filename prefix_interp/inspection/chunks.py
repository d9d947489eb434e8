"""How many sequences run at a time, so that memory stays bounded, and how much is patched."""

from __future__ import annotations

from dataclasses import dataclass

from prefix_interp.models.host import Model, host_of

_BYTES = 5 * 2**29  # for the activations of one chunk
_RUNS = 5  # caches held at once: on, off, held, and a gradient's
_LOGITS = 10  # copies of the logits held at once: of runs, metrics and gradients
MAX_SEQUENCES = 64
_SMALL = 64  # heads of a model in which all of them can be patched


def chunk_size(model: Model, length: int, n_slots: int) -> int:
    """Return how many sequences may run at once, 1 to 64.

    Args:
        model: defines the size of activations.
        length: of the longest sequence.
        n_slots: slots in front of it.
    """
    host = host_of(model)
    rows = length + n_slots
    heads = host.n_heads * (6 * host.d_head + 3 * rows)
    layer = 12 * host.d_model + 3 * host.d_mlp + heads
    a_row = _RUNS * host.n_layers * layer + _LOGITS * host.d_vocab
    return max(1, min(MAX_SEQUENCES, _BYTES // (rows * a_row * host.dtype.itemsize)))


def stack_size(model: Model, n_batch: int, length: int) -> int:
    """Return how many interventions on a chunk may run at once, 1 to 64.

    Args:
        model: defines the size of the logits.
        n_batch: sequences of the chunk.
        length: of the longest of them.
    """
    host = host_of(model)
    row = 8 * host.d_vocab + 12 * host.d_model + 3 * host.d_mlp
    one = n_batch * length * row * host.dtype.itemsize
    return max(1, min(MAX_SEQUENCES, _BYTES // (2 * one)))


@dataclass(frozen=True)
class Effort:
    """How much is patched exactly.

    Attributes:
        n_leading: heads that are patched: those with the largest estimates.
        n_random: norm-matched random prefixes that each is compared with, at least 2.
        n_examples: sequences they are patched on.
        n_shown: sequences whose attention the explorer shows.
    """

    n_leading: int
    n_random: int
    n_examples: int
    n_shown: int = 3

    @classmethod
    def for_model(cls, model: Model) -> Effort:
        """Return what a model of this size can afford on two cores in a few minutes."""
        host = host_of(model)
        n_heads = host.n_layers * host.n_heads
        if n_heads <= _SMALL:
            return cls(n_leading=min(n_heads, 8), n_random=39, n_examples=32)
        return cls(n_leading=6, n_random=19, n_examples=8)
