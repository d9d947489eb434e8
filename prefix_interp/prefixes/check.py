"""Does a context act at all, by the library's way and by PEFT's, under the versions installed here?

Libraries have ignored prefixes without a word: transformers 5.24 renamed an argument, and since
then PEFT 0.21 generates the bare model's text. So outputs are compared, not believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.figure_files import Size, Width
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.attach import attach
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.generation import generate
from prefix_interp.prefixes.layout import check_tokens, offset_hooks
from prefix_interp.prefixes.peft_run import PeftRun, pair_of, relative
from prefix_interp.prefixes.slot_mass import mean_mass, slot_mass, untrained
from prefix_interp.result_object import ResultObject, drawing
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks.text import texts_batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["pass", "fail", "note", "not checked"]
DEAD = 1e-4  # of the attention, or of a head's largest output
# How far two ways of computing the same logits may be apart, of the largest, and rounding alone.
_TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
_ROUNDING = {"float64": 1e-9, "float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}
_ROWS, _NEW = 4, 8  # sequences that are continued, and by how many tokens
_SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "She opened the window because the room was too warm.",
    "Water boils at a lower temperature on a high mountain.",
    "The film was long, but nobody in the audience left early.",
)
_PACKAGES = ("transformers", "peft", "torch", "transformer-lens", "prefix-interp")


@dataclass(frozen=True, eq=False, repr=False)
class ContextCheck(ResultObject):
    """What was asked of a context, with a verdict and one sentence each.

    Attributes:
        questions: what was asked.
        verdicts: ``"pass"``, ``"fail"``, ``"note"`` (worth knowing, nothing is broken) or
            ``"not checked"``.
        sentences: what was found.
        mass: largest share of attention that each slot takes in each head, over all tokens.
    """

    questions: tuple[str, ...]
    verdicts: tuple[str, ...]
    sentences: tuple[str, ...]
    mass: Float[Tensor, "layer head slot"]

    @property
    def passed(self) -> bool:
        """Return whether nothing failed."""
        return "fail" not in self.verdicts

    def verdict(self, question: str) -> str:
        """Return the verdict on one of `questions`."""
        return self.verdicts[self.questions.index(question)]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per question: ``question``, ``verdict`` and ``finding``."""
        return pd.DataFrame(
            {"question": self.questions, "verdict": self.verdicts, "finding": self.sentences}
        )

    def caption(self) -> str:
        """Return how many questions passed, and those that did not."""
        n = {verdict: self.verdicts.count(verdict) for verdict in ("pass", "fail", "not checked")}
        failed = [q for q, v in zip(self.questions, self.verdicts, strict=True) if v == "fail"]
        named = f": {'; '.join(failed)}" if failed else ""
        return f"{n['pass']} passed, {n['not checked']} not checked, {n['fail']} failed{named}"

    def plot(self, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
        """Return the largest share of attention on one slot, for each layer and head."""
        return drawing("masses.mass_figure")(self.mass, figsize=figsize, width=width)


@dataclass(frozen=True)
class _Row:
    question: str
    verdict: Verdict
    sentence: str


def check_context(
    model: Any,
    context: Any,
    texts_or_tokens: Sequence[str] | Int[Tensor, "batch pos"] | None = None,
    *,
    tokenizer: Any = None,
) -> ContextCheck:
    """Return whether a context acts, by each way there is to run it here, and how much.

    A prefix or soft prompt goes through `attach` and, for a Hugging Face model, through PEFT's own
    forward and `generate`. A model in memory is copied, so that it can be wrapped.

    Args:
        model: a Hugging Face model or its folder, a PeftModel, or a model of `load_pretrained` or
            the zoo (then PEFT's way is not checked).
        context: a `Prefix`, a `SoftPrompt`, a folder of one or of a PEFT adapter, or None for the
            active adapter of a PeftModel.
        texts_or_tokens: a few dozen texts, or tokens without padding; None for four sentences, or
            random tokens for a model without a tokenizer.
        tokenizer: for texts; None for the model's own, if it has one.

    Raises:
        PrefixInterpError: the context does not fit, or bad texts or tokens.

    Example:
        >>> found = check_context(model, prefix, tokens)
        >>> found.passed, found.verdict("forward depends on the context (ours)")
        (True, 'pass')
    """
    with torch.no_grad():
        own, found, peft = pair_of(model, context, tokenizer)
        tokens, lengths = _tokens(own, found, texts_or_tokens)
        case = _Case(own, found, tokens, lengths)
        mass, change = case.slots()
        rows = [case.acts(), *_peft_rows(case, peft), case.continues()]
        rows += [*case.harm(mass), *_dead(mass, change), _versions()]
    questions, verdicts, sentences = zip(
        *((row.question, row.verdict, row.sentence) for row in rows), strict=True
    )
    return ContextCheck(questions, verdicts, sentences, mass.amax((1, 3)).cpu())


@dataclass(frozen=True)
class _Case:
    """A context on its model, with texts."""

    model: Model
    context: Context
    tokens: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]

    @property
    def content(self) -> Tensor:
        """Return where tokens are no padding: ``batch pos``."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]

    @property
    def tolerance(self) -> float:
        return _TOLERANCE[str(host_of(self.model).dtype).removeprefix("torch.")]

    @property
    def rounding(self) -> float:
        return _ROUNDING[str(host_of(self.model).dtype).removeprefix("torch.")]

    def logits(self, context: Context | None) -> Float[Tensor, "token d_vocab"]:
        """Return the logits at every token that is no padding."""
        if context is None:
            return self.model(self.tokens)[self.content]
        with attach(self.model, context):
            return self.model(self.tokens)[self.content]

    def masked(self) -> Float[Tensor, "token d_vocab"]:
        """Return the logits without the slots, content at the same positions."""
        keep = self.context.keeps_positions
        hooks = offset_hooks(self.model, self.context.n_slots, keep=keep)
        with host_of(self.model).hooked(hooks):
            return self.model(self.tokens)[self.content]

    def acts(self) -> _Row:
        off = relative(self.logits(self.context), self.masked())
        acts = off > self.rounding
        says = (
            f"The logits move by {off:.2g} of the largest."
            if acts
            else "The logits are those of the model without it."
        )
        return _Row("forward depends on the context (ours)", "pass" if acts else "fail", says)

    def continues(self) -> _Row:
        """Return whether our `generate` says what whole runs under the context say."""
        question = "generate follows the context (ours)"
        n_new = min(_NEW, host_of(self.model).room(self.context.n_slots) - self.tokens.shape[1])
        if n_new < 1:
            return _Row(question, "not checked", "The texts fill the model's context.")
        tokens, lengths = self.tokens[:_ROWS], self.lengths[:_ROWS]
        said = generate(self.model, self.context, tokens, n_new, lengths=lengths)
        bare = generate(self.model, None, tokens, n_new, lengths=lengths)
        behind = 0.0
        for row, length, new in zip(tokens, lengths.tolist(), said, strict=True):
            whole = torch.cat([row[:length], new[:-1]])[None]
            with attach(self.model, self.context):
                logits = self.model(whole)[0, length - 1 :]
            chosen = logits.gather(1, new[:, None])[:, 0]
            behind = max(behind, float((logits.amax(1) - chosen).max() / logits.abs().max()))
        differ = int((said != bare).any(dim=1).sum())
        says = f"{differ} of {len(said)} continuations differ from the bare model's."
        if behind <= self.tolerance:
            return _Row(question, "pass", f"Every token is the likeliest of a whole run; {says}")
        return _Row(
            question, "fail", f"A token is {behind:.2g} of the largest logit behind; {says}"
        )

    def slots(
        self,
    ) -> tuple[Float[Tensor, "layer batch head query slot"], Float[Tensor, "layer head"]]:
        """Return attention on each slot, and how far it moves each head, of its largest output."""
        return slot_mass(self.model, self.context, self.tokens, self.content)

    def loss(self, context: Context | None) -> float:
        """Return the mean loss of the next token."""
        logits, content = self.logits(context), self.content
        last = ~torch.cat([content[:, 1:], torch.zeros_like(content[:, :1])], dim=1)[content]
        targets = self.tokens.roll(-1, dims=1)[content]
        return float(F.cross_entropy(logits[~last].float(), targets[~last]))

    def harm(self, mass: Tensor) -> list[_Row]:
        """Return what the slots take of the attention, and what a context costs that is untrained.

        Args:
            mass: from `slots`.
        """
        starts = untrained(self.context, self.model)
        shares = {}
        for name, start in starts.items():
            own = slot_mass(self.model, start, self.tokens, self.content)[0]
            shares[name] = mean_mass(own, self.content)
        attention = (
            f"The slots take {mean_mass(mass, self.content):.1%} of the attention; "
            + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
            + "."
        )
        question = "attention that the slots take"
        rows = [_Row(question, "note", attention)]
        if int(self.lengths.max()) < 2:
            return [*rows, _Row("loss on these texts", "not checked", "No text has two tokens.")]
        bare, own = self.loss(None), self.loss(self.context)
        others = ", ".join(f"{name} {self.loss(start):.2f}" for name, start in starts.items())
        says = f"{bare:.2f} nats per token without, {own:.2f} with the context; {others}."
        return [*rows, _Row("loss on these texts", "pass" if own <= bare else "note", says)]


def _dead(mass: Tensor, change: Tensor) -> list[_Row]:
    slots = (mass.amax((0, 1, 2, 3)) < DEAD).nonzero()[:, 0].tolist()
    heads = [f"{layer}.{head}" for layer, head in (change < DEAD).nonzero().tolist()]
    found = []
    for what, names, total in (("slot", slots, mass.shape[-1]), ("head", heads, change.numel())):
        if names:
            shown = ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
            says = f"{len(names)} of {total} {what}s: {shown}."
        else:
            says = f"None of {total}."
        does = "takes no attention" if what == "slot" else "is not changed"
        found.append(_Row(f"{what} that {does} (< {DEAD:g})", "note" if names else "pass", says))
    return found


def _versions() -> _Row:
    said = []
    for name in _PACKAGES:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            said.append(f"{name} not installed")
    return _Row("versions", "note", ", ".join(said) + ".")


def _tokens(
    model: Model, context: Context, given: Sequence[str] | Tensor | None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """Return tokens and how many of each row are no padding."""
    host = host_of(model)
    device = host.device
    if given is None and getattr(model, "tokenizer", None) is None:
        rng = derive_generator(0, "check")
        room = host.room(context.n_slots, keep=context.keeps_positions)
        given = torch.randint(host.d_vocab, (_ROWS, min(16, max(room - _NEW, 1))), generator=rng)
    if isinstance(given, Tensor):
        check_tokens(model, given, context.n_slots, keep=context.keeps_positions)
        return given.to(device), torch.full((len(given),), given.shape[1], device=device)
    batch = texts_batch(model, _SENTENCES if given is None else given)
    return batch.tokens.to(device), ((batch.answers >= 0).sum(dim=1) + 1).to(device)


def _peft_rows(case: _Case, peft: PeftRun | str) -> list[_Row]:
    questions = (
        "forward depends on the context (PEFT)",
        "forward of PEFT and ours agree",
        "generate with a cache follows the context (PEFT)",
        "generate without a cache follows the context (PEFT)",
    )
    if isinstance(peft, str):
        return [_Row(question, "not checked", peft) for question in questions]
    length = int(case.lengths[:_ROWS].min())
    room = host_of(case.model).room(case.context.n_slots) - length
    runs = [
        peft.depends(case.tokens, case.content, case.rounding),
        peft.agrees(case.tokens, case.content, case.logits(case.context), case.tolerance),
        *(
            peft.continues(case.tokens[:_ROWS, :length], min(_NEW, room), use_cache, case.tolerance)
            for use_cache in (True, False)
        ),
    ]
    return [_Row(q, verdict, says) for q, (verdict, says) in zip(questions, runs, strict=True)]
