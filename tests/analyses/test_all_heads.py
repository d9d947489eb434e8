import json
import re

import pytest
import torch

import prefix_interp as pi
from analyses.all_heads import gates_frame, section
from analyses.registry import evidence_of
from analyses.table2.skills import load_skills
from prefix_interp.models.sites import Site
from prefix_interp.views.attention import attention_view, plain_attention_view


@pytest.fixture(scope="module")
def evidence():
    return evidence_of(seed=3)


@pytest.fixture(scope="module")
def shown(evidence):
    return section(evidence)


def test_gates_have_one_row_per_head_and_model():
    model = pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8), seed=0)
    tokens = pi.get_task("add_one").sample(6, seed=0).tokens
    pairs = {
        n: pi.run_pair(model, pi.Prefix.random(model, 2, i), tokens) for i, n in enumerate("ab")
    }
    plain = plain_attention_view(model, tokens, 0, "no prefix")
    views = [plain, *(attention_view(pair, 0, name) for name, pair in pairs.items())]
    frame = gates_frame(views, first_output=9)
    assert len(frame) == 3 * 2 * 2 and (frame[frame["model"] == "no prefix"].iloc[:, 3:] == 0).all(
        axis=None
    )
    row = frame[(frame["model"] == "b") & (frame["layer"] == 1) & (frame["head"] == 0)].iloc[0]
    gate = views[2].slots[1, 0].sum(-1)
    assert row["output 0"] == pytest.approx(gate[9].item(), abs=1e-6)
    assert row["inputs (mean)"] == pytest.approx(gate[:9].mean().item(), abs=1e-6)


def test_the_section_shows_the_shipped_prefixes_on_the_chosen_sequences(evidence, shown):
    skills = evidence.once(load_skills)
    inputs = pi.get_task("sort_ascending").sample(256, split="test", seed=3).tokens[:, :10]
    batch = skills.batches["add_two"]
    assert torch.equal(batch.tokens[:, :10], inputs)
    with torch.no_grad(), pi.attach(skills.model, skills.prefixes["add_two"]):
        _, cache = skills.model.run_with_cache(batch.tokens)
    (row,) = [r for r in shown.numbers["gates"] if (r["model"], r["head"]) == ("add two", 2)]
    mass = cache[Site.PATTERN.at(0)][0, 2, 10, 0].item()
    assert row["output 0"] == pytest.approx(mass, abs=1e-6)
    points = [r for r in shown.numbers["outputs"] if r["prefix"] == "add two"]
    name = next(key for key in points[0] if key.startswith("on dim "))
    written = cache[Site.ATTN_OUT.at(0)][:, 10, int(name.removeprefix("on dim "))].tolist()
    assert [r[name] for r in points] == pytest.approx(written, abs=1e-5)


def test_every_view_keeps_the_names_of_its_own_keys(shown):
    rows = shown.numbers["attention"]
    assert len(rows) == 5 * 4 * 19
    for model in ("no prefix", "sort ascending", "add one"):
        own = [r for r in rows if r["model"] == model]
        keys = [k for k in own[0] if k.startswith("key ")]
        assert len(keys) == 19
        assert all(sum(r[k] for k in keys) == pytest.approx(1, abs=1e-5) for r in own)


def test_the_explorer_holds_the_attention_of_every_head_with_and_without(evidence, shown):
    data = json.loads(re.search(r'id="explorer-data">(.*?)</script>', shown.figure.markup)[1])
    names = [(c["model"], c["prefix"], c["slots"]) for c in data["choices"]]
    assert names[2] == ("four skills, four heads", "tuned for add one", 1)
    assert names[-1] == ("sorting, one head", "no prefix, fine-tuned weights", 0)
    assert len(names) == 4 + 4 + 1 and data["nInput"] == 10
    skills = evidence.once(load_skills)
    tokens = skills.batches["add_one"].tokens[1:2]
    with torch.no_grad(), pi.attach(skills.model, skills.prefixes["add_one"]):
        _, cache = skills.model.run_with_cache(tokens)
    row = cache[Site.PATTERN.at(0)][0, 3, 13].double()  # content 12, after the slot
    run = data["choices"][2]["inputs"][1]
    first = 12 * 13 // 2  # of the keys of query 12
    content = [x / data["steps"] for x in run["on"][3][first : first + 13]]
    assert content == pytest.approx((row[1:14] / row[1:].sum()).tolist(), abs=6e-4)
    assert run["gate"][3][12] / data["steps"] == pytest.approx(row[0].item(), abs=6e-4)
    assert largest(run) <= 1 < 100 < largest(data["choices"][-1]["inputs"][0])  # equation 6


def largest(run):
    """The largest difference of attention with and without, in the steps of the explorer."""
    heads = zip(run["off"], run["on"], strict=True)
    return max(abs(a - b) for off, on in heads for a, b in zip(off, on, strict=True))
