# %% [markdown]
# # Theorems you can hook
#
# Section 3 of the paper proves that one virtual token can make a transformer say anything. The
# proof is a transformer with explicit weights. Here it is a `HookedTransformer`, so you can look
# inside: virtual token, attention, selection, digit.
#
# Takes about 10 seconds on one core.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import pandas as pd
import torch

import prefix_interp as pi
from prefix_interp.theory import constructions
from prefix_interp.views.attention import AttentionView
from prefix_interp.views.display import show_attention

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

# %% [markdown]
# Its steps, read from the cache. From left to right: the virtual token; where each head of the
# first block looks; the logits. The table has the number that the last block leaves at each output.


# %%
def steps(made, behaviour, inputs=()):
    """Run a construction on one input; return names of rows, the cache, and a table of outputs."""
    given = torch.tensor([inputs], dtype=torch.long).reshape(1, -1)
    wanted = made.run(behaviour[None], given)[0, 0]
    tokens = torch.cat([given, wanted[None, :-1]], dim=1)
    prompt = made.encode(behaviour)
    with torch.no_grad(), pi.attach(made.model, prompt, predict_first=made.n_in == 0):
        logits, cache = made.model.run_with_cache(tokens)
    rows = ["s1", *(f"x={x}" for x in inputs), *(f"y={y}" for y in wanted[:-1].tolist())]
    last, n_out = made.model.cfg.n_layers - 1, len(wanted)
    final = cache[pi.Site.RESID_MID.at(last)] + cache[pi.Site.MLP_OUT.at(last)]
    number = final[0, -n_out:, made.coordinates["number"][0]]
    table = pd.DataFrame({"read at": rows[-n_out:], "number": number.tolist()})
    table["number x V"] = table["number"] * logits.shape[-1]
    table["answer"] = logits[0, -n_out:].argmax(-1).tolist()
    return rows, cache[pi.Site.PATTERN.at(0)][0], table, logits[0, -n_out:]


def draw(made, behaviour, inputs=()):
    rows, pattern, table, logits = steps(made, behaviour, inputs)
    virtual = made.encode(behaviour).vectors[0][:, list(made.coordinates["token"])]
    panels = {"virtual token": virtual.T}
    panels |= {f"head {i}: {name}": pattern[i] for i, name in enumerate(made.heads)}
    low, high = logits.amin(-1, keepdim=True), logits.amax(-1, keepdim=True)
    panels["logits, each row from 0 to 1"] = (logits - low) / (high - low)
    _, axes = plt.subplots(1, len(panels), figsize=(11, 3), layout="constrained")
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        ax.imshow(values, cmap="Blues", vmin=0, aspect="auto")
        ax.set_title(title)
        if "head" in title:
            ax.set_xticks(range(len(rows)), rows, rotation=90)
            ax.set_yticks(range(len(rows)), rows)
    axes[0].set(ylabel="coordinate", xticks=[0], xticklabels=["s1"])
    axes[-1].set(xlabel="token", ylabel="output", yticks=range(len(logits)))
    return table.round(4)


draw(writer, sequence)

# %% [markdown]
# The attention as circuitsvis draws it. Row `s1` is the virtual token itself.

# %%
rows, pattern, *_ = steps(writer, sequence)
view = AttentionView(writer.name, rows, pattern[None, ..., :0], pattern[None])
show_attention(view)

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
draw(mapper, table, [3])

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
