"""The library's way to a model, and the only place that knows which kind of model it is.

Nothing outside `models/` reads a model's configuration or private parts: it asks `host_of(model)`.
"""

from __future__ import annotations

from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.bridge import BridgeHost
from prefix_interp.models.model import Model as Model
from prefix_interp.models.port import Host as Host
from prefix_interp.models.port import KeyForm as KeyForm
from prefix_interp.models.port import KeysValues as KeysValues
from prefix_interp.models.port import Slots as Slots


def host_of(model: Model) -> Host:
    """Return the interface to `model`; it has no state of its own and is free to create.

    Raises:
        PrefixInterpError: a kind of model that the library does not know.
    """
    if isinstance(model, HookedTransformer):
        return Host(model)
    if isinstance(model, TransformerBridge):
        return BridgeHost(model)
    raise PrefixInterpError(
        f"model={type(model).__name__} is not supported; give a transformer_lens "
        "HookedTransformer (build_toy, load_toy), or a language model from load_pretrained"
    )
