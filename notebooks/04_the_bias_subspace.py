# %% [markdown]
# # The subspace in which a prefix biases
#
# A prefix of $n_s$ slots adds to each head a bias of rank at most $n_s$. Which subspace is that, do
# two tasks share it, does the skill live there, and do longer prefixes use all of what they may?

# %%
# %matplotlib inline
import numpy as np
import pandas as pd
from prefix_interp.experiments.subspace_summary import long_prefix_rows, subspace_rows
from prefix_interp.views.subspaces import angles_figure, removal_figure, slots_figure

import prefix_interp as pi
from prefix_interp.results import committed_result
from prefix_interp.theory.projection import projection_hooks, random_subspace_like

model = pi.load_toy("four-skills-1l4h")
found = pi.load_prefixes("four-skills-1l4h")
skills = ["sort_ascending", "sort_descending", "add_one", "add_two"]
batches = {t: pi.get_task(t).sample(200) for t in skills}

# %% [markdown]
# ## Rank
#
# Per head at most $n_s$, per layer at most $n_s$ times heads. It is measured from
# $z_{pt} - (1-g)\,t$, not put together from the prefix's values.

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
# Two lines in 64 dimensions are nearly at right angles by chance.

# %%
rows = [
    {"a": a, "b": b, "head": h,
     "degrees": float(np.degrees(spaces[a][h].principal_angles(spaces[b][h])[0]))}
    for i, a in enumerate(skills) for b in skills[i + 1 :] for h in range(4)
]  # fmt: skip
print(pd.DataFrame(rows).pivot_table(index=["a", "b"], columns="head", values="degrees").round(0))

# %% [markdown]
# ## Does the skill live there?
#
# Take the bias's direction out of every head, and a random direction in its place.


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
# The same over all seeds, with more controls, from the shipped result.

# %%
result = committed_result("subspaces", "fast")
removal_figure(result)

# %%
angles_figure(result)

# %%
table = [r for r in subspace_rows(result) if r["part"] == "spectrum" and r["task"] is None]
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
# The bound grows with the slots. What is used does not keep up.

# %%
longer = committed_result("long-prefixes", "fast")
slots_figure(longer)

# %%
table = [r for r in long_prefix_rows(longer) if r["part"] == "tuning" and r["task"] is None]
print(
    pd.json_normalize(table)[["parameterization", "n_slots", "exact_match.mean", "loss.mean"]]
    .round(3)
    .to_string(index=False)
)
