"""`Construction`: a transformer that a soft prompt can give any behaviour of a whole family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import to_dtype
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.soft_inject import soft_hooks
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.theory.constructions.weights import Places

_NUMBERS = 2**21  # in the widest tensor of one forward pass; a dozen live at once


@dataclass(frozen=True, eq=False)
class Construction:
    """A model with weights set by hand, and the soft prompt for each behaviour.

    Codes are 0-based: 0 to V - 1. A behaviour is a table of shape ``hardest.shape``, with an
    output, or a row of outputs, per input. `attach` puts the prompt before the input; pass
    ``predict_first=True`` if there is no input (``n_in`` of 0).

    Attributes:
        name: name of the function that made it.
        model: no norms, ReLU, causal; every weight not set by hand is 0.
        n_tokens: V.
        n_in: tokens per input (the paper's n_X).
        n_slots: virtual tokens (n_S).
        temperature: T, an inverse temperature: the score of the key that a head looks at; all other
            keys score 0. It is part of W_Q.
        smallest_temperature: above it, in exact arithmetic, every behaviour comes out right on
            every input; just below it `hardest` does not. It is 0 if no T is too small.
        hardest: the behaviour that needs the largest T.
        heads: names of the heads of block 0; heads of other blocks write 0.
        coordinates: those of the residual stream, by the name of what they hold.
        pack: maps behaviours to the slots' values in the coordinates ``token``, in float64.
    """

    name: str
    model: Model
    n_tokens: int
    n_in: int
    n_slots: int
    temperature: float
    smallest_temperature: float
    hardest: Int[Tensor, "*behaviour"]
    heads: tuple[str, ...]
    coordinates: Mapping[str, range]
    pack: Callable[[Int[Tensor, "stack *behaviour"]], Float[Tensor, "stack slot coordinate"]]

    @property
    def n_out(self) -> int:
        """Return the number of output tokens (the paper's n_Y, or N if there is no input)."""
        return self.hardest.numel() // self.n_tokens**self.n_in

    @property
    def n_behaviours(self) -> int:
        """Return how many behaviours there are, each with its own prompt."""
        return self.n_tokens ** self.hardest.numel()

    def encode(self, behaviour: Int[Tensor, "*behaviour"] | Sequence[Any]) -> SoftPrompt:
        """Return the soft prompt that makes the model do `behaviour`.

        Args:
            behaviour: codes in the shape of `hardest`, as a tensor or lists.

        Raises:
            PrefixInterpError: another shape, or codes outside the vocabulary.
        """
        return SoftPrompt(self.encode_stack(torch.as_tensor(behaviour)[None])[0])

    def encode_stack(
        self, behaviours: Int[Tensor, "stack *behaviour"]
    ) -> Float[Tensor, "stack layer=1 slot d_model"]:
        """Return the vectors of a stack of soft prompts, for `soft_hooks`.

        Args:
            behaviours: codes.

        Raises:
            PrefixInterpError: another shape, or codes outside the vocabulary.
        """
        self._check_codes("behaviours", behaviours, tuple(self.hardest.shape))
        host = host_of(self.model)
        vectors = host.cast(torch.zeros(len(behaviours), 1, self.n_slots, host.d_model))
        vectors[:, 0, :, list(self.coordinates["token"])] = self.pack(behaviours).to(vectors)
        return vectors

    def inputs(self) -> Int[Tensor, "batch n_in"]:
        """Return all V^n_in inputs; without input tokens this is one input of length 0."""
        codes = torch.arange(self.n_tokens**self.n_in)
        digits = [codes // self.n_tokens**i % self.n_tokens for i in reversed(range(self.n_in))]
        return torch.stack(digits, dim=1) if digits else codes.new_zeros(1, 0)

    def wanted(
        self,
        behaviours: Int[Tensor, "stack *behaviour"],
        inputs: Int[Tensor, "batch n_in"] | None = None,
    ) -> Int[Tensor, "stack batch n_out"]:
        """Return the outputs that the behaviours' tables ask for.

        Args:
            behaviours: codes.
            inputs: codes; None takes all of them.

        Raises:
            PrefixInterpError: another shape, or codes outside the vocabulary.
        """
        inputs = self.inputs() if inputs is None else inputs
        self._check_codes("behaviours", behaviours, tuple(self.hardest.shape))
        self._check_codes("inputs", inputs, (self.n_in,))
        rows = torch.zeros(len(inputs), dtype=torch.long)
        for column in inputs.T:
            rows = rows * self.n_tokens + column
        return behaviours.reshape(len(behaviours), -1, self.n_out)[:, rows]

    def run(
        self,
        behaviours: Int[Tensor, "stack *behaviour"],
        inputs: Int[Tensor, "batch n_in"] | None = None,
    ) -> Int[Tensor, "stack batch n_out"]:
        """Return what the model generates greedily under every behaviour's prompt, on every input.

        Args:
            behaviours: codes.
            inputs: codes; None takes all of them.

        Raises:
            PrefixInterpError: another shape, or codes outside the vocabulary.
        """
        out = torch.zeros_like(self.wanted(behaviours, inputs))
        for part, hooks, tokens in self._parts(behaviours, inputs):
            shape = out[part].shape
            for _ in range(self.n_out):
                following = self._predict(tokens, hooks, rows=1)
                tokens = torch.cat([tokens, following], dim=1)
            out[part] = tokens[:, self.n_in :].reshape(shape)
        return out

    def right(
        self,
        behaviours: Int[Tensor, "stack *behaviour"],
        inputs: Int[Tensor, "batch n_in"] | None = None,
    ) -> Bool[Tensor, "stack batch"]:
        """Return where `run` would return all wanted outputs, from one forward pass.

        The wanted outputs are fed back instead of the model's own: greedy decoding is right on
        all of them if and only if each is predicted from those before it.

        Args:
            behaviours: codes.
            inputs: codes; None takes all of them.

        Raises:
            PrefixInterpError: another shape, or codes outside the vocabulary.
        """
        wanted = self.wanted(behaviours, inputs)
        right = torch.zeros(wanted.shape[:2], dtype=torch.bool)
        for part, hooks, tokens in self._parts(behaviours, inputs):
            answers = wanted[part].flatten(0, 1)
            fed = torch.cat([tokens, answers[:, :-1]], dim=1)
            same = self._predict(fed, hooks, rows=self.n_out) == answers
            right[part] = same.all(-1).reshape(right[part].shape)
        return right

    def _predict(self, tokens: Tensor, hooks: list[Hook], rows: int) -> Int[Tensor, "batch rows"]:
        """Return the likeliest next token at each of the last rows.

        After the attention of block 0 positions do not interact (later heads write 0), so only the
        rows that are read continue.
        """

        def cut(resid: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
            return resid[:, -rows:].contiguous()

        hooks = [*hooks, (Site.RESID_MID.at(0), cut)]
        with torch.no_grad():
            return self.model.run_with_hooks(tokens, fwd_hooks=hooks).argmax(-1)

    def _parts(
        self, behaviours: Tensor, inputs: Tensor | None
    ) -> Iterator[tuple[tuple[slice, slice], list[Hook], Tensor]]:
        """Yield blocks of behaviours and inputs that fit in memory, with hooks and tokens."""
        inputs = self.inputs() if inputs is None else inputs
        host = host_of(self.model)
        widest = max(host.d_model, host.n_heads * host.d_head, host.d_mlp, host.d_vocab)
        room = max(1, _NUMBERS // (host.n_ctx * widest))
        n_inputs = min(room, len(inputs))
        n_stack = room // n_inputs
        for i in range(0, len(behaviours), n_stack):
            vectors = self.encode_stack(behaviours[i : i + n_stack])
            hooks = soft_hooks(self.model, vectors, read=False)
            for j in range(0, len(inputs), n_inputs):
                some = inputs[j : j + n_inputs]
                part = (slice(i, i + n_stack), slice(j, j + n_inputs))
                yield part, hooks, some.repeat(len(vectors), 1)

    def _check_codes(self, argument: str, codes: Tensor, shape: tuple[int, ...]) -> None:
        whole = not codes.is_floating_point() and codes.dtype != torch.bool
        if not whole or tuple(codes.shape[1:]) != shape or not len(codes):
            raise PrefixInterpError(
                f"{argument} have shape {tuple(codes.shape)} and dtype {codes.dtype}; give "
                f"integers of shape {('stack', *shape)} with a stack of at least 1"
            )
        low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
        if low < 0 or high >= self.n_tokens:
            raise PrefixInterpError(
                f"{argument} hold {low if low < 0 else high}, outside the {self.n_tokens} codes; "
                f"allowed are 0 to {self.n_tokens - 1}"
            )


def finish(
    name: str,
    model: Model,
    at: Places,
    dtype: torch.dtype,
    *,
    n_in: int,
    n_slots: int,
    temperature: float,
    smallest_temperature: float,
    hardest: Int[Tensor, "*behaviour"],
    heads: tuple[str, ...],
    pack: Callable[[Tensor], Tensor],
) -> Construction:
    """Return the construction around a model whose weights are set, converted to `dtype`."""
    to_dtype(model, dtype)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise PrefixInterpError(
            f"temperature={temperature!r} is more than {dtype} holds; allowed are less than "
            f"{torch.finfo(dtype).max:.2g}"
        )
    spans = {key: range(int(x[0]), int(x[-1]) + 1) for key, x in at.items()}
    return Construction(
        name, model, host_of(model).d_vocab, n_in, n_slots, temperature, smallest_temperature,
        hardest, heads, spans, pack,
    )  # fmt: skip
