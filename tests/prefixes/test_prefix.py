import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.zoo import list_toys
from tests.helpers import raw_model, tokens_for


@pytest.fixture
def model():
    return raw_model(seed=1, n_key_value_heads=1)


@pytest.mark.parametrize("parameterization", ["residual", "kv"])
def test_random_has_the_shape_dtype_and_statistics_it_promises(model, parameterization):
    prefix = pi.Prefix.random(model, 400, seed=1, parameterization=parameterization, std=0.5)
    if parameterization == "residual":
        assert prefix.vectors.shape == (2, 400, 8) and prefix.keys is prefix.values is None
    else:
        assert prefix.keys.shape == prefix.values.shape == (2, 400, 1, 4)
        assert prefix.vectors is None and not torch.equal(prefix.keys, prefix.values)
    x = torch.cat([t.flatten() for t in prefix.tensors.values()])
    assert x.dtype == torch.float64 and prefix.n_parameters == len(x) == 6400
    assert abs(x.mean()) < 4 * 0.5 / 6400**0.5
    assert abs(x.std() - 0.5) < 4 * 0.5 / (2 * 6400) ** 0.5
    again = pi.Prefix.random(model, 400, seed=1, parameterization=parameterization, std=0.5)
    other = pi.Prefix.random(model, 400, seed=2, parameterization=parameterization, std=0.5)
    for name, tensor in prefix.tensors.items():
        assert torch.equal(tensor, again.tensors[name])
        assert not torch.equal(tensor, other.tensors[name])
    assert (prefix.n_layers, prefix.n_slots) == (2, 400)


@pytest.mark.parametrize("norm", ["LN", "RMS", None])
@pytest.mark.parametrize("gqa", [None, 1])
def test_keys_and_values_are_norm_then_projection(norm, gqa):
    model = raw_model(seed=3, normalization_type=norm, n_key_value_heads=gqa)
    prefix = pi.Prefix.random(model, 2, seed=2)
    for layer, (keys, values) in enumerate(prefix.keys_values(model)):
        block = model.blocks[layer]
        for s in range(2):
            x = prefix.vectors[layer, s]
            if norm == "LN":
                x = torch.nn.functional.layer_norm(x, (8,), block.ln1.w, block.ln1.b, 1e-5)
            if norm == "RMS":
                x = torch.nn.functional.rms_norm(x, (8,), block.ln1.w, 1e-5)
            for h in range(gqa or 2):
                a = block.attn
                w_k, w_v = (a._W_K, a._W_V) if gqa else (a.W_K, a.W_V)
                b_k, b_v = (a._b_K, a._b_V) if gqa else (a.b_K, a.b_V)
                torch.testing.assert_close(keys[s, h], x @ w_k[h] + b_k[h])
                torch.testing.assert_close(values[s, h], x @ w_v[h] + b_v[h])


def test_kv_prefixes_are_taken_as_they_are(model):
    prefix = pi.Prefix.random(model, 2, parameterization="kv")
    for layer, (keys, values) in enumerate(prefix.keys_values(model)):
        assert torch.equal(keys, prefix.keys[layer])
        assert torch.equal(values, prefix.values[layer])


@pytest.mark.parametrize("n", [0, -1, True, 1.0, "2", None])
@pytest.mark.usefixtures("unchecked")
def test_a_length_below_one_is_refused(model, n):
    with pytest.raises(pi.PrefixInterpError, match=r"n_slots=.*at least 1"):
        pi.Prefix.random(model, n)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "arguments, message",
    [
        (("residual",), "give vectors"),
        (("residual", torch.ones(1, 2, 3), torch.ones(1, 2, 1, 3)), "does not go with"),
        (("kv", None, torch.ones(1, 2, 1, 3)), "keys and values"),
        (("kv", None, torch.ones(1, 2, 1, 3), torch.ones(1, 3, 1, 3)), "differ"),
        (("residual", torch.ones(2, 3)), "3 axes"),
        (("residual", torch.ones(1, 0, 3)), "at least 1"),
        (("residual", torch.ones(1, 2, 3, dtype=torch.long)), "floating"),
        (("residual", torch.full((1, 2, 3), torch.nan)), "NaN"),
        (("kv", None, torch.full((1, 2, 1, 3), torch.inf), torch.ones(1, 2, 1, 3)), "infinity"),
        (("residuals", torch.ones(1, 2, 3)), "did you mean 'residual'"),
    ],
)
def test_tensors_that_make_no_prefix_are_refused(arguments, message):
    with pytest.raises(pi.PrefixInterpError, match=message):
        pi.Prefix(*arguments)


def test_a_prefix_for_another_model_is_refused(model):
    tokens = tokens_for(model)

    def use(prefix):
        with pi.attach(model, prefix):
            model(tokens)

    for other, message in [
        (raw_model(n_layers=1, n_key_value_heads=1), "shape"),
        (raw_model(d_model=6, n_key_value_heads=1), "shape"),
        (raw_model(dtype=torch.float32, n_key_value_heads=1), "float32.*prefix.to"),
    ]:
        with pytest.raises(pi.PrefixInterpError, match=message):
            use(pi.Prefix.random(other, 2))
    wrong_heads = pi.Prefix.random(raw_model(), 2, parameterization="kv")
    with pytest.raises(pi.PrefixInterpError, match="shape"):
        use(wrong_heads)
    use(pi.Prefix.random(raw_model(dtype=torch.float32, n_key_value_heads=1), 2).to(model))


def test_shipped_prefixes_fit_their_toys():
    found = 0
    for name in list_toys():
        model = pi.load_toy(name)
        for prefix in pi.load_prefixes(name).values():
            prefix.check_fits(model)
            found += 1
    assert found


def peft_folder(folder):
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")


FOREIGN = {  # what stands at the path, and what the message says about it
    "empty": (lambda folder, model: folder.mkdir(), "it is empty; give the folder of a saved toy"),
    "PEFT": (lambda folder, model: peft_folder(folder), "holds an adapter of PEFT.*pi.Prefix"),
    "prefix": (
        lambda folder, model: pi.Prefix.random(model, 2).save(folder),
        "holds a saved prefix; call pi.Prefix.load",
    ),
    "soft prompt": (
        lambda folder, model: pi.SoftPrompt.random(model, 2).save(folder),
        "holds a saved soft prompt; call pi.SoftPrompt.load",
    ),
    "prefixes": (
        lambda folder, model: pi.Prefix.random(model, 2).save(folder / "mine"),
        "saved prefixes in folders; call pi.Prefix.load on each, e.g. 'mine'",
    ),
    "other files": (
        lambda folder, model: [(folder / x).mkdir(parents=True) for x in "abcd"],
        "holds 'a', 'b', 'c' and 1 more; give",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_of_no_toy_gives_what_it_holds_and_never_an_empty_answer(case, model, tmp_path):
    make, message = FOREIGN[case]
    make(tmp_path / "x", model)
    with pytest.raises(pi.PrefixInterpError, match=message) as caught:
        pi.load_prefixes(tmp_path / "x")
    assert "\n" not in str(caught.value) and str(tmp_path / "x") in str(caught.value)


def test_a_toy_without_prefixes_has_none():
    assert pi.load_prefixes("sort-descending-1l1h-fine-tuned") == {}
