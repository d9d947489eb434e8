import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from prefix_interp.cli import main
from prefix_interp.results import Result
from prefix_interp.tuning import loop

TOY = "sort-ascending-1l1h"
INSPECT = ["inspect", "--model", TOY, "--prefix"]
TUNE = ["tune", "--model", TOY, "--task", "add_one"]


def run(capsys, *argv):
    try:
        code = main([str(a) for a in argv])
    except SystemExit as error:  # argparse leaves this way
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_prints_and_writes_the_split(tmp_path, capsys):
    code, out, _ = run(capsys, "inspect", "--model", TOY, "--prefix", "sort_descending",
                       "--out", tmp_path, "--quiet")  # fmt: skip
    assert code == 0 and "sort_descending: exact match" in out and "eq7" in out
    result = Result.load(tmp_path / "inspect.json")
    assert len(result.rows("parts")) == 19 and result.settings["baseline"] == "masked"
    code, _, _ = run(capsys, "inspect", "--model", TOY, "--prefix", "sort_descending-kv-10",
                     "--tokens", "3,1,4,1,5", "--out", tmp_path, "--overwrite")  # fmt: skip
    assert code == 0 and len(Result.load(tmp_path / "inspect.json").rows("parts")) == 5


def test_inspect_writes_a_page_and_its_numbers(tmp_path, capsys):
    argv = [*INSPECT, "sort_descending", "--tokens", "3,1,4,1,5", "--quiet"]
    code, out, _ = run(capsys, *argv, "--out", tmp_path / "folder")
    assert code == 0 and "It takes" in out and out.rstrip().endswith("report.html")
    assert {p.name for p in (tmp_path / "folder").iterdir()} == {"report.html", "inspect.json"}
    assert run(capsys, *argv, "--out", tmp_path / "mine.html")[0] == 0
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "mine.html", "mine.json"}
    tables = Result.load(tmp_path / "mine.json").tables
    assert len(tables["answers"]) == 4 and len(tables["heads"]) == 1
    (tmp_path / "mine.json").unlink()
    code, _, err = run(capsys, *argv, "--out", tmp_path / "mine.html")  # a page of who knows what
    assert code == 2 and "no result of this command" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("a.txt", "some words", "no tokenizer"), ("a.txt", " ", "holds no text"),
     ("a.pdf", "x", ".txt or .jsonl"), (None, None, "does not exist")],
)  # fmt: skip
def test_a_file_of_texts_is_read_or_refused_in_one_line(name, content, says, tmp_path, capsys):
    file = tmp_path / (name or "none.txt")
    if content is not None:
        file.write_text(content)
    code, _, err = run(capsys, *INSPECT, "sort_descending", "--text", file, "--out", tmp_path / "o")
    assert code == 2 and says in err and err.count("\n") == 1


def test_commands_run_on_one_thread(tmp_path, monkeypatch):
    seen, real = [], pi.load_toy
    monkeypatch.setattr(
        pi, "load_toy", lambda name: seen.append(torch.get_num_threads()) or real(name)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model, prefix = "sort-ascending-1l1h", "sort_descending"
        assert main(["inspect", "--model", model, "--prefix", prefix, "--tokens", "1,2",
                     "--out", str(tmp_path)]) == 0  # fmt: skip
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_inspect_runs_the_task_that_the_prefix_was_tuned_on(tmp_path):
    """As a user runs it: the score is the prefix's own, and the page says whose task it is."""
    model = "four-skills-1l4h"
    command = [sys.executable, "-m", "prefix_interp.cli", "inspect", "--model", model, "--prefix",
               "add_one", "--out", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "task add_one: the prefix was tuned on it" in done.stdout
    settings = Result.load(tmp_path / "inspect.json").settings
    assert settings["task"] == "add_one" and "metadata" in settings["task_from"]
    assert settings["evaluation"]["exact_match"]["value"] > 0.9
    assert f"exact match {settings['evaluation']['exact_match']['value']:.4g}" in done.stdout


def test_task_replaces_the_prefixs_own_and_the_page_says_so(tmp_path, capsys):
    code, out, _ = run(capsys, "inspect", "--model", "four-skills-1l4h", "--prefix", "add_one",
                       "--task", "add_two", "--out", tmp_path)  # fmt: skip
    assert code == 0 and "task add_two: named by --task; the prefix was tuned on add_one" in out
    settings = Result.load(tmp_path / "inspect.json").settings
    assert settings["evaluation"]["exact_match"]["value"] < 0.1


@pytest.mark.parametrize(
    ("metadata", "says"),
    [({}, "name no task"), ({"task": "mine"}, "name 'mine', which is no task"),
     ({"task": 3}, "name 3, which is no task")],
)  # fmt: skip
def test_a_prefix_that_does_not_say_its_task_asks_for_one(metadata, says, tmp_path, capsys):
    prefix = pi.Prefix.random(pi.load_toy(TOY), 1)
    replace(prefix, metadata=metadata).save(tmp_path / "p")
    argv = ["inspect", "--model", TOY, "--prefix", tmp_path / "p", "--out", tmp_path / "o"]
    code, _, err = run(capsys, *argv)
    assert code == 2 and says in err and "--task" in err and err.count("\n") == 1
    assert run(capsys, *argv, "--task", "add_one")[0] == 0
    assert run(capsys, *argv, "--tokens", "1,2", "--overwrite")[0] == 0


SMOKE = ["--preset", "smoke", "--steps", "20", "--quiet"]


def interrupted_at_the_second_checkpoint(*argv):
    """Run the command; Ctrl-C reaches it behind the second checkpoint."""
    code = f"""
import os, signal, sys
from prefix_interp.cli import main
from prefix_interp.tuning import loop
real, written = loop.write_tensors, []
def write(path, *rest):
    real(path, *rest)
    written.append(path)
    if written[1:]:
        os.kill(os.getpid(), signal.SIGINT)
loop.write_tensors = write
sys.exit(main({argv!r}))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_an_interrupted_tuning_resumes_to_the_same_bits(tmp_path, capsys, monkeypatch):
    argv = [*TUNE, *SMOKE, "--out", str(tmp_path / "prefix")]
    done = interrupted_at_the_second_checkpoint(*argv)
    checkpoint = tmp_path / "prefix.checkpoint"
    assert done.returncode == 130 and done.stderr.count("\n") == 1, done.stderr
    assert f"the same command resumes from {str(checkpoint)!r}" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["prefix.checkpoint"]

    steps, real = [], loop._schedule
    monkeypatch.setattr(loop, "_schedule", lambda r, step: steps.append(step) or real(r, step))
    code, out, _ = run(capsys, *argv)
    assert code == 0 and f"resuming from {checkpoint}" in out
    assert 0 < min(steps) < max(steps) == 19, "it does not repeat what was done"
    assert [p.name for p in tmp_path.iterdir()] == ["prefix"], "the checkpoint goes when it is done"
    assert run(capsys, *argv, "--out", tmp_path / "alone")[0] == 0
    for name in ("prefix.safetensors", "prefix.json"):
        assert (tmp_path / "prefix" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_one_slot_is_not_many(tmp_path, capsys):
    argv = [each for each in SMOKE if each != "--quiet"]
    code, out, err = run(capsys, *TUNE, *argv, "--out", tmp_path / "p")
    assert code == 0 and "add_one, residual, 1 slot: exact match" in out
    assert "prefix, 1 slot, add_one" in err and "1 slots" not in out + err


def test_an_interruption_before_the_first_checkpoint_says_that_nothing_was_saved(
    tmp_path, capsys, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pi, "load_toy", stop)
    code, _, err = run(capsys, *TUNE, "--out", tmp_path / "p")
    assert code == 130 and err.count("\n") == 1 and "nothing was saved" in err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_has_the_name_that_it_is_given(tmp_path, capsys, monkeypatch):
    seen, real = [], loop.write_tensors
    monkeypatch.setattr(loop, "write_tensors", lambda p, *r: seen.append(p) or real(p, *r))
    mine = tmp_path / "mine.safetensors"
    argv = [*TUNE, *SMOKE, "--out", tmp_path / "p"]
    assert run(capsys, *argv, "--checkpoint", mine)[0] == 0
    assert set(seen) == {mine} and [p.name for p in tmp_path.iterdir()] == ["p"]
    code, _, err = run(capsys, *argv, "--checkpoint", tmp_path / "p" / "prefix.safetensors")
    assert code == 2 and "in the folder of --out" in err
    assert pi.Prefix.load(tmp_path / "p").n_slots == 1


def test_tune_replaces_its_own_prefix_and_no_other(tmp_path, capsys):
    argv = [*TUNE, *SMOKE, "--out", tmp_path / "p"]
    assert run(capsys, *argv)[0] == run(capsys, *argv)[0] == 0
    before = (tmp_path / "p" / "prefix.safetensors").read_bytes()
    for other, named in {
        ("--seed", "1"): "seed: 0 there, 1 here",
        ("--lr", "0.5"): "recipe.lr: ",
        ("--n-slots", "2"): "n_slots: 1 there, 2 here",
        ("--parameterization", "kv"): "parameterization: ",
    }.items():
        code, out, err = run(capsys, *argv, *other)
        assert code == 2 and named in err and err.count("\n") == 1 and out == ""
        assert (tmp_path / "p" / "prefix.safetensors").read_bytes() == before
    assert run(capsys, *argv, "--seed", "1", "--overwrite")[0] == 0
    assert pi.Prefix.load(tmp_path / "p").metadata["seed"] == 1
    (tmp_path / "p" / "prefix.safetensors").write_bytes(b"mine")
    code, _, err = run(capsys, *argv)
    assert code == 2 and "no result of this command" in err


def test_inspect_replaces_its_own_page_and_no_other(tmp_path, capsys):
    argv = [*INSPECT, "sort_descending", "--out", tmp_path]
    assert run(capsys, *argv)[0] == run(capsys, *argv)[0] == 0
    code, _, err = run(capsys, *argv, "--seed", "4")
    assert code == 2 and "seeds: [0] there, [4] here" in err
    code, _, err = run(capsys, *INSPECT, "sort_descending-kv-10", "--out", tmp_path)
    assert code == 2 and "another run" in err
    assert Result.load(tmp_path / "inspect.json").seeds == [0]
    (tmp_path / "inspect.json").write_text("mine")
    code, _, err = run(capsys, *argv)
    assert code == 2 and "no result of this command" in err
    assert run(capsys, *argv, "--seed", "4", "--overwrite")[0] == 0


def test_a_device_that_is_not_here_is_said_to_be(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for argv in ([*TUNE, "--device", "cuda"], [*INSPECT, "sort_descending", "--device", "cuda"]):
        code, _, err = run(capsys, *argv, "--out", tmp_path / "o")
        assert code == 2 and "device='cuda' is not available here" in err
        assert "did you mean" not in err


def test_tune_writes_a_prefix_that_inspect_reads(tmp_path, capsys):
    code, out, _ = run(capsys, "tune", "--model", TOY, "--task", "add_one", "--preset", "smoke",
                       "--parameterization", "kv", "--n-slots", 3, "--out", tmp_path / "p",
                       "--quiet")  # fmt: skip
    assert code == 0 and "exact match" in out
    assert pi.Prefix.load(tmp_path / "p").n_slots == 3
    code, _, _ = run(capsys, "inspect", "--model", TOY, "--prefix", tmp_path / "p", "--task",
                     "add_one", "--out", tmp_path)  # fmt: skip
    assert code == 0


@pytest.fixture
def bad_files(tmp_path):
    model = pi.load_toy(TOY)
    prefix = pi.Prefix.random(model, 2)
    deep = pi.Prefix.random(pi.build_toy(pi.ToyConfig(n_layers=2, d_model=96, n_heads=1)), 2)
    wide = pi.Prefix.random(pi.build_toy(pi.ToyConfig(d_model=64)), 2)
    for name, x in {
        "good": prefix,
        "deep": deep,
        "wide": wide,
        "cut": prefix,
        "keys": prefix,
    }.items():
        x.save(tmp_path / name)
    file = tmp_path / "cut" / "prefix.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    file = tmp_path / "keys" / "prefix.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"parametrization": "kv"}))
    (tmp_path / "file").write_text("in the way")
    return tmp_path


BAD = {
    "unknown task": ["tune", "--model", TOY, "--task", "sort_descendin"],
    "unknown preset": [*TUNE, "--preset", "fats"],
    "seed": [*TUNE, "--seed", "abc"],
    "unknown toy": ["tune", "--model", "sort-ascending-1l2h", "--task", "add_one"],
    "unknown device": [*INSPECT, "sort_descending", "--device", "cupu"],
    "layers": [*INSPECT, "{}/deep"],
    "width": [*INSPECT, "{}/wide"],
    "missing": [*INSPECT, "{}/nowhere"],
    "truncated": [*INSPECT, "{}/cut"],
    "json keys": [*INSPECT, "{}/keys"],
    "vocabulary": [*INSPECT, "{}/good", "--tokens", "1,2,11"],
    "negative token": [*INSPECT, "{}/good", "--tokens=-1,2"],
    "no tokens": [*INSPECT, "{}/good", "--tokens", "1,x"],
    "context": [*INSPECT, "{}/good", "--tokens", ",".join("1" * 20)],
    "no slots": [*TUNE, "--n-slots", "0"],
    "negative slots": [*TUNE, "--n-slots=-3"],
    "parameterization": [*TUNE, "--parameterization", "vk"],
    "learning rate": [*TUNE, "--lr", "nan"],
    "unknown command": ["reprot"],
    "prefix name": [*INSPECT, "sort_descendin"],
    "unwritable": [*INSPECT, "{}/good", "--out", "{}/file/below"],
    "moved": ["reproduce", "table1"],
    "moved too": ["report"],
    "unwritable tune": [*TUNE, "--out", "{}/file/below"],
    "no files tune": [*TUNE, "--out", "/proc/x"],
    "no files inspect": [*INSPECT, "sort_descending", "--out", "/proc/x"],
    "checkpoint": [*TUNE, "--checkpoint", "/proc/x/file"],
    "checkpoint is a folder": [*TUNE, "--checkpoint", "{}/good"],
    "two inputs": [*INSPECT, "{}/good", "--tokens", "1,2", "--task", "add_one"],
    "no task": [*INSPECT, "{}/good"],
}
HINTS = {
    "moved": "python -m analyses NAME",
    "moved too": "python -m analyses report",
    "unknown task": "did you mean 'sort_descending'",
    "unknown preset": "did you mean 'fast'",
    "prefix name": "did you mean 'sort_descending'",
    "unknown toy": "did you mean 'sort-ascending-1l1h'",
    "no files tune": "'/proc' is not writable",
    "no files inspect": "'/proc' is not writable",
    "two inputs": "are both given",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, bad_files, capsys):
    before = sorted(p for p in bad_files.rglob("*"))
    argv = [part.format(bad_files) for part in BAD[case]]
    if "--out" not in argv and argv[0] != "reprot":
        argv += ["--out", str(bad_files / "out")]
    code, _, err = run(capsys, *argv, "--quiet")
    assert code == 2, case
    assert err.startswith("prefix-interp: ") and err.count("\n") == 1, err
    assert HINTS.get(case, "") in err
    assert sorted(p for p in bad_files.rglob("*")) == before, "something was half-written"


def test_nan_in_a_saved_prefix(tmp_path, capsys):
    from prefix_interp.storage import save_folder

    record = {"format": 1, "parameterization": "residual", "model_id": None, "metadata": {}}
    save_folder(tmp_path / "nan", "prefix", {"vectors": torch.full((1, 1, 96), torch.nan)}, record)
    code, _, err = run(capsys, *INSPECT, tmp_path / "nan", "--out", tmp_path)
    assert code == 2 and "NaN or infinity" in err


@pytest.mark.parametrize("module", ["prefix_interp", "prefix_interp.cli"])
def test_the_installed_command_answers(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("tune", "inspect"))
