import pytest
import torch

from prefix_interp import PrefixInterpError
from prefix_interp.models.device import check_device


def test_a_known_device_that_is_not_here_is_not_taken_for_a_slip(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for built, why in (("12.4", "torch finds no GPU"), (None, "built without CUDA")):
        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.version, "hip", None)
        with pytest.raises(PrefixInterpError, match=f"not available here: .*{why}.*one of 'cpu'$"):
            check_device("cuda")
    with pytest.raises(PrefixInterpError, match="device='mps' is not available here"):
        check_device("mps")
    check_device("cpu")


def test_a_slip_is_taken_for_one(monkeypatch):
    with pytest.raises(PrefixInterpError, match="did you mean 'cuda'"):
        check_device("cuad")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device("cuda")
