import pytest
import torch

from prefix_interp import PrefixInterpError
from prefix_interp.models import device
from prefix_interp.models.device import check_device, fastest_precision


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


def test_bfloat16_is_chosen_only_where_a_product_is_clearly_faster(monkeypatch):
    threads = torch.get_num_threads()
    assert fastest_precision() in ("float32", "bfloat16")
    assert torch.get_num_threads() == threads
    for ratio, chosen in ((0.5, "float32"), (1.1, "float32"), (1.3, "bfloat16"), (9.0, "bfloat16")):
        seconds = {torch.float32: ratio, torch.bfloat16: 1.0}
        monkeypatch.setattr(device, "_product_seconds", seconds.__getitem__)
        assert fastest_precision.__wrapped__() == chosen
