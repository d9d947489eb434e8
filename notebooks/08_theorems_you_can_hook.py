# %% [markdown]
# # Theorems you can hook
#
# Section 3 of the paper proves that one virtual token can make a transformer say anything. The
# proof is a transformer with explicit weights. Here it is a `HookedTransformer`, so you can look
# inside: virtual token, attention, selection, digit.

# %%
# %matplotlib inline
import torch

import prefix_interp as pi
from analyses.constructions.trace import trace, trace_figure
from prefix_interp.theory import constructions
from prefix_interp.views.display import AttentionDisplay

# %% [markdown]
# ## Theorem 1: any sequence from one token
#
# The virtual token holds the whole sequence, symbol $i$ in coordinate $i$. At position $i$ one head
# brings the virtual token, another marks coordinate $i$; their sum minus 1 is above zero only
# there. The MLP keeps that number and the unembedding names the nearest code. Output 0 is read at
# the virtual token's own row.

# %%
writer = constructions.any_sequence(n_tokens=10, length=6)
sequence = torch.tensor([3, 1, 4, 1, 5, 9])
writer.run(sequence[None])[0, 0].tolist()

# %%
steps = trace(writer, sequence)
trace_figure(writer, steps)

# %%
steps.to_dataframe().round(4)

# %% [markdown]
# The attention as circuitsvis draws it. Row `s1` is the virtual token itself.

# %%
AttentionDisplay(steps.view, 0)

# %% [markdown]
# It is a model like any other: hooks, caches and patches work. If the head `first` brings another
# sequence's virtual token at one position, one digit changes.

# %%
other = torch.tensor([9, 9, 9, 9, 9, 9])
with pi.attach(writer.model, writer.encode(other), predict_first=True):
    _, cache = writer.model.run_with_cache(sequence[None, :-1])


def patch(z, hook):
    z = z.clone()
    z[:, 2, 1] = cache[pi.Site.Z.at(0)][:, 2, 1]  # position 2, head 1
    return z


with pi.attach(writer.model, writer.encode(sequence), predict_first=True):
    hooks = [(pi.Site.Z.at(0), patch)]
    logits = writer.model.run_with_hooks(sequence[None, :-1], fwd_hooks=hooks)
logits.argmax(dim=-1)[0].tolist()

# %% [markdown]
# ## How sharp must attention be?
#
# Softmax leaks. The smallest inverse temperature follows from how much leak the nearest code
# tolerates. Just below it the hardest sequence comes out wrong, just above it none does.

# %%
for factor in (0.999, 1.001):
    made = constructions.any_sequence(
        n_tokens=10, length=6, temperature=factor * writer.smallest_temperature
    )
    right = bool(made.right(writer.hardest[None]).all())
    print(f"T = {made.temperature:.3f}: the hardest sequence is {'right' if right else 'wrong'}")

# %% [markdown]
# ## Theorem 2: any map
#
# There are $V^V$ maps of one token to one token. The virtual token holds the whole table.

# %%
mapper = constructions.any_map(n_tokens=5)
table = torch.tensor([4, 0, 0, 2, 1])
print(mapper.run(table[None])[0, :, 0].tolist(), "of", mapper.n_behaviours, "maps")
trace_figure(mapper, trace(mapper, table, [3]))

# %% [markdown]
# ## Two inputs: digits extracted by ReLUs
#
# Entry $a$ of the virtual token packs the row $m(a, \cdot)$ as digits of one number in base $V$.
# The authors unpack it with a function outside the model, which fails on rows that end in code 0.
# Here blocks of the model unpack it exactly.

# %%
pairs = constructions.any_map_of_pairs(n_tokens=4)
rows = torch.tensor([[1, 2, 0, 0], [3, 0, 3, 0], [0, 0, 0, 0], [2, 1, 3, 0]])
print(bool(pairs.right(rows[None]).all()), "on all inputs,", pairs.model.cfg.n_layers, "blocks")
with pi.attach(pairs.model, pairs.encode(rows)):
    _, cache = pairs.model.run_with_cache(torch.tensor([[1, 2]]))
last = pairs.model.cfg.n_layers - 1
digits = cache[pi.Site.RESID_MID.at(last)][0, -1][list(pairs.coordinates["digits"])]
print("digits of row 1 as the last block finds them:", digits.tolist())

# %% [markdown]
# ## And on trained models?
#
# These weights were made for this purpose. What one token can do with weights trained for something
# else must be measured: `python -m analyses capacity` searches one soft token per random target.
