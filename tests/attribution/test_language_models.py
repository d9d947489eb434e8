"""Attribution in language models against loops over Hugging Face's own model with torch hooks."""

import pytest
import torch

import prefix_interp as pi
from tests import hub_oracle
from tests.helpers import assert_close
from tests.hub_oracle import Edits
from tests.tiny_language_models import hub_model, language_model, random_tokens

KINDS = ["llama", "gpt2", "gpt_neox"]
POSITIONS = torch.tensor([[2, 5], [1, 3], [4, 6]])
ANSWERS = torch.tensor([[7, 11], [3, -100], [9, 5]])  # the second row ends in padding


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    lm, hf = language_model(request.param), hub_model(request.param)
    tokens = random_tokens(3, 7)
    prefix = pi.Prefix.random(lm, 2, seed=1, parameterization="kv", std=2.0)
    pair = pi.contrast(lm, prefix, pi.Batch(tokens, ANSWERS, positions=POSITIONS))
    return Case(lm, hf, tokens, prefix, pair)


class Case:
    def __init__(self, lm, hf, tokens, prefix, pair):
        self.lm, self.hf, self.tokens, self.prefix, self.pair = lm, hf, tokens, prefix, pair
        self.seen = {"on": {}, "off": {}}
        self.score("on", seen=self.seen["on"])
        self.score("off", seen=self.seen["off"])

    def score(self, state, edits=None, seen=None):
        """Each sequence's mean log probability of its answers, by Hugging Face alone."""
        prefix = self.prefix if state == "on" else None
        logits = hub_oracle.run(self.hf, self.tokens, prefix, 2, edits, seen)
        log_probs, found = logits.log_softmax(-1), []
        for row in range(3):
            places = zip(POSITIONS[row].tolist(), ANSWERS[row].tolist(), strict=True)
            own = [log_probs[row, pos, answer] for pos, answer in places if answer != -100]
            found.append(torch.stack(own).mean())
        return torch.stack(found)

    def patch_z(self, base, layer, head, pos=None):
        """The score of the base run with one head's output of the other run."""
        given = self.seen["on" if base == "off" else "off"]["z", layer]

        def write(z):
            z = z.clone()
            where = slice(None) if pos is None else pos
            z[:, where, head] = given[:, where, head]
            return z

        return self.score(base, Edits(z={layer: write}))


def test_both_runs_are_hugging_face_s(case):
    assert_close(case.pair.on["log_prob"], case.score("on"), 1e-5)
    assert_close(case.pair.off["log_prob"], case.score("off"), 1e-5)


@pytest.mark.parametrize("direction, base", [("denoise", "off"), ("noise", "on")])
def test_patched_heads(case, direction, base):
    grid = pi.patch_heads(case.lm, case.prefix, case.pair, direction=direction, progress=False)
    by_position = pi.patch_heads(
        case.lm, case.prefix, case.pair, direction=direction, by_position=True, progress=False
    )
    for layer in range(3):
        for head in range(4):
            found = grid.values["log_prob"][layer, head]
            assert_close(found, case.patch_z(base, layer, head), 1e-5)
            pos = (layer + head) % 7
            found = by_position.values["log_prob"][layer, head, pos]
            assert_close(found, case.patch_z(base, layer, head, pos), 1e-5)


def test_patched_streams(case):
    grid = pi.patch_sites(
        case.lm, case.prefix, case.pair, sites=["mlp_out"], by_position=False, progress=False
    )
    for layer in range(3):
        given = case.seen["on"]["mlp", layer]
        expected = case.score("off", Edits(mlp={layer: lambda x, given=given: given}))
        assert_close(grid.values["log_prob"][0, layer], expected, 1e-5)
    with pytest.raises(pi.PrefixInterpError, match="site='RESID_MID' takes no write"):
        pi.patch_sites(case.lm, case.prefix, case.pair, sites=["resid_mid"], progress=False)


def test_gated_slots(case):
    noise = pi.patch_slots(
        case.lm, case.prefix, case.pair, direction="noise", progress=False
    ).values["log_prob"]
    denoise = pi.patch_slots(case.lm, case.prefix, case.pair, progress=False).values["log_prob"]
    every = [(i, h, s) for i in range(3) for h in range(4) for s in range(2)]
    for layer, head, slot in every[::5]:
        expected = case.score("on", Edits(dropped=[(layer, head, slot)]))
        assert_close(noise[layer, head, slot], expected, 1e-5)
        others = [cell for cell in every if cell != (layer, head, slot)]
        expected = case.score("on", Edits(dropped=others))
        assert_close(denoise[layer, head, slot], expected, 1e-5)
    one = torch.ones(3, 4, 2)
    one[1, 2, 0] = 0
    for method in ("slots", "mixture"):
        with pi.attach(case.lm, case.prefix, method, one), torch.no_grad():
            found = case.pair.batch.read(case.lm(case.tokens))
        hub = hub_oracle.run(case.hf, case.tokens, case.prefix, 2, Edits(dropped=[(1, 2, 0)]))
        assert_close(found, case.pair.batch.read(hub), 1e-4)


def test_elicitation_and_its_parts(case):
    found = pi.head_elicitation(case.lm, case.prefix, case.pair, n_random=3, progress=False)
    off, on = case.score("off").mean(), case.score("on").mean()
    effects = found.to_dataframe().set_index(["layer", "head"])
    for layer in range(3):
        for head in range(4):
            expected = case.patch_z("off", layer, head).mean() - off
            assert abs(effects.loc[(layer, head), "effect"] - float(expected)) < 2e-5
    assert abs(float(on - off)) > 1e-3


def test_first_order_estimates_are_slopes(case):
    grid = pi.attribution_patch(case.lm, case.prefix, case.pair)
    off = case.score("off")
    step = 1e-2
    for layer, head in ((0, 1), (1, 3), (2, 0)):
        given = case.seen["on"]["z", layer]

        def write(z, given=given, head=head):
            z = z.clone()
            z[:, :, head] += step * (given[:, :, head] - z[:, :, head])
            return z

        slope = (case.score("off", Edits(z={layer: write})) - off) / step
        assert_close(grid.values["log_prob"][layer, head] - off, slope, 5e-2)


def test_a_circuit(case):
    circuit = pi.find_circuit(case.lm, case.prefix, case.pair, progress=False)
    inside = {node.name for node in circuit.nodes}
    held = case.seen["off"]
    edits = Edits()
    for layer in range(3):
        out = [h for h in range(4) if f"head {layer}.{h}" not in inside]

        def write(z, layer=layer, out=out):
            z = z.clone()
            z[:, :, out] = held["z", layer][:, :, out]
            return z

        edits.z[layer] = write
        if f"mlp {layer}" not in inside:
            edits.mlp[layer] = lambda x, layer=layer: held["mlp", layer]
        for slot in range(2):
            if f"slot {layer}.{slot}" not in inside:
                edits.dropped += [(layer, head, slot) for head in range(4)]
    off, on = case.score("off").mean(), case.score("on").mean()
    expected = (case.score("on", edits).mean() - off) / (on - off)
    assert abs(circuit.faithfulness().value - float(expected)) < 1e-3


def test_evaluation_and_a_step_of_tuning(case):
    batch = case.pair.batch
    found = pi.evaluate(case.lm, batch, case.prefix)
    logits = hub_oracle.run(case.hf, case.tokens, case.prefix)
    right = (batch.read(logits).argmax(-1) == ANSWERS) | (ANSWERS == -100)
    assert abs(found.exact_match.value - float(right.all(1).float().mean())) < 1e-9
    assert abs(found.loss.value + float(case.score("on").mean())) < 1e-4
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=3, lr=1e-2)
    before = {name: p.requires_grad for name, p in case.lm.named_parameters()}
    task = pi.task_from_tensors(case.tokens, ANSWERS, POSITIONS, test_share=0.34)
    fit = pi.tune_prefix(case.lm, task, 2, parameterization="kv", recipe=recipe, progress=False)
    assert fit.prefix.key_form == "scored" and fit.prefix.model_id is not None
    assert {name: p.requires_grad for name, p in case.lm.named_parameters()} == before
