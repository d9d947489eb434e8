"""Each script in analyses/ runs from its command line with the smallest preset."""

import runpy
from pathlib import Path

import prefix_interp as pi

FOLDER = Path(__file__).parent.parent / "analyses"


def test_table1(tmp_path, capsys):
    script = runpy.run_path(str(FOLDER / "table1_new_attention.py"), run_name="analysis")
    arguments = ["--preset", "smoke", "--seeds", "1", "--out", str(tmp_path)]
    result = script["main"]([*arguments, "--work", str(tmp_path / "work")])
    assert isinstance(result, pi.Result) and result.preset == "smoke"
    assert (tmp_path / "table1-smoke.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "pretrained" in printed and "norm-matched prefix" in printed


def test_scripts_stay_short_and_say_how_to_run_them():
    for file in FOLDER.glob("*.py"):
        text = file.read_text()
        assert 40 <= len(text.splitlines()) <= 120 and f"python analyses/{file.name}" in text
