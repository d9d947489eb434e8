# %% [markdown]
# # What depth changes
#
# In the first layer a prefix cannot move attention within the content: it only takes some away.
# Deeper layers read what the prefix has written below them, so there attention does move. Here a
# model of three layers shows how far, and through which terms.
#
# Takes about 160 seconds on one core.

# %%
# %matplotlib inline
import pandas as pd
import torch

import prefix_interp as pi

torch.set_num_threads(1)

# %% [markdown]
# ## A model with four skills
#
# It is trained to sort up, to sort down, to add 1 and to add 2. No token says which of the four is
# wanted, so without a prefix it guesses: it is right in about a quarter of the sequences.

# %%
config = pi.ToyConfig(n_layers=3, n_heads=4, d_model=64, n_prefix=5)
recipe = pi.Recipe.from_preset("fast", "pretrain", steps=2500)
model = pi.pretrain(config, "four_skills", recipe=recipe, progress=False).model
print(pi.evaluate(model, "four_skills").caption())

# %% [markdown]
# ## A skill, two skills in a row, a new task
#
# The same prefix, five free keys and values in every layer, is tuned for each. The rate with the
# lower training loss counts.

# %%
tasks = ("sort_descending", "sort_ascending_add_one", "double_histogram")
recipe = pi.Recipe.from_preset("fast", "prefix", steps=800)
starts = pi.Prefix.random_starts(model, n_slots=5, restarts=1, parameterization="kv")
fits = {}
for task in tasks:
    both = pi.sweep(model, task, starts, [0.01, 0.03], recipe=recipe, progress=False)
    fits[task] = min(both, key=lambda fit: fit.train_loss)
pd.DataFrame({
    "sequences right": {task: fit.evaluation.exact_match.value for task, fit in fits.items()},
    "outputs right": {task: fit.evaluation.token_accuracy.value for task, fit in fits.items()},
}).round(3)  # fmt: skip

# %% [markdown]
# A skill is called up whole. Two in a row come out right far more often than by chance, but not
# always: this small model combines some of what it knows. The task that it has never seen stays
# near zero.
#
# ## How far attention moves
#
# `attention_drift` leaves the slots out, lets the rest sum to 1 again, and compares it with the run
# without the prefix: 0 is no change, 1 is no key in common. A flip is a row whose first key is
# another one.

# %%
tokens = pi.get_task("sort_descending").sample(64).tokens
pair = pi.run_pair(model, fits["sort_descending"].prefix, tokens)
drift = pi.attention_drift(pair)
drift.plot()

# %%
drift.to_dataframe().groupby("layer")[["distance", "largest", "flips"]].mean()

# %% [markdown]
# In layer 0 it is rounding: this is equation 6. In the layers above it is not, and no formula for
# one layer says what it will be.
#
# ## Through which terms
#
# The scores of layer 1 are a sum, exactly: what the pretrained layer computes from the content as
# it was, what changes for a query alone, for a key alone, a constant, and what comes through norms,
# MLPs and the layers between. Softmax does not feel what is the same for a whole row, so the size
# of a term is taken within rows.

# %%
expansion = pi.expand_attention_logits(pair, layer=1)
print(f"the sum is off by {expansion.max_error:.0e} of the largest score")
sizes = expansion.to_dataframe().groupby("term", sort=False)["rms_in_row"].mean()
sizes.round(3)

# %%
expansion.plot()

# %% [markdown]
# The pretrained scores stay the largest part. What the prefix adds comes mostly through the MLP and
# the norm between the two layers, less through the biases themselves (key only, query only). With
# the same gate at every position the query-only term and the constant would shift whole rows and be
# felt nowhere; gates differ, so a little of them is felt.
#
# ## Do inputs meet in a new way?
#
# `interaction` swaps two tokens, each alone and both together, and takes what is left over: how far
# an answer depends on pairs. Fine-tuned weights can make inputs meet as they never did; under a
# prefix they meet through the pretrained weights. Both are compared with the model alone.

# %%
recipe = pi.Recipe.from_preset("fast", "fine_tune", steps=600)
tuned = pi.fine_tune(model, "sort_descending", recipe=recipe, progress=False).model
batch = pi.get_task("sort_descending").sample(16)
prefix = fits["sort_descending"].prefix
plain = pi.interaction(model, batch, progress=False)
by_prefix = pi.interaction(model, batch, prefix, progress=False).minus(plain)
by_weights = pi.interaction(tuned, batch, progress=False).minus(plain)
print(f"alike: {by_prefix.similarity(by_weights):.2f} (1 is the same, 0 is unrelated)")
by_prefix.plot()
