# %% [markdown]
# # The subspace in which a prefix biases
#
# A prefix of $n_s$ slots adds to each head a bias of rank at most $n_s$. Which subspace is that, do
# two tasks share it, does the skill need it, and do longer prefixes use all their directions?
#
# Takes about 20 seconds on one core.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import prefix_interp as pi
from prefix_interp.results import Result
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
     "degrees": spaces[a][h].principal_angles(spaces[b][h])[0].rad2deg().item()}
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
# The same over ten models, each with prefixes of its own, from the result that the study left in
# `results/`. Bars are means over models, lines go from the lowest to the highest. Random directions
# are drawn 20 times for each.

# %%
result = Result.load("../results/subspaces-fast.json.gz")
removal = result.to_dataframe("removal").query("run == 'on' and parameterization == 'residual'")
out = removal[(removal.remove == "output") & (removal.level == "head")]
out = pd.concat([removal[removal.space == "none"], out])
score = out.groupby(["space", "task"])["exact_match.value"]
shown = {"none": "intact", "own": "its own", "other": "another task's", "random": "random"}
_, axes = plt.subplots(1, 4, figsize=(11, 3), sharey=True, layout="constrained")
for ax, task in zip(axes, skills, strict=True):
    middle, low, high = (score.agg(end).unstack()[task] for end in ("mean", "min", "max"))
    for space, label in shown.items():
        ends = [[middle[space] - low[space]], [high[space] - middle[space]]]
        ax.bar(label, middle[space], yerr=ends)
    ax.set_title(task.replace("_", " "))
    ax.tick_params(axis="x", rotation=45)
_ = axes[0].set_ylabel("exact match, direction taken out")

# %% [markdown]
# Angles between the directions of two tasks, at each head of each model. The grey band holds 95 %
# of pairs of random lines.

# %%
angles = result.to_dataframe("angle").query("comparison == 'tasks' and level == 'head'")
_, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for (kind,), own in angles.groupby(["parameterization"]):
    ax.hist(np.degrees(own["mean_angle"]), bins=np.arange(0, 91, 3), alpha=0.6, label=kind)
ends = np.degrees(angles[["chance_angle.low", "chance_angle.high"]].mean())
ax.axvspan(*ends, color="grey", alpha=0.3, label="random lines")
ax.set(xlabel="angle (degrees)", ylabel="pairs of tasks")
_ = ax.legend()

# %%
spectrum = result.to_dataframe("spectrum").query("level == 'layer'")
kinds = ["method", "parameterization"]
spectrum.groupby(kinds)[["rank", "bound", "effective_rank"]].mean().round(2)

# %% [markdown]
# ## Longer prefixes
#
# The bound grows with the slots; the number of directions in use grows more slowly.

# %%
longer = Result.load("../results/long-prefixes-fast.json.gz")
bias = longer.to_dataframe("bias").query("level == 'head'")
counts = [1, 2, 4, 8, 16, 32]
_, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, (parameterization, own) in zip(axes, bias.groupby("parameterization"), strict=True):
    for method, rows in own.groupby("method"):
        ax.plot(rows.groupby("n_slots")["effective_rank"].mean(), marker="o", label=method)
    ax.plot(own.groupby("n_slots")["bound"].mean(), "k--", label="bound")
    ax.set(title=parameterization, xlabel="slots", xscale="log", yscale="log")
    ax.set_xticks(counts, counts)
    ax.set_yticks(counts, counts)
axes[0].set_ylabel("effective rank of a head's bias")
_ = axes[0].legend()

# %%
tuned = longer.to_dataframe("tuning").rename(columns=lambda name: name.removeprefix("evaluation."))
by_slots = tuned.groupby(["parameterization", "n_slots"])
by_slots[["exact_match.value", "loss.value"]].mean().round(3)
