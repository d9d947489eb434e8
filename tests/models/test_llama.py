import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import prefix_interp as pi
from prefix_interp.models.llama import hook_llama
from prefix_interp.theory.capacity import hard_continuations
from tests.helpers import assert_close


def llama(**changes):
    sizes = dict(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=31, max_position_embeddings=64, rope_theta=1e5,
        tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(sizes | changes)))
    for parameter in model.parameters():  # the norms' weights too
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval().double()


def test_16_bits_are_compared_in_32_and_flags_stay():
    reference = llama(hidden_act="swish").train()
    reference.model.layers[0].eval()
    flags = [module.training for module in reference.modules()]
    for parameter in reference.parameters():  # as from_pretrained does, rotations stay
        parameter.data = parameter.data.bfloat16()
    assert hook_llama(reference, n_ctx=9).W_E.dtype == torch.bfloat16
    with_rotations(reference)
    with pytest.raises(pi.PrefixInterpError, match="logits differ by"):
        hook_llama(reference, n_ctx=9)
    assert [module.training for module in reference.modules()] == flags
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}


class Adapter(torch.nn.Module):
    """A linear layer and a low-rank one beside it, as PEFT wraps them."""

    def __init__(self, base):
        super().__init__()
        self.base, self.weight = base, base.weight
        self.lora_A = torch.nn.Linear(24, 24, dtype=torch.float64)

    def forward(self, x):
        return self.base(x) + self.lora_A(x)


def with_adapter(model):
    attention = model.model.layers[1].self_attn
    attention.q_proj = Adapter(attention.q_proj)
    return model


def with_rotations(model):
    model.model.rotary_emb.inv_freq /= 2
    return model


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4, "tie_word_embeddings": False}])
def test_logits_are_those_of_the_model(changes):
    reference = llama(**changes)
    model = hook_llama(reference, n_ctx=32)
    tokens = torch.randint(31, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Its rotations are float32.
        assert_close(model(tokens), reference(tokens).logits, 1e-5)


def test_its_continuations_are_those_of_generate():
    reference = llama()
    found = hard_continuations(hook_llama(reference, n_ctx=16), 5)
    tokens = torch.arange(31)[:, None]
    with torch.no_grad():
        whole = reference.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=5, do_sample=False,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    assert torch.equal(found, whole[:, 1:])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hook_llama(torch.nn.Linear(2, 2)), "hf_model=Linear is not supported"),
        (lambda: hook_llama(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=4, n_head=1))), "GPT2"),
        (lambda: hook_llama(llama(), n_ctx=65), "n_ctx=65 is more than the model's 64"),
        (
            lambda: hook_llama(llama(attention_bias=True), n_ctx=9),
            "attention_bias=True is not supported",
        ),
        (
            lambda: hook_llama(
                llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
                n_ctx=9,
            ),
            "only 'default'",
        ),
        (lambda: hook_llama(llama(head_dim=8), n_ctx=9), "head_dim=8 is not supported, only 6"),
        (lambda: hook_llama(llama(hidden_act="mish"), n_ctx=9), "hidden_act='mish' is not one"),
        (lambda: hook_llama(with_adapter(llama()), n_ctx=9), "q_proj.* merge an adapter"),
        (lambda: hook_llama(with_rotations(llama()), n_ctx=9), "logits differ by"),
    ],
)
def test_what_would_be_another_model_is_refused(make, words):
    with pytest.raises(pi.PrefixInterpError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
