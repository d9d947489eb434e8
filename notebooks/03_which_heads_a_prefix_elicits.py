# %% [markdown]
# # Which heads does a prefix elicit?
#
# The model has one layer and four heads, and is pretrained on four tasks without a label for the
# task. One tuned vector makes it sort ascending, sort descending, add one or add two. Through which
# heads does the vector act, and by which part of its effect on them?
#
# Takes about 40 seconds on one core.

# %%
# %matplotlib inline
import prefix_interp as pi
from prefix_interp.views.attention import attention_view, plain_attention_view
from prefix_interp.views.elicitation import elicitation_figure, patch_figure
from prefix_interp.views.heads import heads_figure, layer_outputs, outputs_figure

model = pi.load_toy("four-skills-1l4h")
found = pi.load_prefixes("four-skills-1l4h")
skills = ["sort_ascending", "sort_descending", "add_one", "add_two"]
prefixes = {task: found[task] for task in skills}
for task, prefix in prefixes.items():
    scores = [pi.evaluate(model, t, prefix, n=400).exact_match.value for t in skills]
    print(f"{task:16s}", "  ".join(f"{s:.3f}" for s in scores))
print(
    "no prefix       ", "  ".join(f"{pi.evaluate(model, t, n=400).exact_match:.3f}" for t in skills)
)

# %% [markdown]
# ## What it looks like
#
# Every head under every prefix, on one input. The orange column is the gate: the attention that the
# prefix takes. The blue part is the content, renormalised. Over the inputs (the first ten rows) it
# is the same in every row of the picture, as equation 6 says. Over the outputs it differs, since
# the answers that are fed back differ.

# %%
length = pi.get_task("sort_ascending").length
inputs = pi.get_task("sort_ascending").sample(50).tokens[:, :length]
batches = {t: pi.get_task(t).batch(inputs, inputs[:, 0] * 0) for t in skills}
pairs = {t: pi.run_pair(model, prefixes[t], batches[t].tokens) for t in skills}
views = [plain_attention_view(model, pairs["sort_ascending"].tokens, 0, "no prefix")]
views += [attention_view(pair, 0, task) for task, pair in pairs.items()]
heads_figure(views, max_value=0.5)

# %% [markdown]
# What the layer writes at the last input position, without a prefix (crosses) and with each.

# %%
outputs_figure(layer_outputs(pairs, pos=length - 1))

# %% [markdown]
# ## What each head does
#
# *Denoise*: one head's prefixed output in the run without prefix. *Noise*: one head's plain output
# in the prefixed run. The effect on the log-probability of the right answer is split into **gate**
# (the head's own output scaled by 1 - g) and **bias** (what the prefix adds); the parts are Shapley
# values and add up to the total. Norm-matched random prefixes are the control: a head is *elicited*
# if its effect lies outside all of theirs.

# %%
frames = {
    task: pi.head_elicitation(
        model, prefix, task, direction="noise", n_random=19, n=32, progress=False
    ).to_dataframe()
    for task, prefix in prefixes.items()
}
columns = ["layer", "head", "effect", "low", "high", "gate", "bias", "control", "elicited"]
print(frames["add_one"][columns].round(3).to_string(index=False))
elicitation_figure(frames)

# %% [markdown]
# ## Where
#
# The same effect by position: nearly all of it is where the first outputs are predicted.

# %%
grids = {
    task: pi.patch_heads(model, prefix, task, by_position=True, n=16, progress=False)
    for task, prefix in prefixes.items()
}
patch_figure(grids)

# %% [markdown]
# ## The intervention that only prefixes allow
#
# A prefix can be kept at some heads and dropped at others, exactly, by gating its attention mass. A
# `contrast` holds the runs with and without the prefix. Passed in place of the task, it lets
# several questions share one set of runs.

# %%
task = "add_one"
runs = pi.contrast(model, prefixes[task], task, n=16)
dropped = pi.patch_slots(
    model, prefixes[task], runs, direction="noise", axes=("layer", "head"),
    metrics=("log_prob", "exact_match"), progress=False,
)  # fmt: skip
print(dropped.to_dataframe().round(3).to_string(index=False))

# %% [markdown]
# Gradients estimate all of this at once; `compare_with` says how well they rank the heads. A result
# at the end of a cell is displayed.

# %%
estimate = pi.attribution_patch(model, prefixes[task], runs, by_position=True)
print(estimate.compare_with(grids[task]))
shares = pi.integrated_gradients(model, prefixes[task], runs, over="gates", progress=False)
print(f"completeness: the shares add up to the whole within {shares.completeness:.1e} nats")
shares
