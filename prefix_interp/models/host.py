"""What the library takes as a model."""

from __future__ import annotations

from transformer_lens import HookedTransformer

Model = HookedTransformer
