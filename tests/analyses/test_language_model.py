import pytest
import torch

import prefix_interp as pi
from prefix_interp.experiments import language_model as experiment
from prefix_interp.experiments.language_model import PROTOCOLS, language_model
from prefix_interp.models.llama import hook_llama
from prefix_interp.theory.capacity import hard_continuations
from prefix_interp.views.capacity_sections import language_model_section
from tests.models.test_llama import llama


@pytest.fixture(scope="module")
def model():
    return hook_llama(llama().float(), n_ctx=16)


def test_counts_against_a_plain_recount(model, tmp_path):
    result = language_model(model, "tiny", "smoke", work=tmp_path, progress=False)
    sizes = PROTOCOLS["smoke"]
    rows = {r["kind"]: r for r in result.records if r["part"] == "distinct"}
    emitted = [tuple(row) for row in hard_continuations(model, sizes.n_out).tolist()]
    assert rows["hard"]["tried"] == 31 and rows["hard"]["distinct"] == len(set(emitted))
    # Expected number of different rows among 3 of 31, drawn without replacement.
    absent = [emitted.count(row) for row in set(emitted)]
    left = lambda k: (31 - k) * (30 - k) * (29 - k) / (31 * 30 * 29)  # noqa: E731
    expected = sum(1 - left(k) for k in absent)
    assert rows["hard, as many"]["distinct"] == pytest.approx(expected, abs=0.1)
    assert {r["length"] for r in result.records if r["part"] == "length"} == set(sizes.lengths)
    assert (rows["searched"]["tried"], rows["random"]["tried"]) == (3, 5)
    assert len(list(tmp_path.glob("hard-*"))) == 2  # 31 tokens in chunks of 16
    section = language_model_section(result)
    assert len(section.numbers["distinct"]) == 4 and len(section.numbers["lengths"]) == 2
    (finding,) = section.findings
    assert f"tiny: {len(set(emitted))} different continuations from 31 hard tokens" in finding


def test_finished_parts_are_taken_and_others_made_again(model, tmp_path, monkeypatch):
    run = lambda **how: language_model(  # noqa: E731
        model, "tiny", "smoke", **({"work": tmp_path, "progress": False} | how)
    )
    whole = run()
    (tmp_path / "hard-16.safetensors").unlink()
    made, real = [], hard_continuations
    monkeypatch.setattr(
        experiment, "hard_continuations", lambda m, n, t: made.append(int(t[0])) or real(m, n, t)
    )
    assert run().records == whole.records and made == [16]
    with torch.no_grad():
        model.W_E[0] += 1.0  # another model: nothing that was kept is its own
    made.clear()
    run()
    with torch.no_grad():
        model.W_E[0] -= 1.0
    assert made == [0, 16]
    run()
    made.clear()
    monkeypatch.setattr(model.cfg, "rotary_base", 100)  # the same weights, another model
    run()
    assert made == [0, 16]
    with pytest.raises(pi.PrefixInterpError, match="fast"):
        language_model(model, "tiny", "fats")
