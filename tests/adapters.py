"""Adapters of PEFT on tiny language models, made without a hub."""

import warnings
from contextlib import contextmanager

import peft
import torch

from tests.tiny_language_models import hub_model

_LM = dict(task_type="CAUSAL_LM", num_virtual_tokens=4)
METHODS = {
    "prefix": lambda: peft.PrefixTuningConfig(**_LM),
    "projected": lambda: peft.PrefixTuningConfig(
        **_LM, prefix_projection=True, encoder_hidden_size=20
    ),
    "cartridge": lambda: peft.CartridgeConfig(**_LM, num_frozen_tokens=1),
    "prompt": lambda: peft.PromptTuningConfig(**_LM),
    "p-tuning": lambda: peft.PromptEncoderConfig(**_LM, encoder_hidden_size=20),
    "p-tuning-lstm": lambda: peft.PromptEncoderConfig(
        **_LM, encoder_hidden_size=20, encoder_reparameterization_type="LSTM", encoder_dropout=0.5
    ),
}
OF_PREFIXES = ("prefix", "projected", "cartridge")


@contextmanager
def quiet():
    """Silence what PEFT and transformers say of each other whenever a PeftModel is made or read."""
    with warnings.catch_warnings():
        for said in (
            "`is_gradient_checkpointing` is deprecated",
            "Could not find a config file in",
        ):
            warnings.filterwarnings("ignore", said)
        yield


def adapted(kind, method, seed=0, **changes):
    """A PeftModel on a tiny model of `kind`: see `hub_model`."""
    torch.manual_seed(seed)
    with quiet():
        return peft.get_peft_model(hub_model(kind, **changes), METHODS[method]()).eval()


def saved_adapter(folder, kind, method, seed=0, **changes):
    """The folder to which PEFT saves the same adapter."""
    with quiet():
        adapted(kind, method, seed, **changes).save_pretrained(folder)
    return folder


def loaded(folder, kind, **changes):
    """The PeftModel that PEFT makes of a folder on a tiny model of `kind`."""
    with quiet():
        return peft.PeftModel.from_pretrained(hub_model(kind, **changes), folder).eval()


def peft_logits(model, tokens):
    """The logits of the content by PEFT's own forward."""
    with torch.no_grad():
        return model(tokens).logits[:, -tokens.shape[1] :]
