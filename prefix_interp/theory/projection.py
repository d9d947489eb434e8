"""Removing a subspace from what a head or a layer writes, while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache

from prefix_interp.errors import PrefixInterpError, check_choice, check_index
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.theory.subspace import BiasSubspace

Removal = Literal["output", "restore", "isolate", "bias"]
_WITH_PLAIN = ("restore", "isolate")


def projection_hooks(
    model: Model,
    spaces: Sequence[BiasSubspace],
    remove: Removal | str = "output",
    *,
    plain: ActivationCache | Mapping[str, Tensor] | None = None,
    prefix: Prefix | None = None,
) -> list[Hook]:
    """Return hooks that remove subspaces from what heads, or whole layers, write.

    Let z be what is written, b the prefix's bias in it and P the projection onto the subspace:

    - ``"output"`` z - z P: *everything* in the subspace goes, including pretrained output. In a run
      without prefix this shows how much of the pretrained computation lies there.
    - ``"restore"`` z - z P + z' P, with z' from the run without prefix: the subspace has the
      content of the run without prefix. The prefix's effects elsewhere stay, including the gate's
      (1 - g) t. Is the subspace needed?
    - ``"isolate"`` z' + (z - z') P: the prefix acts only in the subspace; the rest is as without
      it. Is the subspace enough?
    - ``"bias"`` z - b P: only the prefix's bias goes; (1 - g) t stays, in the subspace and
      elsewhere. For the bias's own subspace this drops b.

    If only some heads of a layer have a subspace, the others keep their output (under
    ``"isolate"``, their output without the prefix). Layers without subspaces do not change. A
    head's subspace is removed from `Site.Z`, a layer's from `Site.ATTN_OUT`. There the attention's
    constant b_O stays: no head writes it, and the subspace was measured without it.

    Add the hooks inside `attach` (``method="slots"`` for ``"bias"``), or to a plain run. They also
    change the slots' rows, but nothing reads these.

    Args:
        model: a supported model.
        spaces: one per head or layer, but not a layer and heads of the same layer.
        remove: ``"output"``, ``"restore"``, ``"isolate"`` or ``"bias"``.
        plain: activations of the same content without the prefix, e.g. ``run_pair(...).off``; only
            for ``"restore"`` and ``"isolate"``.
        prefix: the attached prefix; only for ``"bias"``.

    Raises:
        PrefixInterpError: nothing to remove, a subspace that does not fit the model, the same place
            twice, directions that are not orthonormal, or a missing argument. While running with
            ``"bias"``: the prefix's slots are missing.
    """
    check_choice("remove", remove, get_args(Removal))
    for name, given, need in (("plain", plain, _WITH_PLAIN), ("prefix", prefix, ("bias",))):
        if (given is not None) != (remove in need):
            raise PrefixInterpError(
                f"{name}={'given' if given is not None else None} does not go with "
                f"remove={remove!r}; {' and '.join(map(repr, need))} need it, others do not take it"
            )
    _check_spaces(model, spaces)
    hooks: list[Hook] = []
    for layer in sorted({space.layer for space in spaces}):
        own = [space for space in spaces if space.layer == layer]
        site = Site.Z if own[0].level == "head" else Site.ATTN_OUT
        seen: dict[str, Tensor] = {}
        if prefix is not None:
            hooks += _bias_hooks(model, prefix, layer, seen)
        held = None if plain is None else host_of(model).cast(plain[site.at(layer)])
        hooks.append((site.at(layer), _remover(model, layer, own, remove, held, seen)))
    return hooks


def _remover(
    model: Model,
    layer: int,
    spaces: Sequence[BiasSubspace],
    remove: Removal | str,
    plain: Float[Tensor, "batch pos ..."] | None,
    seen: dict[str, Tensor],
) -> Callable[..., Tensor]:
    """Return the hook of one layer; `seen` holds the bias if only the bias is removed."""
    host, heads = host_of(model), spaces[0].level == "head"
    attn = host.attention(layer)
    onto = host.cast(torch.stack([space.basis.T @ space.basis for space in spaces]))
    if heads:  # 0 for a head that keeps its output
        every = onto.new_zeros(host.n_heads, *onto.shape[1:])
        onto = every.index_copy(0, torch.tensor([s.head for s in spaces]).to(onto.device), onto)

    def inside(x: Tensor) -> Tensor:
        if not heads:
            return x @ onto[0]
        return einsum(x, onto, "batch pos head d, head d to -> batch pos head to")

    def write(x: Tensor, hook: object) -> Tensor:
        if remove == "bias":
            bias = seen.pop("bias")
            return x - inside(bias if heads else attn.written(bias))
        if plain is None:
            return x - inside(x if heads else x - attn.b_O)
        if len(plain) != len(x) or plain.shape[1] > x.shape[1]:
            raise PrefixInterpError(
                f"plain holds {tuple(plain.shape[:2])} sequences and positions, the run "
                f"{tuple(x.shape[:2])}; give the activations of the same content"
            )
        rows = x[:, -plain.shape[1] :]
        moved = inside(rows - plain)
        new = rows - moved if remove == "restore" else plain + moved
        return torch.cat([x[:, : -plain.shape[1]], new], dim=1)

    return write


def _bias_hooks(model: Model, prefix: Prefix, layer: int, seen: dict[str, Tensor]) -> list[Hook]:
    """Return hooks that store the bias of a layer's heads in `seen` before `hook_z` is called."""
    _, values = prefix.keys_values(model)[layer]
    n, values = prefix.n_slots, values.detach()
    written = host_of(model).attention(layer).weighed_values(values)

    def check(v: Float[Tensor, "batch pos kv_head d_head"], hook: object) -> None:
        # The bias comes from the pattern's first columns, which must be this prefix's slots.
        found, own = v[:, :n], expand_heads(values, v.shape[2])
        if found.shape[1] != n or not torch.equal(found, own.expand_as(found)):
            raise PrefixInterpError(
                f"prefix is not in the slots of layer {layer}; add hooks with remove='bias' "
                "inside attach(model, prefix, method='slots')"
            )

    def read(pattern: Float[Tensor, "batch head query key"], hook: object) -> None:
        mass = pattern[..., :n]
        seen["bias"] = einsum(
            mass, written, "batch head query slot, slot head d_head -> batch query head d_head"
        )

    return [(Site.V.at(layer), check), (Site.PATTERN.at(layer), read)]


def _check_spaces(model: Model, spaces: Sequence[BiasSubspace]) -> None:
    if not spaces:
        raise PrefixInterpError("spaces=() is empty; give at least one subspace")
    host = host_of(model)
    places: set[tuple[int, int | None]] = set()
    for space in spaces:
        check_choice("level", space.level, ("head", "layer"))
        check_index("layer", space.layer, host.n_layers)
        if space.level == "head":
            check_index("head", space.head, host.n_heads)
        elif host.norms_attention_out:
            raise PrefixInterpError(
                "spaces hold a layer's, but this model has a norm behind its attention, before "
                "hook_attn_out; give subspaces of heads"
            )
        dim = host.d_head if space.level == "head" else host.d_model
        basis = space.basis
        if basis.shape[1] != dim:
            raise PrefixInterpError(
                f"spaces hold a {space.level}'s subspace in {basis.shape[1]} dimensions; this "
                f"model's {space.level}s write in {dim}"
            )
        if not torch.allclose(basis @ basis.T, torch.eye(len(basis)).to(basis), atol=1e-4):
            raise PrefixInterpError("spaces hold directions that are not orthonormal; use SVD")
        place = (space.layer, space.head if space.level == "head" else None)
        clash = {(space.layer, None)} if space.level == "head" else set()
        if space.level == "layer":
            clash = {other for other in places if other[0] == space.layer}
        if place in places or clash & places:
            raise PrefixInterpError(
                f"spaces hold layer {space.layer} twice (head {space.head}); give one subspace per "
                "head, or one for the whole layer"
            )
        places.add(place)


def random_subspace_like(space: BiasSubspace, seed: int) -> BiasSubspace:
    """Return a uniformly random subspace with the same level, layer, head and rank.

    Args:
        space: the subspace that it is a control for.
        seed: any integer; other layers and heads get other directions from the same seed.
    """
    rank, dim = space.basis.shape
    head = -1 if space.head is None else space.head
    rng = derive_generator(seed, "random-subspace", space.level, space.layer, head, rank, dim)
    # The orthogonal factor of normal noise spans a uniformly random subspace.
    noise = torch.randn(dim, rank, generator=rng, dtype=torch.float64)
    directions = torch.linalg.qr(noise)[0].T.to(space.directions)
    ones = space.singular_values.new_ones(rank) if rank else space.singular_values.new_zeros(1)
    if not rank:
        directions = space.directions.new_zeros(1, dim)
    return replace(space, singular_values=ones, directions=directions, scale=0.0)


def through_output(model: Model, space: BiasSubspace) -> BiasSubspace:
    """Return a head's subspace in the residual stream: its directions times the head's W_O.

    Each head's output has its own space; in d_model heads can be compared.

    Args:
        model: source of W_O.
        space: subspace of a head.

    Raises:
        PrefixInterpError: a subspace of a layer, or one that does not fit the model.
    """
    check_choice("level", space.level, ("head",))
    _check_spaces(model, [space])
    host = host_of(model)
    w_o = host.attention(space.layer).W_O[space.head].detach().to(space.directions)
    weighted = space.singular_values[: space.rank, None] * space.basis
    _, s, vh = torch.linalg.svd(weighted @ w_o, full_matrices=False)
    if not len(s):
        s, vh = s.new_zeros(1), vh.new_zeros(1, host.d_model)
    bound = min(space.bound, host.d_model)
    return BiasSubspace("layer", space.layer, space.head, bound, s, vh, space.n_rows)
