"""Adapters of PEFT, both ways: prefix tuning, cartridges, prompt tuning and p-tuning.

A folder is read without PEFT: its ``adapter_config.json``, and the one tensor
``prompt_embeddings`` of its ``adapter_model.safetensors``, in which PEFT has folded any projection
or prompt encoder. For prefix tuning a row of it is a slot: keys and values of every layer, as they
are multiplied and weighed; for prompt tuning it is a row among the embedded tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import is_there, read_file, write_together
from prefix_interp.models.host import Host, KeysValues, Model, host_of
from prefix_interp.records import MAX_JSON_BYTES, one_line, parse_json
from prefix_interp.storage import read_foreign_tensors

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
OF_PREFIXES, OF_PROMPTS = ("PREFIX_TUNING", "CARTRIDGE"), ("PROMPT_TUNING", "P_TUNING")
_TENSOR = "prompt_embeddings"
_OWN = {"prefix.json": "Prefix.load", "soft_prompt.json": "SoftPrompt.load"}


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """An adapter of PEFT that is a context.

    Attributes:
        config: what its ``adapter_config.json`` holds, or would hold.
        embeddings: one row per slot; see the module.
        place: where it comes from, for messages and metadata.
    """

    config: dict[str, Any]
    embeddings: Float[Tensor, "slot numbers"]
    place: str

    @property
    def kind(self) -> str:
        """Return PEFT's name of the method."""
        return str(self.config.get("peft_type"))


def is_peft_model(given: object) -> bool:
    """Return whether `given` is a model of PEFT; it does not import PEFT."""
    return any(
        base.__module__.startswith("peft.") and base.__name__ == "PeftModel"
        for base in type(given).__mro__
    )


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter of PEFT."""
    return is_there(Path(folder) / CONFIG)


def read_adapter(given: object) -> Adapter:
    """Return the adapter in a folder, or the active one of a PeftModel.

    Raises:
        PrefixInterpError: neither, a file is missing or damaged, pickled weights, or a method that
            is no context of a causal language model.
    """
    if isinstance(given, (str, Path)):
        found = _saved(Path(given))
    elif is_peft_model(given):
        found = _live(given)
    else:
        raise PrefixInterpError(
            f"adapter={type(given).__name__} is no adapter; give the folder that PEFT's "
            "save_pretrained wrote, or the PeftModel itself"
        )
    _check_config(found)
    return found


def prefix_fields(given: object, model: Model) -> dict[str, Any]:
    """Return the fields of the `Prefix` that an adapter of prefix tuning is.

    Args:
        given: a folder or a PeftModel.
        model: the language model it was tuned for.

    Raises:
        PrefixInterpError: as `read_adapter`, another method, or it does not fit `model`.
    """
    adapter, host = _for(given, model, OF_PREFIXES)
    heads, width = host.n_kv_heads, host.d_head
    sizes = {"num_layers": host.n_layers, "num_attention_heads": heads, "token_dim": heads * width}
    _check_sizes(adapter, sizes, host.n_layers * 2 * heads * width)
    keys, values = rearrange(
        host.cast(adapter.embeddings),
        "slot (layer two kv_head d_head) -> two layer slot kv_head d_head",
        layer=host.n_layers, two=2, kv_head=heads,
    ).contiguous()  # fmt: skip
    return {"keys": keys, "values": values, "metadata": _metadata(adapter)}


def prompt_fields(given: object, model: Model) -> dict[str, Any]:
    """Return the fields of the `SoftPrompt` that an adapter of prompt tuning or p-tuning is.

    Args:
        given: a folder or a PeftModel.
        model: the language model it was tuned for.

    Raises:
        PrefixInterpError: as `read_adapter`, another method, or it does not fit `model`.
    """
    adapter, host = _for(given, model, OF_PROMPTS)
    sizes = {"num_layers": host.n_layers, "num_attention_heads": host.n_heads}
    _check_sizes(adapter, sizes | {"token_dim": host.d_model}, host.d_model)
    return {"vectors": host.cast(adapter.embeddings)[None], "metadata": _metadata(adapter)}


def write_prefix(
    folder: str | Path, model: Model, slots: KeysValues, metadata: Mapping[str, Any]
) -> Path:
    """Write keys and values of slots as an adapter of prefix tuning; return the folder.

    Args:
        folder: may hold another adapter, which is replaced.
        model: the language model it was tuned for.
        slots: of each layer, keys as they are multiplied.
        metadata: of a context; what `prefix_fields` left there is used.

    Raises:
        PrefixInterpError: no language model, or the folder cannot be written.
    """
    host = _language_host(model)
    rows = torch.stack([torch.stack(pair, dim=1) for pair in slots], dim=1)
    sizes = {"num_attention_heads": host.n_kv_heads, "token_dim": host.n_kv_heads * host.d_head}
    own = {"prefix_projection": False, "encoder_hidden_size": sizes["token_dim"]}
    return _write(folder, host, rows.flatten(1), OF_PREFIXES, sizes, own, metadata)


def write_prompt(
    folder: str | Path,
    model: Model,
    vectors: Float[Tensor, "slot d_model"],
    metadata: Mapping[str, Any],
) -> Path:
    """Write rows among the embedded tokens as an adapter of prompt tuning; return the folder.

    Args:
        folder: may hold another adapter, which is replaced.
        model: the language model it was tuned for.
        vectors: one row per slot, in front of the content.
        metadata: of a context; what `prompt_fields` left there is used.

    Raises:
        PrefixInterpError: no language model, or the folder cannot be written.
    """
    host = _language_host(model)
    sizes = {"num_attention_heads": host.n_heads, "token_dim": host.d_model}
    own = {"prompt_tuning_init": "RANDOM"}
    return _write(folder, host, vectors, OF_PROMPTS, sizes, own, metadata)


# Reading


def _saved(folder: Path) -> Adapter:
    where = f"adapter={str(folder)!r}"
    if not folder.is_dir():
        raise PrefixInterpError(
            f"{where} is no folder on this machine, and no hub is asked; give the folder that "
            "PEFT's save_pretrained wrote"
        )
    if not is_there(folder / CONFIG):
        inside = [file.parent.name for file in sorted(folder.glob(f"*/{CONFIG}"))]
        own = [call for name, call in _OWN.items() if is_there(folder / name)]
        what_to_do = "give the folder that PEFT's save_pretrained wrote"
        if inside:
            what_to_do = f"it has adapters in folders: give one of them, e.g. {inside[0]!r}"
        elif own:
            what_to_do = f"it is this library's: call {own[0]}"
        raise PrefixInterpError(f"{where} holds no {CONFIG}; {what_to_do}")
    config = parse_json(folder / CONFIG, read_file(folder / CONFIG, MAX_JSON_BYTES))
    _check_kind(where, config)
    if not is_there(folder / WEIGHTS):
        pickled = is_there(folder / PICKLED)
        why = f"only {PICKLED}, a pickle, which may run code" if pickled else f"no {WEIGHTS}"
        raise PrefixInterpError(
            f"{where} holds {why}; save it again with PEFT's save_pretrained (as safetensors)"
        )
    tensors = read_foreign_tensors(folder / WEIGHTS)
    _check_alone(where, [name for name in tensors if name != _TENSOR])
    if _TENSOR not in tensors:
        raise PrefixInterpError(
            f"{where} holds no {_TENSOR!r} in {WEIGHTS}; save it again with PEFT's save_pretrained"
        )
    return Adapter(config, tensors[_TENSOR], str(folder))


def _live(model: Any) -> Adapter:
    name = model.active_adapter
    config = json.loads(json.dumps(model.peft_config[name].to_dict(), default=str))
    where = f"adapter=PeftModel, {one_line(name)!r},"
    _check_kind(where, config)
    _check_alone(where, config.get("modules_to_save") or [])
    encoder: nn.Module = model.prompt_encoder[name]
    training = encoder.training
    encoder.eval()  # an LSTM in it may have dropout
    try:
        if config.get("inference_mode"):  # one that was loaded has no encoder any more
            rows = encoder.embedding.weight.detach().cpu().clone()  # type: ignore[union-attr]
        else:
            rows = model.get_prompt_embedding_to_save(name)
    finally:
        encoder.train(training)
    return Adapter(config, rows, "PeftModel")


def _check_kind(where: str, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind not in (*OF_PREFIXES, *OF_PROMPTS):
        raise PrefixInterpError(
            f"{where} is of the method {one_line(kind)}, which is no context; give one of "
            f"{', '.join((*OF_PREFIXES, *OF_PROMPTS))}, or merge it into the model with PEFT"
        )


def _check_alone(where: str, others: list[str]) -> None:
    if others:
        raise PrefixInterpError(
            f"{where} changes other weights, too ({one_line(others[0])[:80]!r}), which a context "
            "cannot; tune it without modules_to_save"
        )


def _check_config(adapter: Adapter) -> None:
    where, config = f"adapter={adapter.place!r}", adapter.config
    if config.get("num_transformer_submodules") == 2:
        raise PrefixInterpError(
            f"{where} is of an encoder-decoder (num_transformer_submodules=2); give an adapter of "
            "a causal language model"
        )
    if config.get("task_type") not in ("CAUSAL_LM", None):
        raise PrefixInterpError(
            f"{where} has task_type={one_line(config['task_type'])!r}, for a model with another "
            "head; give an adapter of a causal language model"
        )
    rows = adapter.embeddings
    if rows.ndim != 2 or len(rows) != config.get("num_virtual_tokens") or not len(rows):
        raise PrefixInterpError(
            f"{where} holds {_TENSOR!r} of shape {tuple(rows.shape)}, but its configuration says "
            f"num_virtual_tokens={config.get('num_virtual_tokens')!r}; save it again"
        )


def _language_host(model: Model) -> Host:
    host = host_of(model)
    if host.key_form != "scored":
        raise PrefixInterpError(
            f"model={type(model).__name__} is none of Hugging Face's, and PEFT knows no others; "
            "load yours with load_pretrained"
        )
    return host


def _for(given: object, model: Model, kinds: tuple[str, ...]) -> tuple[Adapter, Host]:
    """Return an adapter of one of `kinds` and the interface to its model."""
    host, adapter = _language_host(model), read_adapter(given)
    if adapter.kind not in kinds:
        other = "SoftPrompt" if kinds == OF_PREFIXES else "Prefix"
        raise PrefixInterpError(
            f"adapter={adapter.place!r} is of the method {adapter.kind}; load it with "
            f"{other}.from_peft"
        )
    return adapter, host


def _check_sizes(adapter: Adapter, sizes: Mapping[str, int], width: int) -> None:
    """Raise unless an adapter has the sizes of the model."""
    said = {k: adapter.config.get(k) for k in sizes}
    wrong = [f"{k}={said[k]!r}, not {sizes[k]}" for k in sizes if said[k] not in (None, sizes[k])]
    if adapter.embeddings.shape[1] != width:
        wrong.append(f"rows of {adapter.embeddings.shape[1]} numbers, not {width}")
    if wrong:
        base = adapter.config.get("base_model_name_or_path")
        raise PrefixInterpError(
            f"adapter={adapter.place!r} is of another base model (it says {one_line(base)!r}): it "
            f"has {one_line(wrong[0])}; use the model it was tuned for"
        )


def _metadata(adapter: Adapter) -> dict[str, Any]:
    return {"from": f"PEFT, {adapter.place}", "peft": adapter.config}


# Writing


def _write(
    folder: str | Path,
    host: Host,
    rows: Float[Tensor, "slot numbers"],
    kinds: tuple[str, ...],
    sizes: Mapping[str, int],
    own: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> Path:
    before = metadata.get("peft")
    if not isinstance(before, Mapping) or before.get("peft_type") not in kinds:
        place = getattr(host.model.original_model, "name_or_path", None)  # type: ignore[union-attr]
        before = {"peft_type": kinds[0], "base_model_name_or_path": place or None, **own}
    config = {
        "auto_mapping": None, "revision": None, "modules_to_save": None,
        **before, **sizes,
        "task_type": "CAUSAL_LM", "inference_mode": True, "num_transformer_submodules": 1,
        "num_layers": host.n_layers, "num_virtual_tokens": len(rows),
    }  # fmt: skip
    plain = rows.detach().cpu().contiguous().clone()
    files: dict[str | Path, bytes | str] = {
        Path(folder) / WEIGHTS: to_bytes({_TENSOR: plain}, metadata={"format": "pt"}),
        Path(folder) / CONFIG: json.dumps(config, indent=2, sort_keys=True),
    }
    write_together(files)
    return Path(folder)
