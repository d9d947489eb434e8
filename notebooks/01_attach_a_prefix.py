# %% [markdown]
# # Attach a prefix and see what it changes
#
# A *prefix* is a handful of learned vectors that stand in front of the input of every attention
# block. This notebook puts one into a small trained transformer, looks at the hooks, and splits
# each head's output into the pretrained part and what the prefix adds.
#
# Takes about 10 seconds on one core.

# %%
# %matplotlib inline
import torch

import prefix_interp as pi
from prefix_interp.models.zoo import list_toys
from prefix_interp.views.attention import attention_view
from prefix_interp.views.decomposition import parts_figure, spectrum_figure
from prefix_interp.views.display import show_attention
from prefix_interp.views.style import variant_label

print(list_toys())
model = pi.load_toy("sort-ascending-1l1h")  # one layer, one head, trained to sort ascending
prefixes = pi.load_prefixes("sort-ascending-1l1h")
for name, prefix in prefixes.items():
    kind = variant_label(prefix.parameterization, prefix.n_slots)
    print(f"{name}: {kind}, {prefix.n_parameters} numbers")

# %% [markdown]
# ## With and without
#
# Inside `attach` the model takes content tokens only. `run_with_cache`, `run_with_hooks` and a
# plain call all see the prefix; afterwards nothing remains. Caches hold the slots first.

# %%
task = pi.get_task("sort_descending")
batch = task.sample(256, split="test", seed=0)
prefix = prefixes["sort_descending-kv-10"]
with pi.attach(model, prefix):
    logits, cache = model.run_with_cache(batch.tokens)
print("logits ", tuple(logits.shape), "batch pos d_vocab")
print("pattern", tuple(cache[pi.Site.PATTERN.at(0)].shape), "batch head query key, 10 slots first")

# %% [markdown]
# ## What "no prefix" means
#
# There are three meanings. The theorem uses the first: slots masked, content at its old positions.

# %%
plain = pi.run_pair(model, prefix, batch.tokens, baseline="masked")
for baseline in ("masked", "placeholder", "unshifted"):
    pair = pi.run_pair(model, prefix, batch.tokens, baseline=baseline)
    difference = (pair.logits_off - plain.logits_off).abs().max()
    print(f"{baseline:12s} largest logit difference to masked: {difference:.2f}")

# %% [markdown]
# ## Eq. 6 and eq. 7
#
# Let the gate $g_i$ be the attention mass on the slots. Then
#
# $$A^{pt}_{ij} = A_{ij}(1-g_i) \qquad t^{pt}_i = (1-g_i)\,t_i + \sum_p A^{pt}_{ip} v_p .$$
#
# `decompose_attention` measures each part in a separate run. In float64 both hold to rounding.

# %%
exact = pi.to_dtype(pi.load_toy("sort-ascending-1l1h"), torch.float64)
parts = pi.decompose_attention(pi.run_pair(exact, prefix.to(exact), batch.tokens))
print(parts.max_errors())
assert max(parts.max_errors().values()) < 1e-10
parts.to_dataframe().tail(10)

# %%
parts_figure({"kv, 10 slots": parts}, n_out=task.length)

# %% [markdown]
# ## The subspace of the bias
#
# For any number of inputs, the rank of a head's bias is at most the number of slots. The rank of
# the plain difference $t^{pt} - t$ is larger, because the gate scales $t$.

# %%
space = pi.bias_subspace(exact, prefix.to(exact), batch.tokens, layer=0, head=0)
print(f"rank {space.rank}, at most {space.bound}; effective rank {space.effective_rank:.2f}")
print(f"singular value 11 over the first: {space.to_dataframe()['of_first'][10]:.0e}")
assert space.rank <= prefix.n_slots
spectrum_figure({"kv, 10 slots": space})

# %% [markdown]
# ## The picture
#
# The prefix columns are separate and the content is renormalised: compare with the next notebook.

# %%
show_attention(attention_view(plain, sequence=0, name="kv prefix, 10 slots"))
