from dataclasses import replace
from importlib import import_module

import pytest
import torch

import prefix_interp as pi
from analyses.language_model import STUDY
from analyses.language_model.tables import findings_line
from analyses.registry import evidence_of
from analyses.runs import run_study
from prefix_interp.models.llama import hook_llama
from prefix_interp.theory.capacity import hard_continuations
from tests.models.test_llama import llama

SIZES = STUDY.protocols["smoke"]


@pytest.fixture(scope="module")
def model():
    return hook_llama(llama().float(), n_ctx=16)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Runs the study in a work folder of its own."""
    work = tmp_path_factory.mktemp("work")

    def run():
        return run_study(
            STUDY, "smoke", [0], work=work, progress=False, model=model, model_name="tiny (made up)"
        )

    run.work = work
    return run


@pytest.fixture(scope="module")
def result(run):
    return run()


def test_counts_against_a_plain_recount(result, model):
    rows = {r["kind"]: r for r in result.rows("distinct")}
    emitted = [tuple(row) for row in hard_continuations(model, SIZES.n_out).tolist()]
    assert rows["hard"]["tried"] == 31 and rows["hard"]["distinct"] == len(set(emitted))
    # Expected number of different rows among 3 of 31, drawn without replacement.
    absent = [emitted.count(row) for row in set(emitted)]
    left = lambda k: (31 - k) * (30 - k) * (29 - k) / (31 * 30 * 29)  # noqa: E731
    expected = sum(1 - left(k) for k in absent)
    assert rows["hard, as many"]["distinct"] == pytest.approx(expected, abs=0.1)
    assert [r["length"] for r in result.rows("length")] == sorted(SIZES.lengths)
    assert (rows["searched"]["tried"], rows["random"]["tried"]) == (3, 5)


def test_the_result_says_which_model_it_is_of(result, model):
    assert result.settings["model"] == "tiny (made up)" and result.settings["d_vocab"] == 31
    assert result.settings["n_params"] == sum(p.numel() for p in model.parameters())
    assert result.settings["protocol"]["n_out"] == SIZES.n_out


def test_section_and_findings_say_what_was_counted(result):
    evidence = evidence_of([replace(result, preset="fast")])
    section = STUDY.section(evidence)
    rows = {r["kind"]: r for r in result.rows("distinct")}
    assert len(section.numbers["distinct"]) == 4 and len(section.numbers["lengths"]) == 2
    assert section.numbers["distinct"][0]["share"] == rows["hard"]["distinct"] / 31
    count = rows["hard"]["distinct"]
    assert f"{rows['searched']['distinct']} of 3 soft tokens" in section.title
    assert "tiny (made up), 31 tokens" in section.figure.caption
    name, hard, searched, half, longest = findings_line(evidence)
    assert (name, hard) == ("tiny", f"{count} of 31")
    assert searched == f"{rows['searched']['distinct']} of 3"
    reached = {r["length"]: r["reached"] for r in result.rows("length")}
    assert longest.startswith(f"{max([n for n in reached if reached[n]], default=0)} token")
    assert half.startswith(f"{max([n for n in reached if 2 * reached[n] >= 3], default=0)} token")


def test_finished_parts_are_taken_and_others_made_again(run, result, model, monkeypatch):
    made = []

    def spy(model, n_out, tokens):
        made.append(int(tokens[0]))
        return hard_continuations(model, n_out, tokens)

    monkeypatch.setattr(import_module(STUDY.measure.__module__), "hard_continuations", spy)
    (finished,) = run.work.rglob("finished.json.gz")
    finished.unlink()
    (part,) = run.work.rglob("hard-16.safetensors")  # 31 tokens in chunks of 16
    part.unlink()
    assert run().tables == result.tables and made == [16]
    made.clear()
    before = model.W_E[0].clone()
    with torch.no_grad():
        model.W_E[0] += 1.0  # another model: nothing that was kept is its own
    run()
    with torch.no_grad():
        model.W_E[0] = before
    assert made == [0, 16]
    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(model.cfg, "rotary_base", 100)  # the same weights, another model
        run()
    assert made == [0, 16]
    assert run().tables == result.tables and made == [0, 16]  # nothing was done again


def test_a_model_comes_from_a_folder(tmp_path):
    llama(max_position_embeddings=256).float().save_pretrained(tmp_path)
    loaded = STUDY.model.load(str(tmp_path))
    tokens = torch.tensor([[3, 1, 4]])
    expected = hook_llama(llama(max_position_embeddings=256).float())(tokens)
    assert torch.equal(loaded(tokens), expected)
    with pytest.raises(pi.PrefixInterpError, match="does not exist; name a folder or a GGUF file"):
        STUDY.model.load(str(tmp_path / "no"))


def test_without_a_model_it_is_one_line():
    with pytest.raises(pi.PrefixInterpError, match="hand one in with --model"):
        run_study(STUDY, "smoke", [0], work=None)
