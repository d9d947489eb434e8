"""The command `prefix-interp check`, here and under a version that breaks PEFT."""

import os
import subprocess
import sys

import pytest

from prefix_interp.cli import main
from tests.adapters import saved_adapter
from tests.structure import ROOT
from tests.tiny_language_models import saved_model

BREAKS = "transformers==5.24.0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    saved_model(folder / "model", "llama")
    saved_model(folder / "other", "llama", num_hidden_layers=2)
    saved_adapter(folder / "adapter", "llama", "prefix")
    (folder / "text.txt").write_text("w5 w6 w7 w8\n\nw9 w10\n")
    return folder


def run(*arguments):
    return main(["check", *map(str, arguments)])


def test_it_prints_a_line_for_each_question(folders, capsys):
    given = ("--model", folders / "model", "--prefix", folders / "adapter")
    assert run(*given, "--text", folders / "text.txt") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[-1].endswith("0 failed")
    assert lines[0].startswith("pass        forward depends on the context (ours): The logits move")
    assert run(*given) == 0  # sentences of its own


def test_a_broken_way_is_exit_code_1(folders, capsys, monkeypatch):
    import peft

    def ignore(self, *args, **kwargs):
        return self.get_base_model().generate(*args, **kwargs)

    monkeypatch.setattr(peft.PeftModelForCausalLM, "generate", ignore)
    assert run("--model", folders / "model", "--prefix", folders / "adapter") == 1
    assert "fail        generate with a cache follows" in capsys.readouterr().out


def test_toys_are_checked_by_name(capsys):
    assert run("--model", "four-skills-1l4h", "--prefix", "sort_descending") == 0
    assert "not checked forward of PEFT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "none", "--prefix", "adapter"), "is no folder on this machine"),
        (("--model", "model", "--prefix", "none"), "holds no saved context"),
        (("--model", "other", "--prefix", "adapter"), "of another base model"),
        (("--model", "model", "--prefix", "adapter", "--text", "none.txt"), "does not exist"),
        (("--model", "model", "--prefix", "adapter", "--text", "empty.txt"), "holds no text"),
        (("--model", "model", "--prefix", "adapter", "--text", "latin.txt"), "is not UTF-8"),
        (("--model", "model", "--prefix", "adapter", "--text", "broken.jsonl"), "in line 2"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, folders, capsys):
    (folders / "empty.txt").write_text("\n")
    (folders / "broken.jsonl").write_text('{"text": "w5 w6"}\n{"text": \n')
    (folders / "latin.txt").write_bytes(b"\xe9t\xe9")
    arguments = [a if a.startswith("--") else folders / a for a in arguments]
    assert run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "prefix-interp:" in line]
    assert len(lines) == 1 and says in lines[0]


@pytest.mark.slow
def test_it_finds_the_version_under_which_peft_ignores_prefixes(folders, tmp_path):
    """transformers 5.24 alone, in front of the packages installed here."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    made = subprocess.run(
        [*install, str(tmp_path), BREAKS], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"{BREAKS} cannot be installed here")
    found = subprocess.run(
        [sys.executable, "-m", "prefix_interp.cli", "check", "--model", str(folders / "model"),
         "--prefix", str(folders / "adapter")],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    rows = dict(line.partition(": ")[::2] for line in found.stdout.splitlines())
    ignored = rows["fail        generate with a cache follows the context (PEFT)"]
    assert ignored.startswith("It ignores the context without a word")
    for question in (
        "forward depends on the context (ours)", "forward of PEFT and ours agree",
        "generate follows the context (ours)",
    ):  # fmt: skip
        assert f"pass        {question}" in rows
    assert "transformers 5.24.0" in rows["note        versions"]
