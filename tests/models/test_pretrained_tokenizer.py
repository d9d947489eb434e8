"""A tokenizer stays as it is: nothing is added to it, and no place is asked for another one."""

import socket

import pytest

from prefix_interp.models.pretrained import load_pretrained
from tests.tiny_language_models import hub_model, tokenizer


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("bos", [None, "w5"])
def test_a_tokenizer_is_kept_unchanged(bos, no_network, monkeypatch):
    own = tokenizer()
    monkeypatch.setattr(own, "_special_tokens_map", {**own._special_tokens_map, "bos_token": bos})
    before = dict(own.special_tokens_map), len(own), own.padding_side
    lm = load_pretrained(hub_model("llama"), own)
    assert lm.tokenizer is own
    assert (dict(own.special_tokens_map), len(own), own.padding_side) == before
    assert lm.cfg.d_vocab == lm.cfg.d_vocab_out == 99
    assert not lm.cfg.tokenizer_prepends_bos
