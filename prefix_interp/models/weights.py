"""The weight matrices of a layer by the field's words: q, k, v, o, mlp_in, mlp_gate, mlp_out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.host import host_of
from prefix_interp.models.model import Model, TransformerBridge, hub_model

Target = Literal["q", "k", "v", "o", "mlp_in", "mlp_gate", "mlp_out"]
TARGETS: tuple[str, ...] = get_args(Target)
WRAPPED = "._original_component"  # what a bridge adds to the names of weights


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix of a layer of a HookedTransformer, which maps rows of `d_in` to rows of `d_out`.

    Attributes:
        layer: 0-based.
        target: its word.
        module: that holds it.
        name: of the parameter in the module.
        shape: of the parameter; the matrices of attention have an axis of heads in front.
    """

    layer: int
    target: str
    module: nn.Module
    name: str
    shape: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int]:
        """Return `d_in` and `d_out`; all heads count together."""
        if len(self.shape) == 2:
            return self.shape[0], self.shape[1]
        n_heads, rows, columns = self.shape
        return (n_heads * rows, columns) if self.target == "o" else (rows, n_heads * columns)

    def shaped(self, flat: Float[Tensor, "d_in d_out"]) -> Tensor:
        """Return a matrix of these sizes in the shape of the parameter."""
        if len(self.shape) == 2:
            return flat
        if self.target == "o":
            return rearrange(flat, "(head d_head) d -> head d_head d", head=self.shape[0])
        return rearrange(flat, "d (head d_head) -> head d d_head", head=self.shape[0])


def matrices(model: Model, targets: Sequence[str], layers: Sequence[int]) -> list[Matrix]:
    """Return the matrices of a HookedTransformer by layer and target.

    Args:
        model: a HookedTransformer.
        targets: words of `TARGETS`.
        layers: 0-based.

    Raises:
        PrefixInterpError: an unknown word, or a matrix that the model lacks.
    """
    found = []
    for layer in layers:
        block: Any = host_of(model).blocks[layer]
        for target in targets:
            check_choice("target", target, TARGETS)
            if target.startswith("mlp"):
                module, names = getattr(block, "mlp", None), (f"W_{target[4:]}",)
            else:  # grouped keys and values have an underscore, since the plain name expands them
                module, names = block.attn, (f"W_{target.upper()}", f"_W_{target.upper()}")
            own = [n for n in names if module is not None and n in module._parameters]
            if module is None or not own:
                raise _missing(target, "has no such matrix")
            shape = tuple(module._parameters[own[0]].shape)
            found.append(Matrix(layer, target, module, own[0], shape))
    return found


def hub_modules(
    model: TransformerBridge, targets: Sequence[str], layers: Sequence[int]
) -> list[str]:
    """Return the names of Hugging Face's own modules of these layers and targets.

    Args:
        model: a language model.
        targets: words of `TARGETS`.
        layers: 0-based.

    Raises:
        PrefixInterpError: an unknown word, or one that has no module of its own in this model.
    """
    wrapped = hub_model(model)
    with torch.device("meta"):
        own_names = {name for name, _ in type(wrapped)(wrapped.config).named_modules()}
    names: dict[int, set[str]] = {}  # a bridge adds names to those that Hugging Face gives
    for name, module in wrapped.named_modules(remove_duplicate=False):
        names.setdefault(id(module), set()).add(name.replace(WRAPPED, ""))
    found = []
    for layer in layers:
        block: Any = host_of(model).blocks[layer]
        for target in targets:
            check_choice("target", target, TARGETS)
            whole = block.mlp if target.startswith("mlp") else block.attn
            part = getattr(whole, target.removeprefix("mlp_"), None)
            if part is None:
                raise _missing(target, "has no such matrix")
            own = names.get(id(part.original_component), set()) & own_names
            if not own:  # a bridge cuts joint matrices into parts
                raise _missing(target, "holds it as a part of a larger matrix")
            found.append(min(own))
    return found


def plain_copy(model: TransformerBridge) -> Any:
    """Return a copy of the Hugging Face model under a bridge, without the bridge.

    Raises:
        PrefixInterpError: a weight of it is not found.
    """
    wrapped: Any = hub_model(model)
    plain = type(wrapped)(copy.deepcopy(wrapped.config)).to(host_of(model).dtype)
    weights = {name.replace(WRAPPED, ""): x for name, x in wrapped.state_dict().items()}
    missing = sorted(set(plain.state_dict()) - set(weights))
    if missing:
        raise PrefixInterpError(f"model has no weight {missing[0]!r}; use another model")
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    plain.set_attn_implementation("eager")
    return plain.to(host_of(model).device).eval()


def _missing(target: str, why: str) -> PrefixInterpError:
    return PrefixInterpError(
        f"targets hold {target!r}, but this model {why}; leave it out, or choose others of "
        f"{', '.join(map(repr, TARGETS))}"
    )
