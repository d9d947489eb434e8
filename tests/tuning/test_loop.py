import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import prefix_interp as pi
from prefix_interp.storage import read_tensors, write_tensors
from prefix_interp.tasks import DigitTask
from prefix_interp.tuning.loop import Run, _Checkpoint, optimise
from prefix_interp.tuning.recipes import Recipe

TASK = DigitTask("small", ("add_one",), length=4, n_digits=4)


def quadratic(lrs, recipe, task=TASK, **options):
    """Train x towards a batch statistic, one x a learning rate; return history and x."""
    runs = [
        Run(f"lr={lr}", {"x": torch.full((3,), 2.0).requires_grad_()}, lr, frozenset({"x"}))
        for lr in lrs
    ]

    def loss(batch, step):
        target = batch.tokens.float().mean()
        return torch.stack([((run.parameters["x"] - target) ** 2).sum() * 5 for run in runs])

    history = optimise(runs, loss, task, recipe, seed=1, identity={}, progress=False, **options)
    return history, [run.parameters["x"].detach() for run in runs]


def test_one_step_is_adamw_with_clipping_by_hand():
    recipe = Recipe(1, 0.1, batch_size=8, weight_decay=0.1, schedule="constant")
    _, (x,) = quadratic([0.1], recipe)
    # After one step Adam moves by lr * sign(gradient), the decay by lr * wd * x; the gradient is
    # the same in each coordinate, and clipping only scales it.
    assert torch.allclose(x, torch.full((3,), 2.0 * (1 - 0.1 * 0.1) - 0.1), atol=1e-5)


def test_runs_side_by_side_end_as_alone():
    recipe = Recipe(60, 0.1, batch_size=8)
    _, together = quadratic([0.01, 0.1], recipe)
    for lr, x in zip([0.01, 0.1], together, strict=True):
        _, (alone,) = quadratic([lr], recipe)
        assert torch.allclose(x, alone, atol=1e-6)


def test_history_is_the_mean_loss_between_points():
    seen = []
    run = Run("one", {"x": torch.ones(1, requires_grad=True)}, 0.01, frozenset())

    def loss(batch, step):
        value = (run.parameters["x"] - batch.tokens.float().mean()) ** 2
        seen.append(value.item())
        return value

    recipe = Recipe(103, 0.01, batch_size=8)
    history = optimise([run], loss, TASK, recipe, seed=0, identity={}, progress=False)
    assert list(history.columns) == ["step", "run", "loss", "lr"]
    assert history["step"].tolist() == [*range(2, 103, 2), 103]
    for before, after, mean in zip(
        [0, *history["step"]][:-1], history["step"], history["loss"], strict=True
    ):
        assert mean == pytest.approx(sum(seen[before:after]) / (after - before), rel=1e-5)
    assert 0.005 < history["lr"].max() <= 0.01 and history["lr"].iloc[-1] < 0.001  # cosine


def test_same_seed_same_bits_and_resume_same_bits(tmp_path):
    recipe = Recipe(100, 0.05, batch_size=8)
    whole, (x,) = quadratic([0.05], recipe)
    file = tmp_path / "c.safetensors"
    calls = 0

    class Stop(Exception):
        pass

    def interrupted():
        run = Run("lr=0.05", {"x": torch.full((3,), 2.0).requires_grad_()}, 0.05, frozenset({"x"}))

        def loss(batch, step):
            nonlocal calls
            calls += 1
            if step == 57 and calls < 60:
                raise Stop
            return ((run.parameters["x"] - batch.tokens.float().mean()) ** 2).sum()[None] * 5

        history = optimise(
            [run], loss, TASK, recipe, seed=1, identity={}, progress=False, checkpoint=file
        )
        return history, run.parameters["x"].detach()

    with pytest.raises(Stop):
        interrupted()
    assert file.exists()
    history, resumed = interrupted()
    assert calls == 58 + 100 - 50, "resumed at step 50, the last checkpoint"
    assert torch.equal(resumed, x) and history.equals(whole)


def test_a_foreign_checkpoint_is_refused(tmp_path):
    file = tmp_path / "c.safetensors"
    quadratic([0.05], Recipe(10, 0.05, batch_size=8), checkpoint=file)
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        quadratic([0.04], Recipe(10, 0.04, batch_size=8), checkpoint=file)
    other = DigitTask(TASK.name, ("add_two",), length=4, n_digits=4)
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        quadratic([0.05], Recipe(10, 0.05, batch_size=8), checkpoint=file, task=other)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(pi.PrefixInterpError, match="truncated or corrupted"):
        quadratic([0.05], Recipe(10, 0.05, batch_size=8), checkpoint=file)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, r: t.update({"0.x/value": torch.zeros(1)}), r"shape \(1,\), not \(3,\)"),
        (lambda t, r: t.update({"0.x/value": torch.ones(3).bool()}), "as BOOL; allowed"),
        (lambda t, r: t.update({"0.x/value": torch.ones(3).double()}), r"torch.float64"),
        (lambda t, r: t.update({"0.x/exp_avg": torch.ones(3) / 0}), "must be finite"),
        (lambda t, r: t.pop("0.x/step"), r"shape None, not \(\)"),
        (lambda t, r: t.update({"1.x/value": torch.ones(3)}), "shape"),
        (lambda t, r: r.update(step=99_999_999), "step=99999999"),
        (lambda t, r: r.update(step=-1), "step=-1"),
        (lambda t, r: r.update(step="7"), "wrong 'step'"),
        (lambda t, r: r["rows"].pop(), "a history of"),
        (lambda t, r: r["rows"][0].__setitem__(2, "low"), "without numbers"),
        (lambda t, r: r.update(more=1), "unknown key 'more'"),
    ],
)
def test_a_checkpoint_that_no_training_wrote_is_refused(tmp_path, change, match):
    file = tmp_path / "c.safetensors"
    recipe = Recipe(10, 0.05, batch_size=8)
    quadratic([0.05], recipe, checkpoint=file)
    tensors, record = read_tensors(file, _Checkpoint.SCHEMAS)
    change(tensors, record)
    write_tensors(file, tensors, record)
    with pytest.raises(pi.PrefixInterpError, match=match):
        quadratic([0.05], recipe, checkpoint=file)


def test_a_checkpoint_of_a_name_that_no_file_has_is_refused_before_training(tmp_path):
    with pytest.raises(pi.PrefixInterpError, match=r"cannot be used: .*choose another name"):
        quadratic([0.05], Recipe(10, 0.05, batch_size=8), checkpoint=tmp_path / ("x" * 5000))


def test_checkpoints_of_equal_trainings_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        quadratic([0.05], Recipe(10, 0.05, batch_size=8), checkpoint=tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_bit_of_a_checkpoint_counts(tmp_path):
    file = tmp_path / "c.safetensors"
    recipe = Recipe(10, 0.05, batch_size=8)
    quadratic([0.05], recipe, checkpoint=file)
    data = file.read_bytes()
    for place in range(0, len(data), 7):
        file.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(pi.PrefixInterpError):
            quadratic([0.05], recipe, checkpoint=file)


def test_a_loss_that_is_not_finite_is_an_error():
    run = Run("bad", {"x": torch.zeros(1, requires_grad=True)}, 0.1, frozenset())
    with pytest.raises(pi.PrefixInterpError, match="smaller learning rate"):
        optimise(
            [run], lambda b, s: run.parameters["x"] / 0, TASK, Recipe(5, 0.1, batch_size=4),
            seed=0, identity={}, progress=False,
        )  # fmt: skip


def pretrained(checkpoint, preset, steps):
    recipe = pi.Recipe.from_preset(preset, "pretrain", steps=steps)
    cfg = pi.ToyConfig(n_heads=2, d_model=32)
    fit = pi.pretrain(cfg, "sort_ascending", recipe=recipe, checkpoint=checkpoint, progress=False)
    return fit.model.state_dict()


VICTIM = """
import sys
from tests.tuning.test_loop import pretrained
pretrained(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


@pytest.fixture
def one_thread():
    """As many threads as the killed process has, for the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("preset", "steps"), [("smoke", 400), ("paper", 200)])  # paper: dropout
def test_killed_in_mid_training_and_resumed_ends_with_the_same_weights(tmp_path, preset, steps):
    file = tmp_path / "a.safetensors"
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(file), preset, str(steps)],
        cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.time() + 120
    while not file.exists() and victim.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    done = read_tensors(file, _Checkpoint.SCHEMAS)[1]["step"]
    assert 0 < done < steps, "killed in the middle"
    whole = pretrained(None, preset, steps)
    resumed = pretrained(file, preset, steps)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
