"""What a prefix and a soft prompt share: files, fit to a model, metadata, starts."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import prefix_interp as pi
from prefix_interp.models.model import model_id
from prefix_interp.prefixes.context import Context
from prefix_interp.seeds import derive_seed
from prefix_interp.storage import load_folder, save_folder
from tests.helpers import raw_model, tokens_for, toy

KINDS = {
    "residual": lambda model, n=2, seed=0, **more: pi.Prefix.random(model, n, seed, **more),
    "kv": lambda model, n=2, seed=0, **more: pi.Prefix.random(model, n, seed, "kv", **more),
    "prompt": lambda model, n=2, seed=0, **more: pi.SoftPrompt.random(model, n, seed, **more),
    "suffix": lambda model, n=2, seed=0, **more: pi.SoftPrompt.random(
        model, n, seed, position=3, layers="all", **more
    ),
}
every_kind = pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS)


def same(one, other):
    """Whether two contexts agree in everything, bits included."""
    return (
        type(one) is type(other)
        and (one.settings, one.model_id) == (other.settings, other.model_id)
        and one.metadata == other.metadata
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(x, other.tensors[k]) for k, x in one.tensors.items())
        and all(x.dtype == other.tensors[k].dtype for k, x in one.tensors.items())
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    kind=st.sampled_from(list(KINDS)),
    n_slots=st.integers(1, 4),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    bound=st.booleans(),
    metadata=st.dictionaries(st.text(max_size=3), json_values, max_size=3),
)
@settings(max_examples=40)
def test_saved_and_loaded_it_is_the_same(
    tmp_path_factory, kind, n_slots, seed, dtype, bound, metadata
):
    model = raw_model(dtype=dtype, n_key_value_heads=1)
    context = KINDS[kind](model, n_slots, seed)
    bound_to = model_id(model) if bound else None
    context = replace(context, model_id=bound_to, metadata=metadata)
    folder = tmp_path_factory.mktemp("context") / "deep" / "folder"
    again = type(context).load(context.save(folder))
    assert same(again, context)
    again.check_fits(model)
    stem = "prefix" if kind in ("residual", "kv") else "soft_prompt"
    assert {p.name for p in folder.iterdir()} == {f"{stem}.json", f"{stem}.safetensors"}


@every_kind
def test_a_folder_holds_one_of_each_kind(draw, tmp_path):
    model = raw_model()
    one, prefix, prompt = draw(model), pi.Prefix.random(model, 1), pi.SoftPrompt.random(model, 1)
    one.save(tmp_path)
    other = prompt if isinstance(one, pi.Prefix) else prefix
    with pytest.raises(pi.PrefixInterpError, match="does not exist"):
        type(other).load(tmp_path)
    other.save(tmp_path)
    assert same(type(one).load(tmp_path), one) and same(type(other).load(tmp_path), other)


@every_kind
def test_sizes_are_those_of_the_tensors(draw):
    model = raw_model(n_layers=3, n_key_value_heads=1)
    context = draw(model, 5)
    assert isinstance(context, Context) and context.n_slots == 5
    numbers = [tuple(x.shape) for x in context.tensors.values()]
    assert context.shapes(model) == dict(zip(context.tensors, numbers, strict=True))
    assert context.n_layers == numbers[0][0] == (1 if draw is KINDS["prompt"] else 3)
    assert context.n_parameters == len(torch.cat([x.flatten() for x in context.tensors.values()]))


@every_kind
def test_the_repr_is_one_line_without_numbers_of_tensors(draw):
    context = replace(draw(raw_model(), 3), model_id="abc", metadata={"task": "add_one"})
    text = repr(context)
    assert len(text) < 160 and "\n" not in text and "tensor" not in text
    named = dict(part.split("=") for part in text[:-1].split("(", 1)[1].split(", "))
    expected = {
        **context.settings, "n_layers": context.n_layers, "n_slots": 3,
        "n_parameters": context.n_parameters, "model_id": "abc", "task": "add_one",
    }  # fmt: skip
    for usual in ("positions", "key_form"):  # said where they are not what they usually are
        expected.pop(usual, None)
    assert named == {key: repr(value) for key, value in expected.items()}
    assert "model_id" not in repr(draw(raw_model()))


@every_kind
def test_it_is_bound_to_the_weights_it_was_tuned_for(draw):
    model, other = toy(seed=0), toy(seed=1)
    bound = replace(draw(model), model_id=model_id(model))
    bound.check_fits(model)
    with pytest.raises(pi.PrefixInterpError, match=r"other weights.*for_any_model") as error:
        bound.check_fits(other)
    assert "\n" not in str(error.value)
    free = bound.for_any_model()
    free.check_fits(other)
    assert same(replace(free, model_id=bound.model_id), bound)
    with torch.no_grad():
        model.blocks[0].mlp.b_out += 1e-3  # fine-tuning of any parameter unbinds it
    with pytest.raises(pi.PrefixInterpError, match="other weights"):
        bound.check_fits(model)


@every_kind
def test_what_does_not_fit_a_model_is_not_attached(draw):
    model, tokens = raw_model(), tokens_for(raw_model())
    plain = model(tokens)
    half = raw_model(dtype=torch.float32)
    written = draw(model)
    next(iter(written.tensors.values()))[0, 0] = torch.nan
    for context, message in [
        (draw(raw_model(d_model=12, d_head=6)), r"shape .* but this model needs"),
        (draw(half), r"float32.*float64.*\.to\(model\)"),
        (replace(draw(model), model_id="x"), "other weights"),
        (written, "NaN"),
    ]:
        with pytest.raises(pi.PrefixInterpError, match=message), pi.attach(model, context):
            pass
    assert torch.equal(model(tokens), plain)
    with pi.attach(model, draw(half).to(model)):
        assert not torch.allclose(model(tokens), plain)


@every_kind
def test_other_starts_derive_their_seed_and_the_first_is_the_seed_itself(draw):
    model, like = raw_model(), draw(raw_model())
    how = {k: v for k, v in like.settings.items() if k != "parameterization"}
    if isinstance(like, pi.Prefix):
        how = {"parameterization": like.parameterization}
    starts = type(like).random_starts(model, 2, 3, 7, **how, std=0.5)
    for i, start in enumerate(starts):
        seed = derive_seed(7, "restart", i) if i else 7
        assert same(start, draw(model, 2, seed, std=0.5))
    pairs = [(a, b) for i, a in enumerate(starts) for b in starts[:i]]
    assert not any(torch.equal(a.tensors[k], b.tensors[k]) for a, b in pairs for k in a.tensors)
    with pytest.raises(pi.PrefixInterpError, match="restarts=0"):
        type(like).random_starts(model, 2, 0, **how)


@every_kind
def test_damaged_files_are_refused(draw, tmp_path):
    context = draw(raw_model(), 3)
    path, kind = context.save(tmp_path / "p"), type(context)
    tensors, record = (path / f"{kind.STEM}.{end}" for end in ("safetensors", "json"))
    data, text = tensors.read_bytes(), record.read_text()

    def refused(match):
        with pytest.raises(pi.PrefixInterpError, match=match) as error:
            kind.load(path)
        assert "\n" not in str(error.value)
        tensors.write_bytes(data)
        record.write_text(text)

    tensors.write_bytes(data[:-4])
    refused("corrupted")
    tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("corrupted")
    record.write_text(text[:-5])
    refused("JSON|checksum")
    loaded, about = load_folder(path, kind.STEM, kind.SCHEMAS)
    for key, value in [("taks", 1), ("format", 9), (kind.SETTINGS[-1], "q"), ("metadata", 5),
                       ("model_id", [1])]:  # fmt: skip
        record.write_text(json.dumps({**json.loads(text), key: value}))
        refused("checksum")
        save_folder(path, kind.STEM, loaded, {**about, key: value})
        refused("unknown|format|wrong")
    for key in about:
        save_folder(path, kind.STEM, loaded, {k: v for k, v in about.items() if k != key})
        refused("format|lacks the key")
    save_folder(path, kind.STEM, {}, about)
    refused("holds no tensors")
    save_folder(path, kind.STEM, {**context.tensors, "more": torch.ones(1)}, about)
    refused("unknown key 'more'")
    whole = {name: x.long() for name, x in context.tensors.items()}
    save_folder(path, kind.STEM, whole, about)
    refused("as I64; allowed are F64")
    tensors.unlink()
    refused("does not exist")
    record.unlink()
    refused("does not exist")
    with pytest.raises(pi.PrefixInterpError, match="does not exist"):
        kind.load(tmp_path / "nowhere")
    assert same(kind.load(path), context)


@every_kind
def test_a_file_in_the_way_is_refused_and_stays(draw, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "p"):
        with pytest.raises(pi.PrefixInterpError, match="file"):
            draw(raw_model()).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def written_before(folder, stem, tensors, record):
    """Write the two files as version 0.2 did, without a checksum of the record."""
    save_file(tensors, folder / f"{stem}.safetensors")
    digest = hashlib.sha256((folder / f"{stem}.safetensors").read_bytes()).hexdigest()
    (folder / f"{stem}.json").write_text(json.dumps({**record, "sha256": digest}))


@pytest.mark.parametrize(("old", "new"), [("embedding", "embedding"), ("layers", "all")])
def test_soft_prompts_of_format_1_are_read(tmp_path, old, new):
    vectors = torch.randn(1, 2, 8)
    record = {"format": 1, "after": 10, "level": old, "model_id": "abc", "metadata": {"seed": 3}}
    written_before(tmp_path, "soft_prompt", {"vectors": vectors}, record)
    with pytest.warns(UserWarning, match="without a checksum"):
        found = pi.SoftPrompt.load(tmp_path)
    assert (found.position, found.layers, found.model_id) == (10, new, "abc")
    assert found.metadata == {"seed": 3} and torch.equal(found.vectors, vectors)
    found.save(tmp_path)
    words = json.loads((tmp_path / "soft_prompt.json").read_text())
    assert (words["format"], words["position"], words["layers"]) == (3, 10, new)
    assert not {"after", "level"} & words.keys() and same(pi.SoftPrompt.load(tmp_path), found)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("change", [{"position": 1}, {"level": "block"}, {"after": None}])
def test_bad_soft_prompts_of_format_1_are_refused(tmp_path, change):
    record = {"format": 1, "after": 1, "level": "layers", "model_id": None, "metadata": {}}
    written_before(tmp_path, "soft_prompt", {"vectors": torch.ones(1, 2, 8)}, record | change)
    with pytest.raises(pi.PrefixInterpError, match=r"unknown|position=|wrong"):
        pi.SoftPrompt.load(tmp_path)


def test_a_word_of_format_1_is_unknown_today(tmp_path):
    prompt = pi.SoftPrompt(torch.ones(1, 2, 8))
    prompt.save(tmp_path)
    record = load_folder(tmp_path, "soft_prompt", prompt.SCHEMAS)[1]
    for change in ({"after": 1}, {"layers": "layers"}):
        save_folder(tmp_path, "soft_prompt", prompt.tensors, record | change)
        with pytest.raises(pi.PrefixInterpError, match=r"unknown|wrong"):
            pi.SoftPrompt.load(tmp_path)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("change", [{"model_id": 5}, {"metadata": {1: 2}}])
def test_what_load_would_refuse_is_not_saved(tmp_path, change):
    context = replace(pi.Prefix.random(raw_model(), 2), **change)
    with pytest.raises(pi.PrefixInterpError, match=r"model_id|metadata"):
        context.save(tmp_path / "p")
    assert not list(tmp_path.iterdir())
