"""One batch with a prefix on and off: the pair of runs behind every attribution.

`Contrast.run` is the only engine. It stacks many interventions on the batch axis and resumes from
the layer and position where they begin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from prefix_interp.attribution.metrics import Metric, Target, ends
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.finite import checked_run
from prefix_interp.models.host import KeysValues, Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.prefixes.guard import check_bare, check_free
from prefix_interp.prefixes.inject import around_mixture, mixture_hooks
from prefix_interp.prefixes.layout import Hook, answer_rows_hooks
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.tasks import Batch

State = Literal["on", "off"]
Values = dict[str, Float[Tensor, "stack batch"]]
# Sequences per pass: more is not faster on a CPU and takes more memory.
MAX_SEQUENCES = 256


@dataclass(frozen=True, eq=False)
class Contrast:
    """One batch with a prefix and without (masked baseline), and what is measured on it.

    Every attribution function accepts a contrast in place of a task, so several questions can share
    one set of runs.

    Attributes:
        runs: with the prefix and without, aligned on the content.
        batch: the sequences, their answers, and where each answer is predicted.
        target: answers and the logits of both runs at the outputs.
        metrics: what is measured, by name.
        on: each metric with the prefix.
        off: each metric without it: its slots are masked, the content stands where it stands with
            the prefix.
        plain: each metric of the model as it is. It differs from `off` where positions are learned
            and the prefix moves the content (see `Prefix`).
        task: the name of the task; ``"a batch"`` for a batch of your own.
        model_id: fingerprint of the weights that ran.

    Example:
        >>> tuple(pi.contrast(model, prefix, task, n=8).tokens.shape)
        (8, 19)
    """

    runs: RunPair
    batch: Batch
    target: Target
    metrics: Mapping[str, Metric]
    on: Mapping[str, Float[Tensor, " batch"]]
    off: Mapping[str, Float[Tensor, " batch"]]
    plain: Mapping[str, Float[Tensor, " batch"]]
    task: str
    model_id: str

    def __repr__(self) -> str:
        size = f"{self.task}, {self.n_batch} examples"
        return f"Contrast({size}; {ends(self.on, self.off, self.plain)}; {self.prefix!r})"

    @property
    def model(self) -> Model:
        """Return the model."""
        return self.runs.model

    @property
    def prefix(self) -> Prefix:
        """Return the prefix."""
        return self.runs.prefix

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """Return the content."""
        return self.runs.tokens

    @property
    def n_slots(self) -> int:
        """Return the number of slots of the prefix."""
        return self.prefix.n_slots

    @property
    def n_batch(self) -> int:
        """Return the number of examples."""
        return len(self.tokens)

    @cached_property
    def slots(self) -> KeysValues:
        """Return what each layer's slots hold; constants, like the activations."""
        with torch.no_grad():
            return self.prefix.keys_values(self.model)

    def activation(self, state: State | str, site: Site, layer: int) -> Float[Tensor, "batch ..."]:
        """Return an activation of one of the two runs at the positions of the content.

        The pattern is restricted to the content's keys: with the prefix its rows sum to 1 - g.

        Raises:
            PrefixInterpError: the model has no such site.
        """
        check_choice("state", state, ("on", "off"))
        cache, name = getattr(self.runs, state), site.at(layer)
        if name not in cache.cache_dict:
            raise PrefixInterpError(f"site={site.name!r} does not exist in this model")
        found = cache[name]
        return found[..., -self.tokens.shape[1] :] if site is Site.PATTERN else found

    def resume(self, pos: int) -> int:
        """Return the position to resume at so that `pos` and everything it affects are computed."""
        return pos if host_of(self.model).causal else 0

    def measure(self, logits: Float[Tensor, "*stack batch n_out d_vocab"]) -> Values:
        """Return every metric of these logits, one value per example."""
        return {name: metric(logits, self.target) for name, metric in self.metrics.items()}

    def run(
        self,
        base: State | str,
        n_stack: int,
        make_hooks: Callable[[slice], Sequence[Hook]],
        *,
        layer: int = 0,
        first_pos: int = 0,
        after_attention: bool = False,
        gates: Float[Tensor, "stack layer head slot"] | None = None,
        bar: tqdm | None = None,
    ) -> Values:
        """Return the metrics of `n_stack` interventions, each on the whole batch.

        Args:
            base: the run to intervene on.
            n_stack: how many.
            make_hooks: returns the hooks of a slice of the stack. Their activations have
                ``(slice * batch)`` rows, the stack outermost, and the positions from `first_pos`
                on. In the last layer, from `Site.MLP_OUT` on, they have only the last positions,
                from the first output on. Hooks up to `Site.V` act before the prefix is mixed in,
                the others after.
            layer: where the interventions begin; earlier layers are taken from the base run.
            first_pos: where they begin in the content (see `resume`); earlier positions are taken
                from the base run too.
            after_attention: they begin at `Site.Z` or later, so the heads' outputs of `layer` are
                also taken from the base run. Gates of that layer then do nothing.
            gates: of the prefix, one set per intervention. With ``base="off"`` they bring the
                prefix into that run. They must be 0 in the layers before `layer`, which do not run.
            bar: advanced by the number of interventions done.
        """
        size = max(1, MAX_SEQUENCES // self.n_batch)
        parts: list[Values] = []
        with torch.no_grad():
            for start in range(0, n_stack, size):
                part = slice(start, min(start + size, n_stack))
                own = None if gates is None else gates[part]
                logits = self.logits(
                    base,
                    part.stop - start,
                    make_hooks(part),
                    layer=layer,
                    first_pos=first_pos,
                    after_attention=after_attention,
                    gates=own,
                )
                parts.append(self.measure(logits))
                if bar is not None:
                    bar.update(part.stop - part.start)
        return {name: torch.cat([p[name] for p in parts]) for name in self.metrics}

    def logits(
        self,
        base: State | str,
        n_stack: int,
        given: Sequence[Hook],
        *,
        layer: int = 0,
        first_pos: int = 0,
        after_attention: bool = False,
        gates: Float[Tensor, "gated layer head slot"] | None = None,
    ) -> Float[Tensor, "{n_stack} batch n_out d_vocab"]:
        """Return the logits at the outputs of interventions that fit into one pass.

        Gradients flow to what the hooks write and to the gates.

        Args:
            base: as in `run`, like every argument not described here.
            n_stack: how many.
            given: hooks for the whole stack.
            layer: where they begin.
            first_pos: where they begin.
            after_attention: where they begin.
            gates: one set per intervention, or one per sequence (``n_stack * batch``).
        """
        check_choice("base", base, ("on", "off"))
        check_free(self.model)
        check_bare(self.model)
        host = host_of(self.model)
        first_pos = self.resume(first_pos)
        resid = self.activation(base, Site.RESID_PRE, layer)
        n_rows = self.batch.n_rows
        n_late = min(n_rows, resid.shape[1] - first_pos)
        early, late = around_mixture(given)
        first_mixed = layer + 1 if after_attention else layer
        hooks = [
            *early,
            *self._slots(base, n_stack, first_mixed, first_pos, gates),
            *late,
            *answer_rows_hooks(self.model, n_late),
        ]
        rows = resid[:, first_pos:].repeat(n_stack, 1, 1)
        if after_attention:
            z = self.activation(base, Site.Z, layer)[:, first_pos:]
            hooks.insert(0, (Site.Z.at(layer), lambda *_, **__: z.repeat(n_stack, 1, 1, 1)))
        with checked_run(self.model), host.hooked(hooks):
            logits = host.run_from(layer, rows, skip_attention=after_attention)
        logits = logits[:, -n_late:]
        logits = rearrange(logits, "(stack batch) ... -> stack batch ...", stack=n_stack)
        known = self.runs.logits_on if base == "on" else self.runs.logits_off
        known = known[:, known.shape[1] - n_rows : known.shape[1] - n_late]
        return self.batch.read(torch.cat([known.expand(n_stack, -1, -1, -1), logits], dim=2))

    def _slots(
        self,
        base: State | str,
        n_stack: int,
        first_layer: int,
        first_pos: int,
        gates: Float[Tensor, "gated layer head slot"] | None,
    ) -> list[Hook]:
        """Return hooks that show the computed rows the prefix and the positions before them."""
        with_prefix = base == "on" or gates is not None
        if not with_prefix and first_pos == 0:
            return []  # a rotation by the same angle everywhere changes nothing
        slots, host = self.slots if with_prefix else None, host_of(self.model)
        behind = host.content_start(self.n_slots, keep=self.prefix.keeps_positions)
        found: KeysValues = []
        for layer in range(host.n_layers):
            parts = []
            attn = host.attention(layer)
            for which, site in enumerate((attn.key_site, Site.V)):
                own = [] if slots is None else [slots[layer][which][None]]
                if first_pos:
                    seen = self.activation(base, site, layer)[:, :first_pos]
                    seen = attn.seen_keys(seen, behind) if which == 0 else seen
                    # If the model ungroups them, there is one key and one value per head.
                    own = [expand_heads(x, seen.shape[2]) for x in own]
                    own = [x.expand(len(seen), -1, -1, -1) for x in own] + [seen]
                both = torch.cat(own, dim=1)
                parts.append(both.repeat(n_stack, 1, 1, 1) if len(both) > 1 else both)
            found.append((parts[0], parts[1]))
        if gates is not None and first_pos:
            content = gates.new_ones(*gates.shape[:-1], first_pos)
            gates = torch.cat([gates, content], dim=-1)
            gates = gates.repeat_interleave(n_stack * self.n_batch // len(gates), dim=0)
        hooks = mixture_hooks(
            self.model, found[0][0].shape[-3], found.__getitem__, gates,
            keep=self.prefix.keeps_positions, position=behind + first_pos,
        )  # fmt: skip
        skipped = {Site.POS_EMBED.at()} | {
            site.at(i) for i in range(first_layer) for site in (Site.Q, Site.ATTN_SCORES, Site.Z)
        }
        return [hook for hook in hooks if hook[0] not in skipped]
