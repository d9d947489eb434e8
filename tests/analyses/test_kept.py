import importlib
import sys
from functools import partial

import pytest
import torch

import prefix_interp as pi
from analyses import kept as kept_module
from analyses.kept import Kept, code_hash, digest, model_checksum, work_key
from tests.analyses import tiny
from tests.helpers import raw_model

MODULE = '''"""A module."""
from {package}.beside import helper  # a comment


def measure(job):
    """Do the work."""
    return helper(1)
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on disk whose files a test changes: the hash of its `main` module."""
    name = "kept_package"
    folder = tmp_path / name
    folder.mkdir()
    files = {
        "__init__": "",
        "main": MODULE.format(package=name),
        "beside": "from . import deep\n\ndef helper(x):\n    return x + deep.ONE\n",
        "deep": "import prefix_interp.seeds\n\nONE = 1\n",
        "stranger": "TWO = 2\n",
    }
    monkeypatch.syspath_prepend(tmp_path)
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text)

    def hashed(stem=None, text=None):
        if stem is not None:
            (folder / f"{stem}.py").write_text(text)
        importlib.invalidate_caches()
        code_hash.cache_clear()
        return code_hash(f"{name}.main")

    yield hashed, files
    code_hash.cache_clear()
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def test_wording_keeps_the_hash_of_code_and_code_changes_it(package):
    hashed, files = package
    first = hashed()
    worded = files["main"].replace("Do the work.", "Do all of the work.").replace("# a", "# one")
    assert hashed("main", worded.replace('"""A module."""\n', "")) == first
    assert hashed("beside", files["beside"].replace("(x)", "( x )")) == first
    assert hashed("stranger", "TWO = 3\n") == first  # nobody imports it
    assert hashed("deep", files["deep"].replace("ONE = 1", "ONE = 2")) != first
    assert hashed("deep", files["deep"]) == first
    assert hashed("main", files["main"].replace("helper(1)", "helper(2)")) != first
    # A string that is no docstring counts.
    assert hashed("main", files["main"] + "\nNAME = 'x'\n") != hashed(
        "main", files["main"] + "\nNAME = 'y'\n"
    )


def test_library_code_counts_and_what_only_shows_it_does_not(package):
    hashed, files = package
    first = hashed()
    assert hashed("deep", files["deep"] + "import prefix_interp.views.style\n") != first  # own text
    reached = kept_module._sources("analyses.table1.measure")
    assert {"analyses.scores", "prefix_interp.tuning.loop", "prefix_interp.seeds"} <= set(reached)
    assert not [m for m in reached if m.startswith(("prefix_interp.views", "analyses.report"))]
    assert "analyses.table1.section" not in reached and "analyses.registry" not in reached
    assert "kept_package.stranger" not in kept_module._sources("kept_package.main")
    assert "prefix_interp.seeds" in kept_module._sources("kept_package.main")


def test_a_key_knows_its_parts(tmp_path):
    toy, kept = pi.build_toy(tiny.CONFIG, seed=0), Kept(tmp_path)
    kept.save_context("best", "a", pi.Prefix.random(toy, 1, seed=0))
    protocol = tiny.Protocol()
    base = {"measure": tiny.make, "protocol": protocol, "preset": "smoke", "seed": 0}
    others = [
        {"protocol": tiny.Protocol(size=4)}, {"preset": "fast"}, {"seed": 1}, {"device": "cuda"},
        {"needs": {"source": kept}}, {"model": toy}, {"measure": digest},
    ]  # fmt: skip
    keys = [digest(work_key(**base)), *(digest(work_key(**base | other)) for other in others)]
    assert len(set(keys)) == len(keys)
    assert digest(work_key(**base)) == keys[0]


def test_every_weight_and_the_shape_of_a_model_count():
    model = raw_model(d_model=64, d_vocab=200)
    first = model_checksum(model)
    assert model_checksum(raw_model(d_model=64, d_vocab=200)) == first
    model.W_E.data[150, 33] += 1e-12
    assert model_checksum(model) != first
    model.W_E.data[150, 33] -= 1e-12
    again = raw_model(d_model=64, d_vocab=200)
    again.cfg.rotary_base = 7
    assert model_checksum(again) != first


def test_models_and_contexts_come_back_by_name(tmp_path):
    kept = Kept(tmp_path / "seed")
    assert kept.contexts("starts") == {} and kept.checksums() == {}
    fit = pi.pretrain(tiny.CONFIG, "add_one", preset="smoke", progress=False)
    kept.save_toy("toy", fit, seed=4)
    assert torch.equal(kept.toy("toy").W_E, fit.model.W_E)
    exported = kept.export_toy("toy", tmp_path / "zoo" / "toy")
    assert (exported / "model.json").read_bytes() == (
        kept.toy_folder("toy") / "model.json"
    ).read_bytes()
    assert '"seed": 4' in (exported / "model.json").read_text()
    prefix = pi.Prefix.random(fit.model, 2, seed=1, parameterization="kv")
    soft = pi.SoftPrompt.random(fit.model, 3, seed=1)
    kept.save_context("starts", "b", prefix)
    kept.save_context("starts", "a", soft)
    found = kept.contexts("starts")
    assert list(found) == ["a", "b"]
    assert torch.equal(found["a"].vectors, soft.vectors)
    assert torch.equal(found["b"].keys, prefix.keys)
    assert len(kept.checksums()) == 6
    with pytest.raises(pi.PrefixInterpError, match=r"name='c'.*'a', 'b'"):
        kept.context("starts", "c")


def test_a_finished_part_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.arange(3)[::2]}

    kept = Kept(tmp_path)
    assert kept.tensors("part", make)["x"].tolist() == [0, 2]
    assert Kept(tmp_path).tensors("part", make)["x"].tolist() == [0, 2] and made == [1]


def test_code_that_cannot_be_read_is_refused():
    measured = {"protocol": tiny.Protocol(), "preset": "smoke", "seed": 0}
    unread = {}
    exec("def measure(job):\n    return {}", unread)  # as in a notebook: no file holds it
    unread["measure"].__module__ = "__main__"
    for measure in (unread["measure"], partial(tiny.make)):
        with pytest.raises(pi.PrefixInterpError, match="not a function of a module on disk"):
            work_key(measure, **measured)
    assert digest(work_key(tiny.make, **measured)) != digest(work_key(tiny.look, **measured))
