# %% [markdown]
# # Your own model, your own task, your own loop
#
# Nothing here comes from the paper. Two small transformers are trained on two tasks of our own, and
# a prefix is tuned, measured and taken apart in each.
#
# Takes about 80 seconds on one core.

# %%
# %matplotlib inline
import warnings

import torch
import torch.nn.functional as F
from transformer_lens import HookedTransformer, HookedTransformerConfig

import prefix_interp as pi

# TransformerLens 3.9 announces the end of this class at every construction.
warnings.filterwarnings("ignore", category=DeprecationWarning)
torch.set_num_threads(1)
recipe = pi.Recipe.from_preset("fast", "prefix", steps=600)  # of a prefix; 2,000 by itself


def train(model, task, steps, batch_size, lr=3e-3):
    """A training loop of our own; `Batch.read` picks the logits that predict the answers."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = task.sample_from(rng, batch_size, "all")
        logits = batch.read(model(batch.tokens))
        loss = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), ignore_index=-100)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


# %% [markdown]
# ## Modular addition
#
# Three tokens, `a b =`, and one answer. The model is attention only with learned positions, and its
# context holds three positions: a prefix would have no room. It learns to add or to subtract, half
# of the time each, so it cannot know which is meant.

# %%
N = 13
a, b = torch.cartesian_prod(torch.arange(N), torch.arange(N)).T
equals = torch.full_like(a, N)
tokens = torch.stack([a, b, equals], dim=-1)
both = pi.task_from_tensors(
    tokens.repeat(2, 1), torch.cat([(a + b) % N, (a - b) % N]), name="add or subtract"
)
add = pi.task_from_tensors(tokens, (a + b) % N, name="add")

adder = HookedTransformer(
    HookedTransformerConfig(
        n_layers=2, n_heads=4, d_model=64, d_head=16, n_ctx=3, d_vocab=N + 1, attn_only=True,
        normalization_type=None, seed=0, device="cpu",
    )
)  # fmt: skip
print("loss", round(train(adder, both, 1200, 128), 3), "- two answers at 1/2 each would be 0.693")
print("without a prefix:", pi.evaluate(adder, add))

# %% [markdown]
# In a model with learned positions slots move the content, as PEFT does. Here it must not move:
# `positions="keep"`. The sums that the prefix is tested on are none that it was tuned on.

# %%
fit = pi.tune_prefix(adder, add, positions="keep", recipe=recipe, progress=False)
print("with the prefix:", pi.evaluate(adder, add, fit))
tuned_on = add.sample(1000, split="train")
for name, context in {"without": None, "with": fit}.items():
    print(
        f"loss {name} it on the sums it was tuned on: {pi.evaluate(adder, tuned_on, context).loss}"
    )

# %% [markdown]
# This prefix does not pick the sum. Compare the losses on the sums that it was tuned on: even there
# it does not help. Its slot takes attention from `a` and `b`, and there is no MLP that could read
# its bias. No head stands out: the harm is spread over heads of both layers, and random prefixes
# (grey) do more of it at nearly every head.

# %%
pi.head_elicitation(adder, fit.prefix, add, n_random=9, progress=False)

# %% [markdown]
# ## Repetition, with sequences of different lengths
#
# Four to six random tokens, then the same again, or the same with one added to each: a two-layer
# model with rotating positions, grouped queries and RMS norms. `answer_positions` says where each
# answer is predicted; rows with fewer answers end in -100, and what follows them is padding.

# %%
VOCAB, LONGEST = 10, 6


def repeated(n, rng, plus=None):
    lengths = torch.randint(4, LONGEST + 1, (n,), generator=rng)
    first = torch.randint(VOCAB, (n, LONGEST), generator=rng)
    added = torch.randint(2, (n, 1), generator=rng) if plus is None else plus
    second = (first + added) % VOCAB
    tokens = torch.zeros(n, 2 * LONGEST - 1, dtype=torch.int64)
    answers = torch.full((n, LONGEST), -100)
    positions = torch.zeros(n, LONGEST, dtype=torch.int64)
    for k in range(4, LONGEST + 1):
        own = lengths == k
        tokens[own, : 2 * k - 1] = torch.cat([first[own, :k], second[own, : k - 1]], dim=1)
        answers[own, :k] = second[own, :k]
        positions[own, :k] = torch.arange(k - 1, 2 * k - 1)
    return tokens, answers, positions


def plus_one(n, rng):
    return repeated(n, rng, plus=1)


either, wanted = pi.task_from_function(repeated), pi.task_from_function(plus_one)
inductor = HookedTransformer(
    HookedTransformerConfig(
        n_layers=2, n_heads=8, n_key_value_heads=2, d_model=64, d_head=8, d_mlp=128, n_ctx=16,
        act_fn="gelu", normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8,
        d_vocab=VOCAB, seed=0, device="cpu",
    )
)  # fmt: skip
print("loss", round(train(inductor, either, 900, 64, lr=2e-3), 3))
print("without a prefix:", pi.evaluate(inductor, wanted))

# %%
fit = pi.tune_prefix(inductor, wanted, recipe=recipe, progress=False)
print("with the prefix:", pi.evaluate(inductor, wanted, fit))

# %% [markdown]
# Each question is one call. A contrast holds the runs, so that they are made once.

# %%
pair = pi.contrast(inductor, fit, wanted, n=32)
pi.patch_heads(inductor, fit.prefix, pair, progress=False).plot()

# %%
pi.head_elicitation(inductor, fit.prefix, pair, n_random=9, progress=False)

# %%
circuit = pi.find_circuit(inductor, fit.prefix, pair, n_random=9, progress=False)
circuit.plot()

# %% [markdown]
# ## Your own training loop for a prefix
#
# `attach` is all that it takes: gradients flow to the vectors. Twelve lines, with whatever loss,
# schedule or logging you like.

# %%
model = inductor.requires_grad_(False)
vectors = pi.Prefix.random(model, n_slots=1).vectors.requires_grad_(True)
optimiser = torch.optim.Adam([vectors], lr=0.05)
rng = torch.Generator().manual_seed(1)
for _ in range(200):
    batch = wanted.sample_from(rng, 64)
    with pi.attach(model, pi.Prefix("residual", vectors)):
        logits = batch.read(model(batch.tokens))
    loss = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), ignore_index=-100)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(pi.evaluate(model, wanted, pi.Prefix("residual", vectors.detach())))
