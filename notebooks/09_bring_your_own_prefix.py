# %% [markdown]
# # Bring your own prefix
#
# A language model from Hugging Face and a prefix that PEFT tuned: does it act, and what does it do
# inside? The model here is small and trained on the spot; yours goes in the same way.
#
# Takes about 20 seconds on one core.

# %%
# %matplotlib inline
import warnings
from pathlib import Path
from tempfile import mkdtemp

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import prefix_interp as pi

logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=FutureWarning)  # of PEFT, about transformers
torch.set_num_threads(1)
torch.manual_seed(0)
folder = Path(mkdtemp())

# %% [markdown]
# ## A model with two habits
#
# Each sequence begins with a random number. Half of them repeat it, half count up. Nothing says
# which, so the model can only guess what follows the first number.

# %%
N, LENGTH = 40, 8
config = LlamaConfig(
    vocab_size=N, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
)  # fmt: skip
hub = LlamaForCausalLM(config)


def sequences(n, step):
    """Numbers that go on by `step`: 0 repeats, 1 counts up."""
    return (torch.randint(N, (n, 1)) + step * torch.arange(LENGTH)) % N


def train(model, parameters, batch, steps, lr):
    optimiser = torch.optim.AdamW(parameters, lr=lr)
    for _ in range(steps):
        tokens = batch()
        loss = model(input_ids=tokens, labels=tokens).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def both():
    return torch.cat([sequences(32, 0), sequences(32, 1)])


train(hub, hub.parameters(), both, steps=400, lr=3e-3)
hub.save_pretrained(folder / "model")
after = hub(torch.tensor([[7]])).logits[0, -1].softmax(-1)
print(f"after 7 the model gives 7 {after[7]:.2f} and 8 {after[8]:.2f}")

# %% [markdown]
# ## PEFT tunes a prefix to count
#
# Three slots, free keys and values in each layer, the model frozen: this is PEFT alone.

# %%
tuned = peft.get_peft_model(
    LlamaForCausalLM.from_pretrained(folder / "model"),
    peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
)
own = [p for p in tuned.parameters() if p.requires_grad]
train(tuned, own, lambda: sequences(64, 1), steps=200, lr=3e-2)
tuned.save_pretrained(folder / "adapter")
sorted(file.name for file in (folder / "adapter").iterdir())

# %% [markdown]
# ## Bring both in
#
# `load_pretrained` reads a folder, or wraps a model in memory, and asks no hub. `from_peft` reads
# the adapter.

# %%
lm = pi.load_pretrained(folder / "model")
prefix = pi.Prefix.from_peft(folder / "adapter", lm)
prefix

# %% [markdown]
# **Does it act?** Libraries have ignored prefixes without a word. `check_context` asks PEFT's way
# and ours, forward and `generate`, with and without a cache.

# %%
prompts = torch.randint(N, (16, 1))
check = pi.check_context(folder / "model", folder / "adapter", sequences(16, 1))
check.to_dataframe()[["question", "verdict"]]

# %% [markdown]
# ## What it does
#
# With the prefix the model counts.

# %%
plain = pi.generate(lm, None, prompts[:3], max_new_tokens=5)
counted = pi.generate(lm, prefix, prompts[:3], max_new_tokens=5)
for start, without, with_it in zip(
    prompts[:3, 0].tolist(), plain.tolist(), counted.tolist(), strict=True
):
    print(f"{start:2d}: without {without}, with the prefix {with_it}")

# %% [markdown]
# Every head's output is (1 - g) of its old one plus a bias: the equation of the paper holds here to
# rounding, in every layer. The gate says how much of the attention goes to the slots.

# %%
tokens = sequences(32, 1)
parts = pi.decompose_attention(pi.run_pair(lm, prefix, tokens))
print(parts.max_errors())
parts.plot(layer=0, head=0)

# %% [markdown]
# Which heads does the prefix use? The first answer, the second number, is the one that it decides.

# %%
batch = pi.Batch(tokens, tokens[:, 1:2], positions=torch.zeros(32, 1, dtype=torch.long))
heads = pi.head_elicitation(lm, prefix, batch, n_random=19, progress=False)
heads.plot()

# %%
heads.to_dataframe().head(4)

# %% [markdown]
# One page for all of it, with an explorer of every head; it needs no network and can be sent on:

# %%
page = pi.inspect(lm, prefix, batch, out=folder / "report.html", progress=False)
print(page.summary()[0])

# %% [markdown]
# And back to PEFT: the adapter that `to_peft` writes holds the same tensors.

# %%
prefix.to_peft(folder / "back", lm)
again = pi.Prefix.from_peft(folder / "back", lm)
torch.equal(again.keys, prefix.keys) and torch.equal(again.values, prefix.values)
