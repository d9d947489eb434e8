"""Where slots and content stand in a model's context: the positions of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.model import Model
from prefix_interp.models.toy import Toy


@dataclass(frozen=True, eq=False)
class Positions:
    """The part of `Host` that knows positions.

    Attributes:
        model: the model.
    """

    model: Model
    places_rows: ClassVar[bool] = False  # whether rows added at the embedding get positions

    @property
    def adds_rows(self) -> bool:
        """Return whether more rows can come out than tokens go in."""
        return True

    @property
    def n_ctx(self) -> int:
        """Return the number of positions, including those of slots."""
        return self.model.cfg.n_ctx

    @property
    def n_reserved(self) -> int | None:
        """Return the number of positions that a toy keeps for slots; None if it is not a toy."""
        return self.model.toy_config.n_prefix if isinstance(self.model, Toy) else None

    @property
    def learned_positions(self) -> bool:
        """Return whether each position has an embedding (otherwise keys and queries rotate)."""
        return self.model.cfg.positional_embedding_type == "standard"

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:
        """Return the learned position embeddings."""
        return self.model.W_pos

    def content_start(self, n_slots: int, *, keep: bool = False) -> int:
        """Return the position of the first content token behind a prefix of `n_slots` slots.

        It is `n_slots`, except in a toy, whose content keeps its trained positions, or with `keep`:
        there slots carry no position, so the model takes a prefix of any length.
        """
        if self.n_reserved is not None:
            return self.n_reserved
        return 0 if keep else n_slots

    def room(self, n_slots: int, *, keep: bool = False) -> int:
        """Return how many content tokens fit into the context after `n_slots` slots."""
        return self.n_ctx - self.content_start(n_slots, keep=keep)

    def check_room(self, n_slots: int, n_content: int, *, keep: bool = False) -> None:
        """Raise unless `n_content` tokens fit into the context after `n_slots` slots.

        Raises:
            PrefixInterpError: more content than fits.
        """
        room = self.room(n_slots, keep=keep)
        if n_content > room:
            raise PrefixInterpError(
                f"tokens have {n_content} positions, more than the context of {self.n_ctx} holds "
                f"behind the slots; give at most {room}"
            )

    def slot_positions(self, n_slots: int) -> Float[Tensor, "slot d_model"]:
        """Return position embeddings of slots in front; past the reserved, the last repeats."""
        last = min(max(self.content_start(n_slots), 1), self.n_ctx) - 1
        return self.W_pos[torch.arange(n_slots).clamp(max=last)]

    def content_positions(
        self, n_slots: int, n_content: int, *, keep: bool = False
    ) -> Float[Tensor, "pos d_model"]:
        """Return the position embeddings of content behind `n_slots` slots.

        Raises:
            PrefixInterpError: more content than the context holds there.
        """
        self.check_room(n_slots, n_content, keep=keep)
        start = self.content_start(n_slots, keep=keep)
        return self.W_pos[start : start + n_content]

    def position_rows(
        self, n_slots: int, n_content: int, before: int = 0, *, keep: bool = False
    ) -> Float[Tensor, "all_pos d_model"]:
        """Return the position embeddings of slots and content, in the order of the sequence.

        In a toy the content keeps its trained positions, slots in front have the reserved ones,
        later slots none. Otherwise they are consecutive over both, or the content keeps its own.

        Args:
            n_slots: number of rows that are not content.
            n_content: content tokens.
            before: number of content tokens in front of the slots.
            keep: whether the content keeps its positions.

        Raises:
            PrefixInterpError: more content than the context holds.
        """
        content = self.content_positions(n_slots, n_content, keep=keep)
        start = self.content_start(n_slots, keep=keep)
        consecutive = (self.n_reserved is None and not keep) or (n_slots == start and before == 0)
        if consecutive:
            return self.W_pos[: n_slots + n_content]
        own = self.slot_positions(n_slots)
        own = torch.zeros_like(own) if before else own
        return torch.cat([content[:before], own, content[before:]])
