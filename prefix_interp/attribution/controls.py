"""What a prefix does at each head and, for comparison, what other prefixes do there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.grid import Direction
from prefix_interp.attribution.pair import MAX_SEQUENCES, Contrast
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.fast_forward import FastForward, is_written_down
from prefix_interp.models.finite import checked_run
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.controls import norm_matched
from prefix_interp.prefixes.guard import check_free
from prefix_interp.prefixes.inject import mixture_hooks
from prefix_interp.prefixes.layout import Hook, answer_rows_hooks
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator, derive_seed

_BY_DRAW = "(draw batch) ... -> draw batch ..."
_SITES = (Site.RESID_PRE, Site.Z)
NORM_MATCHED, RANDOM = "norm-matched", "random"


def head_effects(
    pair: Contrast,
    prefixes: Sequence[Prefix],
    direction: Direction | str,
    bar: tqdm | None = None,
) -> Float[Tensor, "draw layer head batch"]:
    """Return each head's total effect under each prefix: the effect of patching its output.

    Denoise: the head's prefixed output is put into the plain run, and compared with that run.
    Noise: the head's plain output is put into the prefixed run, and compared with that run. Both
    effects point from off to on.

    Args:
        pair: from `contrast`, with one metric; contains the inputs and the plain run.
        prefixes: as many slots each as the prefix of `pair`, and parameterized alike.
        direction: ``"denoise"`` or ``"noise"``.
        bar: advanced by one per prefix.

    Returns:
        In units of the metric, float64.

    Raises:
        PrefixInterpError: an unknown direction.
    """
    check_choice("direction", direction, ("denoise", "noise"))
    check_free(pair.model)
    size = max(1, MAX_SEQUENCES // (pair.n_batch * host_of(pair.model).n_heads))
    found = []
    for start in range(0, len(prefixes), size):
        part = prefixes[start : start + size]
        with torch.no_grad():
            found.append(_stacked_effects(pair, part, direction == "denoise"))
        if bar is not None:
            bar.update(len(part))
    return torch.cat(found)


def _stacked_effects(
    pair: Contrast, prefixes: Sequence[Prefix], denoise: bool
) -> Float[Tensor, "draw layer head batch"]:
    model, host, n = pair.model, host_of(pair.model), len(prefixes)
    n_heads = host.n_heads
    names = prefixes[0].tensors
    slots = host.keys_values({k: torch.stack([p.tensors[k] for p in prefixes]) for k in names})
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        return name, lambda x, hook: seen.update({name: x})

    layers = range(host.n_layers)
    readers = [keep(site.at(i)) for i in layers for site in _SITES]
    n_slots, keep_positions = prefixes[0].n_slots, prefixes[0].keeps_positions
    mixed = mixture_hooks(model, n_slots, slots.__getitem__, keep=keep_positions)
    logits_on = _answers(pair, pair.tokens.repeat(n, 1), [*mixed, *readers], (n, -1))
    targets = [pair.target._replace(logits_on=x) for x in logits_on]
    (metric,) = pair.metrics.values()
    # A metric may depend on the prefixed run, so each prefix has its own value of the plain run.
    bases = [metric(t.logits_off if denoise else t.logits_on, t) for t in targets]
    base = torch.stack(bases)[:, None].double()
    hooks: list[Hook] = []
    if not denoise:
        each = [(_each(k, n_heads), _each(v, n_heads)) for k, v in slots]
        hooks = mixture_hooks(model, n_slots, each.__getitem__, keep=keep_positions)
    fast = None
    if is_written_down(model) and not keep_positions:
        fast = FastForward(model)
    effects = []
    for layer in layers:
        on = [rearrange(seen[site.at(layer)], _BY_DRAW, draw=n) for site in _SITES]
        off = [pair.activation("off", site, layer)[None] for site in _SITES]
        (resid, z), given = (off, on[1]) if denoise else (on, off[1].expand(n, -1, -1, -1, -1))
        logits = None
        if fast is not None:
            rows = fast.with_each_head(
                layer, resid, z, given, pair.batch.n_rows, None if denoise else slots
            )
            logits = pair.batch.read(rows) if bool(rows.isfinite().all()) else None
        if logits is None:  # also says what is not finite
            rows = repeat(
                resid.expand(n, -1, -1, -1), "draw batch ... -> (draw head batch) ...",
                head=n_heads,
            )  # fmt: skip
            patched = [*hooks, _own_heads(layer, given)]
            logits = _answers(pair, rows, patched, (n, n_heads, -1), layer)
        values = [metric(x, target) for x, target in zip(logits, targets, strict=True)]
        change = torch.stack(values).double() - base
        effects.append(change if denoise else -change)
    return torch.stack(effects, dim=1)


def _answers(
    pair: Contrast,
    rows: Tensor,
    hooks: Sequence[Hook],
    stack: tuple[int, ...],
    layer: int | None = None,
) -> Float[Tensor, "*stack batch n_out d_vocab"]:
    """Return the logits at the outputs of tokens, or of residual streams before `layer`."""
    hooks = [*hooks, *answer_rows_hooks(pair.model, pair.batch.n_rows)]
    with checked_run(pair.model), host_of(pair.model).hooked(hooks):
        logits = pair.model(rows) if layer is None else host_of(pair.model).run_from(layer, rows)
    return pair.batch.read(logits.unflatten(0, stack))


def _each(x: Float[Tensor, "stack *rest"], times: int) -> Float[Tensor, "more *rest"]:
    return repeat(x, "stack ... -> (stack times) ...", times=times)


def _own_heads(layer: int, given: Float[Tensor, "draw batch pos head d_head"]) -> Hook:
    """Return a hook that writes head h into the h-th block of rows of every draw."""
    n, n_heads = len(given), given.shape[3]
    heads = torch.arange(n_heads, device=given.device)

    def write(z: Float[Tensor, "stacked pos head d_head"], hook: object) -> Tensor:
        z = rearrange(z, "(draw head batch) ... -> draw head batch ...", draw=n, head=n_heads)
        z = z.clone()
        z[:, heads, :, :, heads] = rearrange(
            given, "draw batch pos head d_head -> head draw batch pos d_head"
        )
        return rearrange(z, "draw head batch ... -> (draw head batch) ...")

    return Site.Z.at(layer), write


def random_prefixes(model: Model, prefix: Prefix, n: int, seed: int) -> dict[str, list[Prefix]]:
    """Return the controls that every elicitation has, `n` draws of each.

    ``"norm-matched"``: random directions, each vector with the norm it has in `prefix`.
    ``"random"``: normal noise, like the start of a tuning.

    Args:
        model: defines the shape.
        prefix: defines slots, parameterization and norms.
        n: draws.
        seed: any integer.
    """
    kind = prefix.parameterization

    def matched(i: int) -> Prefix:
        return norm_matched(prefix, derive_generator(seed, "elicitation", NORM_MATCHED, i))

    def noise(i: int) -> Prefix:
        own = derive_seed(seed, "elicitation", RANDOM, i)
        return Prefix.random(model, prefix.n_slots, own, kind, positions=prefix.positions)

    makers: dict[str, Callable[[int], Prefix]] = {NORM_MATCHED: matched, RANDOM: noise}
    return {name: [make(i) for i in range(n)] for name, make in makers.items()}


def check_controls(
    model: Model, prefix: Prefix, controls: Mapping[str, Prefix] | None
) -> dict[str, Prefix]:
    """Return named controls.

    Raises:
        PrefixInterpError: a name that a random control already has, or a prefix that does not fit.
    """
    named = dict(controls or {})
    for name, control in named.items():
        if name in (NORM_MATCHED, RANDOM):
            raise PrefixInterpError(
                f"controls={name!r} is the name of a random control; give yours another name"
            )
        control.check_fits(model)
        host = host_of(model)
        if control.positions != prefix.positions and host.learned_positions:
            raise PrefixInterpError(
                f"controls={name!r} has positions={control.positions!r} but the prefix "
                f"{prefix.positions!r}, so each has another run without it; give both the same"
            )
    return named
