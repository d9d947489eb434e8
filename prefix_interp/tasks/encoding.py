"""Texts as lists of tokens, whatever a tokenizer pads and puts around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from prefix_interp.errors import PrefixInterpError

_FIRST = 32  # texts that show which tokens the tokenizer puts around every text


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, used so that texts keep one form.

    Each text has the tokens that the tokenizer puts in front of every text (BOS), once, even where
    the text begins with them itself. What it would put behind (EOS) and padding are left out.

    Attributes:
        tokenizer: from transformers.
        d_vocab: tokens of the model, if it is known.
    """

    tokenizer: PreTrainedTokenizerBase
    d_vocab: int | None = None

    @property
    def pad(self) -> int:
        """Return the token that fills up rows: the end token, or 0 if the model has none."""
        end = self.tokenizer.eos_token_id
        # A tokenizer can have been given an end token that its model does not know.
        if not isinstance(end, int) or (self.d_vocab is not None and end >= self.d_vocab):
            return 0
        return end

    def ids(self, what: str, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text.

        Args:
            what: names the texts in messages.
            texts: at least one.

        Raises:
            PrefixInterpError: a text without tokens, or a tokenizer whose special tokens depend on
                the text.
        """
        bare, dressed = self._rows(texts, False), self._rows(texts[:_FIRST], True)
        for i, row in enumerate(bare):
            if not row:
                raise PrefixInterpError(
                    f"{what}[{i}]={texts[i][-20:]!r} has no tokens in this tokenizer; give other "
                    "text"
                )
        front = _front(bare[:_FIRST], dressed)
        # A text from a chat template begins with BOS itself.
        return [row if row[: len(front)] == front else front + row for row in bare]

    def _rows(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        found = self.tokenizer(list(texts), add_special_tokens=special, verbose=False)
        return [list(row) for row in found["input_ids"]]


def encoder_of(given: object) -> Encoder:
    """Return what encodes texts for a tokenizer, or for a model that has one.

    Raises:
        PrefixInterpError: neither.
    """
    found = given
    if not isinstance(given, PreTrainedTokenizerBase):
        found = getattr(given, "tokenizer", None)
        if found is None and hasattr(given, "tokenizer"):
            raise PrefixInterpError(
                "model has no tokenizer, so it reads no texts; give tokens, or load the model with "
                "load_pretrained(model, tokenizer)"
            )
    if not isinstance(found, PreTrainedTokenizerBase):
        raise PrefixInterpError(
            f"tokenizer is a {type(given).__name__}; give a tokenizer of transformers "
            "(AutoTokenizer, or PreTrainedTokenizerFast(tokenizer_object=...)), or a model with one"
        )
    return Encoder(found, getattr(getattr(given, "cfg", None), "d_vocab", None))


def _front(bare: Sequence[list[int]], dressed: Sequence[list[int]]) -> list[int]:
    """Return the tokens that stand in front of every text.

    Args:
        bare: the texts without special tokens.
        dressed: the same with them.
    """
    # A text of special tokens alone fits at several places, and at the first without its own.
    fits = set(range(len(dressed[0]) - len(bare[0]) + 1))
    for row, whole in zip(bare, dressed, strict=True):
        fits &= {n for n in fits if whole[n : n + len(row)] == row}
    if not fits:
        raise PrefixInterpError(
            "tokenizer does not put the same special tokens around each text; give one that does, "
            "or that puts none (add_bos_token=False)"
        )
    return dressed[0][: min(fits)]
