"""The evaluation at the end of a training: made once, of this very checkpoint, on one thread."""

import json

import pytest
import torch

import prefix_interp as pi
from prefix_interp.tasks import DigitTask
from prefix_interp.tuning import contexts, train
from prefix_interp.tuning.scores import scored_once
from prefix_interp.tuning.train import fine_tune, pretrain
from tests.helpers import toy

TASK = DigitTask("tiny", ("sort_ascending",), length=2, n_digits=3)
CONFIG = pi.ToyConfig(n_layers=1, n_heads=1, d_model=8)


def smoke(stage):
    return pi.Recipe.from_preset("smoke", stage, steps=4)


def tuned(file):
    starts = pi.Prefix.random_starts(toy(), 1, 2)
    recipe = smoke("prefix")
    return contexts.sweep(toy(), TASK, starts, [0.1, 0.2], recipe=recipe, checkpoint=file,
                          progress=False)  # fmt: skip


TRAININGS = {
    "pretrain": (train, lambda file: [pretrain(CONFIG, TASK, recipe=smoke("pretrain"),
                                               checkpoint=file, progress=False)]),
    "fine-tune": (train, lambda file: [fine_tune(toy(), TASK, recipe=smoke("fine_tune"),
                                                 checkpoint=file, progress=False)]),
    "sweep": (contexts, tuned),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_that_had_ended_is_not_evaluated_again(kind, tmp_path, monkeypatch):
    module, run = TRAININGS[kind]
    first = [fit.evaluation.to_dict() for fit in run(tmp_path / "c")]
    assert first == [fit.evaluation.to_dict() for fit in run(None)]

    def never(*args, **kwargs):
        raise AssertionError("it was evaluated before")

    monkeypatch.setattr(module, "evaluate", never)
    assert first == [fit.evaluation.to_dict() for fit in run(tmp_path / "c")]


def test_scores_of_another_checkpoint_are_not_taken_and_altered_ones_refused(tmp_path):
    file = tmp_path / "c"
    fit = TRAININGS["pretrain"][1](file)[0]
    kept = tmp_path / "c.scores.json"
    assert scored_once(file, list) == [fit.evaluation]
    text = kept.read_text()
    kept.write_text(json.dumps(json.loads(text) | {"evaluations": []}))
    with pytest.raises(pi.PrefixInterpError, match="checksum"):
        scored_once(file, list)
    kept.write_text(text)
    file.write_bytes(file.read_bytes() + b" ")
    assert scored_once(file, list) == []


def test_the_last_evaluation_runs_on_one_thread():
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scored_once(None, lambda: seen.append(torch.get_num_threads()) or [])
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_checkpoint_that_could_never_be_written_is_refused_before_any_step(kind, tmp_path):
    _, run = TRAININGS[kind]
    (tmp_path / "file").write_text("mine")
    for path, match in [(tmp_path, "is a folder"), (tmp_path / "file" / "c", "is no folder")]:
        with pytest.raises(pi.PrefixInterpError, match=match):
            run(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_folder_without_permission_is_refused_before_any_step(kind, tmp_path, monkeypatch):
    _, run = TRAININGS[kind]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    # A superuser may write anywhere: answer as for anyone else.
    asked = "prefix_interp.files._takes_files"
    monkeypatch.setattr(asked, lambda path: bool(path.stat().st_mode & 0o200))
    monkeypatch.setattr(DigitTask, "sample_from", lambda *_: pytest.fail("a batch was drawn"))
    with pytest.raises(pi.PrefixInterpError, match="is not writable"):
        run(closed / "c")
