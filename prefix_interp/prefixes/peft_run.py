"""PEFT's own way to run a context, beside the library's: its forward, and its `generate`."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model
from prefix_interp.models.pretrained import load_pretrained, read_pretrained
from prefix_interp.models.support import check_kind
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.given import as_context
from prefix_interp.prefixes.peft import OF_PREFIXES, is_adapter, is_peft_model, read_adapter
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.records import one_line

Found = tuple[Literal["pass", "fail", "note", "not checked"], str]
_NEEDS = "PEFT's way needs the Hugging Face model or its folder."
_ABSENT = "PEFT is not installed (pip install peft)."


def relative(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value."""
    scale = expected.abs().max().clamp_min(1e-30)
    return float((actual - expected).abs().max() / scale)


def pair_of(
    model: Any, context: Any, tokenizer: Any = None
) -> tuple[Model, Context, PeftRun | str]:
    """Return a model as the library runs it, its context, and PEFT's way, or why there is none.

    Args:
        model: see `check_context`.
        context: see `check_context`.
        tokenizer: None for the model's own.

    Raises:
        PrefixInterpError: neither a model nor a context, or they do not fit.
    """
    theirs: Any = None
    if isinstance(model, (str, Path)):
        own = load_pretrained(model, tokenizer)
        theirs = functools.partial(read_pretrained, model)
    elif is_peft_model(model):
        base = model.get_base_model()
        own, theirs = load_pretrained(_copy(base), tokenizer), model
        context = model if context is None else context
    elif isinstance(model, PreTrainedModel):
        own, theirs = load_pretrained(_copy(model), tokenizer), lambda: model
    else:
        check_kind(model)
        own = model
    found = _context(context, own).to(own)
    found.check_fits(own)
    return own, found, _peft_run(theirs, context, found, own)


def _copy(model: Any) -> Any:
    if any(type(m).__module__.startswith("transformer_lens.") for m in model.modules()):
        raise PrefixInterpError(
            "model is wrapped already; give what load_pretrained returned, or the model's folder"
        )
    return copy.deepcopy(model)


def _context(given: Any, model: Model) -> Context:
    folder = isinstance(given, (str, Path))
    if is_peft_model(given) or (folder and is_adapter(given)):
        of_prefix = read_adapter(given).kind in OF_PREFIXES
        return (Prefix if of_prefix else SoftPrompt).from_peft(given, model)
    return as_context(given)


def _peft_run(theirs: Any, given: Any, context: Context, model: Model) -> PeftRun | str:
    """Return PEFT's way to run a context, or the reason why there is none."""
    if theirs is None:
        return _NEEDS
    if is_peft_model(theirs):
        return PeftRun(theirs)
    if importlib.util.find_spec("peft") is None:
        return _ABSENT
    try:
        with TemporaryDirectory() as made, _quiet():
            folder = given
            if not isinstance(given, (str, Path)) or not is_adapter(given):
                folder = context.to_peft(made, model)  # type: ignore[attr-defined]
            base = theirs()
            learns = [p.requires_grad for p in base.parameters()]
            training = [module for module in base.modules() if module.training]
            loaded = importlib.import_module("peft").PeftModel.from_pretrained(base, str(folder))
            for p, before in zip(base.parameters(), learns, strict=True):  # PEFT froze them
                p.requires_grad_(before)
            for module in training:
                module.training = True
            return PeftRun(loaded)
    except PrefixInterpError as error:
        return str(error)


@dataclass(frozen=True)
class PeftRun:
    """A context on a Hugging Face model, run by PEFT.

    Attributes:
        model: the PeftModel.
    """

    model: Any

    def depends(
        self, tokens: Int[Tensor, "batch pos"], content: Bool[Tensor, "batch pos"], rounding: float
    ) -> Found:
        """Return whether PEFT's forward depends on the context."""

        def ask() -> Found:
            n_slots = self.model.active_peft_config.num_virtual_tokens
            places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
            bare = self._bare(tokens, position_ids=places + n_slots)
            off = relative(self._logits(tokens)[content], bare[content])
            if off > rounding:
                return "pass", f"The logits move by {off:.2g} of the largest."
            return "fail", "The logits are the bare model's."

        return self._asked(ask, "forward")

    def agrees(
        self,
        tokens: Int[Tensor, "batch pos"],
        content: Bool[Tensor, "batch pos"],
        ours: Float[Tensor, "token d_vocab"],
        tolerance: float,
    ) -> Found:
        """Return whether PEFT's forward gives the logits that `attach` gives."""

        def ask() -> Found:
            off = relative(self._logits(tokens)[content], ours)
            says = f"Their logits are {off:.1g} of the largest apart ({tolerance:.0e} allowed)."
            return ("pass" if off <= tolerance else "fail"), says

        return self._asked(ask, "forward")

    def continues(
        self, tokens: Int[Tensor, "batch pos"], n_new: int, use_cache: bool, tolerance: float
    ) -> Found:
        """Return whether PEFT's `generate` scores tokens as a loop of its own whole runs does.

        Args:
            tokens: without padding.
            n_new: tokens to add.
            use_cache: whether keys and values are kept.
            tolerance: difference allowed, of the largest.
        """
        if n_new < 1:
            return "not checked", "The texts fill the model's context."

        def ask() -> Found:
            found = self.model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n_new,
                min_new_tokens=n_new, do_sample=False, num_beams=1, use_cache=use_cache,
                output_logits=True, return_dict_in_generate=True, pad_token_id=0,
            )  # fmt: skip
            scores = torch.stack([x.to(tokens.device) for x in found.logits], dim=1).float()
            whole = torch.cat([tokens, found.sequences[:, -n_new:-1]], dim=1)
            loop, bare = (run(whole)[:, -n_new:].float() for run in (self._logits, self._bare))
            off, acts = relative(scores, loop), relative(loop, bare)
            if acts <= tolerance:
                return "note", "The context changes too little here to tell."
            if off <= tolerance:
                return "pass", f"Its scores are {off:.1g} of the largest from a loop of whole runs."
            if relative(scores, bare) <= tolerance:
                return "fail", (
                    "It ignores the context without a word: its scores are the bare model's, "
                    f"{off:.2g} of the largest from a loop of whole runs."
                )
            apart = (scores - loop).abs().amax((0, 2)) / loop.abs().max()
            first = int((apart > tolerance).nonzero()[0]) + 1
            return "fail", (
                f"From new token {first} on it leaves the loop of whole runs, by {off:.2g} of the "
                "largest."
            )

        # Whoever asks for no cache is told, so that nothing wrong comes out of it.
        return self._asked(ask, "generate", "fail" if use_cache else "note")

    def _logits(self, tokens: Tensor) -> Float[Tensor, "batch pos d_vocab"]:
        return self.model(input_ids=tokens).logits[:, -tokens.shape[1] :]

    def _bare(self, tokens: Tensor, **where: Tensor) -> Float[Tensor, "batch pos d_vocab"]:
        return self.model.get_base_model()(input_ids=tokens, **where).logits

    def _asked(self, ask: Callable[[], Found], what: str, if_it_stops: Any = "fail") -> Found:
        """Return what was found; code of others may stop in any way, which is an answer, too."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with _quiet(), torch.no_grad():
                return ask()
        except Exception as error:
            name, said = type(error).__name__, one_line(error)[:160]
            return if_it_stops, f"PEFT's {what} stops with {name}: {said}"
        finally:
            for module in training:
                module.training = True


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries warn of: what comes of it is measured here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
