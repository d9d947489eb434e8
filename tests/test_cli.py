import json
import subprocess
import sys

import pytest
import torch

import prefix_interp as pi
from prefix_interp.cli import main
from prefix_interp.results import Result

TOY = "sort-ascending-1l1h"


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
                     "--tokens", "3,1,4,1,5", "--out", tmp_path)  # fmt: skip
    assert code == 0 and len(Result.load(tmp_path / "inspect.json").rows("parts")) == 5


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


INSPECT = ["inspect", "--model", TOY, "--prefix"]
TUNE = ["tune", "--model", TOY, "--task", "add_one"]
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
}
HINTS = {
    "moved": "python -m analyses NAME",
    "moved too": "python -m analyses report",
    "unknown task": "did you mean 'sort_descending'",
    "unknown preset": "did you mean 'fast'",
    "prefix name": "did you mean 'sort_descending'",
    "unknown toy": "did you mean 'sort-ascending-1l1h'",
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


def test_the_installed_command_answers():
    command = [sys.executable, "-m", "prefix_interp.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(word in done.stdout for word in ("tune", "inspect"))
