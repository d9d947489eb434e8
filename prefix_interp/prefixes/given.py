"""What a user may give as a context: the object itself, a tuned fit, or a saved folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import is_there
from prefix_interp.prefixes.context import Context
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt


@runtime_checkable
class Tuned(Protocol):
    """A fit that holds the context it tuned."""

    @property
    def context(self) -> Context:
        """Return the tuned context."""
        ...


ContextLike = Context | Tuned | str | Path


def as_context(given: ContextLike) -> Context:
    """Return the context that is meant.

    Args:
        given: a context, a fit, or the folder that a context was saved to.

    Raises:
        PrefixInterpError: anything else, or a folder that holds no context, or two.
    """
    if isinstance(given, (str, Path)):
        return _saved(given)
    found = given if isinstance(given, Context) else getattr(given, "context", None)
    if not isinstance(found, Context):
        raise PrefixInterpError(
            f"context is a {type(given).__name__}; give a Prefix or a SoftPrompt, a fit of one, "
            "or the folder it was saved to"
        )
    return found


def as_prefix(given: ContextLike) -> Prefix:
    """Return the prefix that is meant; soft prompts are refused.

    Args:
        given: a prefix, a fit, or the folder that a prefix was saved to.

    Raises:
        PrefixInterpError: anything else.
    """
    found = as_context(given)
    if not isinstance(found, Prefix):
        raise PrefixInterpError(
            f"prefix={type(found).__name__} has rows of its own in every layer, so it cannot be "
            "left out of a single head; give a Prefix"
        )
    return found


def _saved(path: str | Path) -> Context:
    kinds = (Prefix, SoftPrompt)
    there = [kind for kind in kinds if is_there(Path(path) / f"{kind.STEM}.safetensors")]
    if not there and is_there(Path(path) / "adapter_config.json"):
        raise PrefixInterpError(
            f"context={str(path)!r} holds an adapter of PEFT; read it with Prefix.from_peft or "
            "SoftPrompt.from_peft, which need the model too"
        )
    if len(there) != 1:
        what = " and ".join(kind.__name__ for kind in there) or "no saved context"
        raise PrefixInterpError(
            f"context={str(path)!r} holds {what}; give the folder that Prefix.save or "
            "SoftPrompt.save wrote, or load yours first and give the object"
        )
    return there[0].load(path)
