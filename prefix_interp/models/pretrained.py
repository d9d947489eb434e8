"""Any Hugging Face causal language model, with hooks, from a folder or from memory; never a hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.device import check_device
from prefix_interp.models.host import host_of
from prefix_interp.models.support import check_supported
from prefix_interp.models.unwrapped import (
    PROBLEMS,
    causal_logits,
    check_same_logits,
    first_line,
    unchanged_if_refused,
)

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_pretrained(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> TransformerBridge:
    """Return a Hugging Face causal language model as a TransformerBridge: the same model, hooked.

    Every function that takes a model takes it. Nothing is ever asked of a hub, pickled weights are
    not read, and no code that came with the weights runs. The attention becomes eager, since hooks
    see no other.

    Args:
        model: the folder of a saved model, a ``.gguf`` file, or a model in memory, which is wrapped
            and not copied: it has hooks from then on, no dropout, and computes what it computed
            before.
        tokenizer: a tokenizer, or its folder; None for the one in the model's folder, if any. Only
            texts need it.
        dtype: of the weights, to which a model in memory is itself converted; None for those that
            it has, float32 for a folder.
        device: where it runs; None for where it is, the CPU for a folder.
        device_map: places the layers of a folder's model on several devices, as in Hugging Face.

    Raises:
        PrefixInterpError: no such folder, pickled or missing weights, no causal language model, or
            an architecture that hooks change or whose attention no prefix fits exactly; the message
            says why, and a model in memory is then as it was.

    Example:
        >>> lm = pi.load_pretrained(tiny_llama())
        >>> tuple(lm(tokens).shape)
        (4, 19, 99)
    """
    if device is not None and device_map is not None:
        raise PrefixInterpError(
            f"device={device!r} and device_map are both given; name one of them"
        )
    if device is not None:
        check_device(str(device))
    if isinstance(model, PreTrainedModel):
        found, place = model, None
        if device_map is not None:
            raise PrefixInterpError(
                "device_map goes with a folder; place a model in memory before you give it"
            )
        _check_plain(found)
        found = found if dtype is None else cast(Any, found).to(dtype)
    elif isinstance(model, (str, Path)):
        place = _existing(Path(model))
        found = _read(place, dtype or torch.float32, device_map)
    else:
        what = type(model).__name__
        peft = type(model).__module__.startswith("peft")
        raise PrefixInterpError(
            f"model={what} is no Hugging Face model; give one, or its folder"
            + (
                "; of a PeftModel give model.get_base_model(), or merge_and_unload()"
                if peft
                else ""
            )
        )
    if device is not None:
        found = cast(Any, found).to(torch.device(device))
    words = _tokenizer(tokenizer, place)
    with unchanged_if_refused(found):
        found.eval()
        found.set_attn_implementation("eager")
        found.config.use_cache = False  # every forward would fill one
        if not found.config.architectures:
            found.config.architectures = [type(found).__name__]
        before = causal_logits(found)
        bridge = _wrapped(found, words)
        check_supported(bridge)
        check_same_logits(found, before)
        host_of(bridge).prepare()
    return bridge


def read_pretrained(place: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Return the model of a folder or a ``.gguf`` file without hooks, with eager attention.

    Args:
        place: as `model` of `load_pretrained`.
        dtype: of the weights; None for float32.

    Raises:
        PrefixInterpError: as `load_pretrained`.
    """
    return _read(_existing(Path(place)), dtype or torch.float32, None).eval()


def _existing(place: Path) -> Path:
    if not place.exists():
        raise PrefixInterpError(
            f"model={str(place)!r} is no folder on this machine, and no hub is asked; download the "
            "model first and give its folder"
        )
    if place.is_dir() and not (place / "config.json").exists():
        raise PrefixInterpError(
            f"model={str(place)!r} holds no config.json; give the folder that save_pretrained wrote"
        )
    if place.is_file() and place.suffix != ".gguf":
        raise PrefixInterpError(
            f"model={str(place)!r} is a file; give the model's folder, or a .gguf file"
        )
    return place


def _read(place: Path, dtype: torch.dtype, device_map: Any) -> PreTrainedModel:
    """Return the model of a folder or of a .gguf file."""
    more: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    if place.is_dir():
        if not list(place.glob("*.safetensors")):
            pickled = [file.name for ending in _PICKLED for file in place.glob(ending)]
            why = f"only pickled weights ({pickled[0]}), which may run code" if pickled else "none"
            raise PrefixInterpError(
                f"model={str(place)!r} must hold weights as .safetensors, and there are {why}; "
                "save the model again with save_pretrained"
            )
        more |= {"use_safetensors": True}
    else:
        more |= {"gguf_file": place.name}
    reader: Any = AutoModelForCausalLM  # whose types do not know of the second result
    try:
        found, info = reader.from_pretrained(
            place if place.is_dir() else place.parent,
            dtype=dtype, local_files_only=True, trust_remote_code=False,
            attn_implementation="eager", output_loading_info=True,
            ignore_mismatched_sizes=True, **more,
        )  # fmt: skip
    except (ValueError, OSError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise PrefixInterpError(
            f"model={str(place)!r} cannot be read as a causal language model: {first_line(error)}"
        ) from error
    _check_weights(place, found, info)
    if place.is_file():  # the weights are plain now
        vars(found.config).pop("quantization_config", None)
        vars(found).update(hf_quantizer=None, is_quantized=False)
        found = cast(Any, found).to(dtype)
    return found


def _check_weights(place: Path, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Raise if a weight is not in the files, where Hugging Face draws it at random, or not used."""
    shape = re.compile(r"(?<=\.)\d+(?=\.)")
    own = {shape.sub("N", name) for name in model.state_dict()}
    # Weights of something else, as of a head for rewards, may stay unused.
    more = [name for name in info["unexpected_keys"] if shape.sub("N", name) in own]
    for what, names in (
        ("are missing in the files", info["missing_keys"]),
        ("have another shape in the files", [key[0] for key in info["mismatched_keys"]]),
        ("are in the files and not in the model", more),
    ):
        if names:
            named = ", ".join(sorted(names)[:2]) + (", ..." if len(names) > 2 else "")
            raise PrefixInterpError(
                f"model={str(place)!r} does not fit its config.json: these weights {what}: "
                f"{named}; save the model again, whole"
            )


def _check_plain(model: PreTrainedModel) -> None:
    """Raise if layers of the model are adapters, which hold weights beside those that we read.

    Raises:
        PrefixInterpError: an adapter of PEFT inside the layers, or a model that is wrapped already:
            two bridges would each put hooks on the same layers.
    """
    for name, module in model.named_modules():
        if type(module).__module__.startswith("transformer_lens."):
            raise PrefixInterpError(
                "model is wrapped already; use what load_pretrained returned, or load another copy"
            )
        if type(module).__module__.startswith("peft."):
            raise PrefixInterpError(
                f"model has an adapter of PEFT at {name!r}; give it merged "
                "(peft_model.merge_and_unload())"
            )


def _tokenizer(
    given: PreTrainedTokenizerBase | str | Path | None, place: Path | None
) -> PreTrainedTokenizerBase | None:
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if given is not None and not isinstance(given, (str, Path)):
        raise PrefixInterpError(
            f"tokenizer is a {type(given).__name__}; give a tokenizer of transformers, or a folder"
        )
    folder = place if given is None else Path(given)
    if folder is None:
        return None
    more = {"gguf_file": folder.name} if folder.is_file() else {}
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if not more and not any((folder / name).exists() for name in names):
        if given is None:
            return None
        raise PrefixInterpError(
            f"tokenizer={str(given)!r} holds no tokenizer; give the folder of a saved one"
        )
    try:
        return AutoTokenizer.from_pretrained(
            folder.parent if more else folder, local_files_only=True, trust_remote_code=False,
            **more,
        )  # fmt: skip
    except Exception as error:  # tokenizers raises this bare class
        raise PrefixInterpError(
            f"tokenizer={str(folder)!r} cannot be read: {first_line(error)}"
        ) from error


def _wrapped(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> TransformerBridge:
    """Return the model under a bridge, which needs some tokenizer to be made.

    It gets a stand-in: TransformerLens gives a tokenizer that lacks special tokens new ones, beyond
    the model's vocabulary, and asks the tokenizer's old place, or a hub, for another one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            placed = getattr(model, "hf_device_map", None)
            bridge = TransformerBridge.boot_transformers(
                "local", hf_model=model, tokenizer=_stand_in(), dtype=model.dtype,
                device=None if placed else str(model.device),
            )  # fmt: skip
        except PROBLEMS as error:
            raise PrefixInterpError(
                f"model={type(model).__name__} cannot be wrapped by TransformerLens: "
                f"{first_line(error)}"
            ) from error
    bridge.tokenizer = None  # one that replaces another would be changed, too
    bridge.tokenizer = tokenizer
    first, last = _ends(tokenizer)
    bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = first, last
    return bridge


def _ends(tokenizer: PreTrainedTokenizerBase | None) -> tuple[bool, bool]:
    """Return whether a tokenizer puts its own tokens in front of a text, and behind it."""
    ids = [] if tokenizer is None else tokenizer.encode("a")
    if tokenizer is None or not ids:
        return False, False
    return ids[0] == tokenizer.bos_token_id, ids[-1] == tokenizer.eos_token_id


def _stand_in() -> PreTrainedTokenizerBase:
    """Return a tokenizer of one word: without any, TransformerLens would ask a hub for one."""
    words = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a", eos_token="a")
    with TemporaryDirectory() as folder:  # a saved one knows its own place, which is asked for
        made.save_pretrained(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
