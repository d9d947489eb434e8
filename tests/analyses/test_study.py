import subprocess
import sys
from dataclasses import replace

import joblib
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from analyses import registry, runs
from analyses.kept import Kept
from analyses.registry import find_study
from analyses.runs import finished_seed, run_study
from analyses.study import Job, committed_result
from prefix_interp import files
from prefix_interp.locks import locked
from prefix_interp.models.toy import save_toy
from tests.analyses import tiny
from tests.analyses.tiny import MEASURED, SOURCE, USER


@pytest.fixture(autouse=True, scope="module")
def tiny_studies():
    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config(backend="sequential"):
        patch.setattr(registry, "STUDIES", (SOURCE, USER))
        yield


def run(study, work, seeds=(0, 1), **options):
    """Run a tiny study; return the result and the measurements that were really made."""
    MEASURED.clear()
    options = {"progress": False, "studies": registry.STUDIES, **options}
    result = run_study(study, "smoke", list(seeds), work=work, **options)
    return result, list(MEASURED)


def test_a_result_has_every_seed_in_order_and_says_what_it_was_made_with(tmp_path):
    result, made = run(SOURCE, tmp_path, seeds=(3, 1))
    assert made == [("source", 3), ("source", 1)]
    assert (result.name, result.preset, result.seeds) == ("source", "smoke", [3, 1])
    assert [(r["seed"], r["name"]) for r in result.rows("names")] == [
        (3, "a"), (3, "b"), (1, "a"), (1, "b"),
    ]  # fmt: skip
    assert result.settings["protocol"]["parts"] == [{"rates": [0.1, 0.2]}]
    assert result.settings["about"] == "smoke" and "kept_old" not in result.settings
    assert result.timing["seeds_from_work"] == 0


def test_finished_seeds_are_not_measured_again_and_give_equal_rows(tmp_path):
    first, _ = run(SOURCE, tmp_path, seeds=(0,))
    both, made = run(SOURCE, tmp_path)
    assert made == [("source", 1)] and both.timing["seeds_from_work"] == 1
    again, made = run(SOURCE, tmp_path)
    assert made == [] and again.tables == both.tables
    assert [r for r in again.rows("names") if r["seed"] == 0] == first.rows("names")
    assert again.timing["core_s"] == both.timing["core_s"]


def test_another_precision_is_other_work_and_the_result_says_which(tmp_path, monkeypatch):
    plain, _ = run(SOURCE, tmp_path)
    half, made = run(SOURCE, tmp_path, precision="bfloat16")
    assert made == [("source", 0), ("source", 1)]
    assert [r.settings["precision"] for r in (plain, half)] == ["float32", "bfloat16"]
    monkeypatch.setattr("prefix_interp.tuning.recipes.fastest_precision", lambda: "bfloat16")
    found, made = run(SOURCE, tmp_path, precision="auto")
    assert made == [] and found.settings["precision"] == "bfloat16"
    assert Job(0, "smoke", None, precision="bfloat16").recipe("prefix", lr=0.5).to_dict() == (
        pi.Recipe.from_preset("smoke", "prefix", lr=0.5, precision="bfloat16").to_dict()
    )
    with pytest.raises(pi.PrefixInterpError, match="precision='float16' is unknown"):
        run(SOURCE, tmp_path, precision="float16")


def test_an_interrupted_seed_is_measured_again(tmp_path, monkeypatch):
    def stop(job):
        tiny.make(job)
        raise KeyboardInterrupt

    stop.__module__, stop.__qualname__ = tiny.__name__, tiny.make.__qualname__
    with pytest.raises(KeyboardInterrupt):
        run(replace(SOURCE, measure=stop), tmp_path)
    _, made = run(SOURCE, tmp_path)
    assert made == [("source", 0), ("source", 1)]


def test_without_a_work_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result, made = run(SOURCE, None)
    assert len(made) == 2 and len(result.rows("sizes")) == 2 and not list(tmp_path.iterdir())
    assert Job(0, "smoke", None).checkpoint("x") is None


def test_kept_models_are_handed_on_with_those_of_the_next_seed(tmp_path):
    run(SOURCE, tmp_path, seeds=(0, 1, 5))
    result, _ = run(USER, tmp_path, seeds=(0, 1, 5))
    rows = result.rows()
    assert len({row["sum"] for row in rows}) == 3
    assert [row["next"] for row in rows] == [rows[1]["sum"], rows[2]["sum"], rows[0]["sum"]]
    # It is the run that says which seed is next, whatever other work lies there.
    alone, made = run(USER, tmp_path, seeds=(1,))
    assert made == [("user", 1)] and alone.rows()[0]["next"] is None
    pair, made = run(USER, tmp_path, seeds=(0, 5))
    assert made == [("user", 0)] and pair.rows()[0]["next"] == pair.rows()[1]["sum"]


def test_missing_models_are_named_before_any_work(tmp_path):
    run(SOURCE, tmp_path, seeds=(0,))
    with pytest.raises(pi.PrefixInterpError, match="no seed 1 of source") as error:
        run(USER, tmp_path)
    assert MEASURED == [] and "\n" not in str(error.value)
    assert "python -m analyses source --preset smoke" in str(error.value)
    with pytest.raises(pi.PrefixInterpError, match="work=None has no source for user"):
        run(USER, None)


def changed(value):
    """A value of the same kind that is another."""
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return value[1:] if value else ("x",)
    raise AssertionError(f"a protocol holds {value!r}")


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_other_size_makes_other_work(data, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    run(SOURCE, work, seeds=(0,))
    protocol = SOURCE.protocols["smoke"]
    if data.draw(st.booleans()):
        field = data.draw(st.sampled_from(sorted(vars(protocol))))
        other = replace(protocol, **{field: changed(getattr(protocol, field))})
    else:
        other = replace(protocol, parts=(tiny.Part((0.1, data.draw(st.floats(0.3, 1)))),))
    study = replace(SOURCE, protocols={"smoke": other})
    assert run(study, work, seeds=(0,))[1] == [("source", 0)]
    assert run(study, work, seeds=(0,))[1] == run(SOURCE, work, seeds=(0,))[1] == []


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_any_other_weight_that_is_handed_in_makes_other_work(data, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    run(SOURCE, work)
    run(USER, work)
    assert run(USER, work)[1] == []
    seed = data.draw(st.sampled_from([0, 1]))
    kept = finished_seed(SOURCE, "smoke", seed, work=work)
    what = data.draw(st.sampled_from(["toy", "prefix", "soft"]))
    if what == "toy":
        thing = kept.toy("toy")
        weights = [p.data for p in thing.parameters()]
    else:
        thing = kept.context("best", what)
        weights = tiny.tensors(thing)
    flat = data.draw(st.sampled_from(weights)).view(-1)
    index = data.draw(st.integers(0, len(flat) - 1))
    flat[index] = torch.nextafter(flat[index], torch.tensor(9.0))  # the smallest change there is
    save_toy(thing, kept.toy_folder("toy")) if what == "toy" else kept.save_context(
        "best", what, thing
    )
    # It is measured by its own seed, and beside the seed before it (here the other one).
    assert run(USER, work)[1] == [("user", 0), ("user", 1)]
    assert run(USER, work)[1] == []


def test_older_work_is_taken_on_request_and_the_result_says_so(tmp_path):
    old, _ = run(SOURCE, tmp_path)
    study = replace(SOURCE, protocols={"smoke": replace(SOURCE.protocols["smoke"], size=9)})
    result, made = run(study, tmp_path, keep_old=True)
    assert made == [] and result.tables == old.tables
    assert result.settings["kept_old"] == [
        {"study": "source", "seed": seed, "differs": ["protocol"]} for seed in (0, 1)
    ]
    result, made = run(study, tmp_path)
    assert made == [("source", 0), ("source", 1)] and "kept_old" not in result.settings
    result, made = run(study, tmp_path, keep_old=True)
    assert made == [] and "kept_old" not in result.settings  # today's work comes first


def test_older_models_that_are_measured_are_named_too(tmp_path, monkeypatch):
    run(SOURCE, tmp_path)
    other = replace(SOURCE, protocols={"smoke": replace(SOURCE.protocols["smoke"], size=9)})
    monkeypatch.setattr(registry, "STUDIES", (other, USER))
    with pytest.raises(pi.PrefixInterpError, match="--keep-old"):
        run(USER, tmp_path)
    result, made = run(USER, tmp_path, keep_old=True)
    assert made == [("user", 0), ("user", 1)]
    assert [(note["study"], note["seed"]) for note in result.settings["kept_old"]] == [
        ("source", 0), ("source", 1),
    ]  # fmt: skip


def test_bad_input_is_named(tmp_path):
    with pytest.raises(pi.PrefixInterpError, match="preset='paper'"):
        run_study(SOURCE, "paper", [0], work=tmp_path)
    with pytest.raises(pi.PrefixInterpError, match="number of seeds=0"):
        run_study(SOURCE, "smoke", [], work=tmp_path)
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'source'"):
        find_study("sourse")
    with pytest.raises(pi.PrefixInterpError, match="analyses source --preset paper"):
        committed_result("source", "paper", tmp_path)


def test_a_finished_part_is_not_done_again(tmp_path):
    job = Job(0, "smoke", None, keeps=Kept(tmp_path))
    rows, done = [{"seed": 7}], []

    def work():
        done.append("work")
        rows.append({"loss": 0.1, "nan": float("nan"), "nested": {"pair": (1, 2)}})

    job.part("one", rows, work)
    assert done == ["work"] and len(rows) == 2
    again = []
    job.part("one", again, work)
    assert done == ["work"] and again == [{"loss": 0.1, "nan": None, "nested": {"pair": [1, 2]}}]

    def stop():
        rows.append({"half": 1})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.part("two", rows, stop)
    job.part("two", again, work)
    assert done == ["work", "work"], "what was cut off is done from the start"
    replace(job, keeps=None).part("one", rows, work)
    assert len(done) == 3


def test_a_seed_that_another_run_has_finished_meanwhile_is_taken(tmp_path, monkeypatch):
    def rival(folder):
        monkeypatch.setattr(runs, "locked", locked)
        run(SOURCE, tmp_path, seeds=(0,))
        MEASURED.clear()
        return locked(folder)

    monkeypatch.setattr(runs, "locked", rival)
    result, made = run(SOURCE, tmp_path, seeds=(0,))
    assert made == [] and result.timing["seeds_from_work"] == 1


def test_leftovers_of_a_killed_run_go(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run(SOURCE, tmp_path, seeds=(0,))
    (seed,) = (tmp_path / "source-smoke" / "seed-0").iterdir()
    left = seed / "parts" / f".x.{files._HOST}-{ended.pid}-0123abcd.tmp"
    left.parent.mkdir(exist_ok=True)
    left.write_text("half")
    (seed / "finished.json.gz").unlink()
    run(SOURCE, tmp_path, seeds=(0,))
    assert not left.exists() and not list(tmp_path.rglob("*.tmp"))
