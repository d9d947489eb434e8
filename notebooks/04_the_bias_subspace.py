# %% [markdown]
# # The subspace in which a prefix biases
#
# A prefix of $n_s$ slots adds to each head a bias of rank at most $n_s$. Which subspace is that, do
# two tasks share it, does the skill need it, and do longer prefixes use all their directions?

# %%
# %matplotlib inline
import numpy as np
import pandas as pd

import prefix_interp as pi
from analyses.long_prefixes import STUDY as LONG_PREFIXES
from analyses.study import committed_result
from analyses.subspaces import STUDY as SUBSPACES
from prefix_interp.theory.projection import projection_hooks, random_subspace_like

model = pi.load_toy("four-skills-1l4h")
found = pi.load_prefixes("four-skills-1l4h")
skills = ["sort_ascending", "sort_descending", "add_one", "add_two"]
batches = {t: pi.get_task(t).sample(200) for t in skills}

# %% [markdown]
# ## Rank
#
# Per head at most $n_s$, per layer at most $n_s$ times heads. It is measured from
# $z_{pt} - (1-g)\,t$, not computed from the prefix's values.

# %%
spaces = {
    task: [pi.bias_subspace(model, found[task], batches[task].tokens, head=h) for h in range(4)]
    for task in skills
}
for task in skills:
    layer = pi.bias_subspace(model, found[task], batches[task].tokens)
    print(
        f"{task:16s} heads {[s.rank for s in spaces[task]]}, layer {layer.rank} of {layer.bound}, "
        f"effective {layer.effective_rank:.2f}"
    )

# %% [markdown]
# ## Angles between tasks
#
# Two random lines in 64 dimensions are nearly at right angles.

# %%
rows = [
    {"a": a, "b": b, "head": h,
     "degrees": float(np.degrees(spaces[a][h].principal_angles(spaces[b][h])[0]))}
    for i, a in enumerate(skills) for b in skills[i + 1 :] for h in range(4)
]  # fmt: skip
print(pd.DataFrame(rows).pivot_table(index=["a", "b"], columns="head", values="degrees").round(0))

# %% [markdown]
# ## Does the skill need it?
#
# Remove the bias's direction from every head and, as a control, a random direction instead.


# %%
def exact_match(task, removed):
    """Return the share of right sequences with the prefix and `removed` taken out."""
    batch = batches[task]
    with pi.attach(model, found[task]):
        hooks = projection_hooks(model, removed) if removed else []
        logits = model.run_with_hooks(batch.tokens, fwd_hooks=hooks)
    right = logits[:, -batch.answers.shape[1] :].argmax(-1) == batch.answers
    return right.all(-1).float().mean().item()


for task in skills:
    chance = [random_subspace_like(space, seed=h) for h, space in enumerate(spaces[task])]
    print(
        f"{task:16s} intact {exact_match(task, []):.2f}, bias direction out "
        f"{exact_match(task, spaces[task]):.2f}, random direction out "
        f"{exact_match(task, chance):.2f}"
    )

# %% [markdown]
# The same over all seeds, with more controls, from the committed result. For your own toy with its
# saved prefixes, `analyses.subspaces.measure.toy_subspaces(folder)` measures a result with the same
# tables.

# %%
result = committed_result("subspaces")
figures = SUBSPACES.figures(result)
figures["-removal"]

# %%
figures["-angles"]

# %%
table = [r for r in SUBSPACES.tables(result)["spectrum"] if r["task"] is None]
print(
    pd.json_normalize(table)[
        ["method", "parameterization", "level", "rank.mean", "effective_rank.mean"]
    ]
    .round(2)
    .to_string(index=False)
)

# %% [markdown]
# ## Longer prefixes
#
# The bound grows with the slots; the number of directions in use grows more slowly.

# %%
longer = committed_result("long-prefixes")
LONG_PREFIXES.figures(longer)[""]

# %%
table = [r for r in LONG_PREFIXES.tables(longer)["tuning"] if r["task"] is None]
print(
    pd.json_normalize(table)[["parameterization", "n_slots", "exact_match.mean", "loss.mean"]]
    .round(3)
    .to_string(index=False)
)
