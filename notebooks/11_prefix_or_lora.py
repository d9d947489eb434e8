# %% [markdown]
# # Prefix or LoRA
#
# Two ways to tune a frozen model with a few thousand numbers. A prefix writes keys and values in
# front of the content; LoRA adds low-rank matrices to the weights. With as many numbers each, one
# calls up what is there, the other can also teach something new.
#
# Takes about 155 seconds on one core.

# %%
# %matplotlib inline
import pandas as pd
import torch

import prefix_interp as pi

torch.set_num_threads(1)
model = pi.load_toy("four-skills-1l4h")  # one layer, four heads: sorts both ways, adds 1 and 2

# %% [markdown]
# ## As many numbers each
#
# Twelve slots of free keys and values are 2 x 12 x 256 numbers. So are LoRA matrices of rank 2 on
# the three that the paper's code adapts: both of the MLP, and the heads' outputs. The counts below
# come from the tensors.

# %%
tasks = {"add_two": ("a skill of the model", 300), "double_histogram": ("new to it", 1200)}
rates = (0.01, 0.03, 0.1)
rows, kept = [], {}
for task, (what, steps) in tasks.items():
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=steps)
    starts = pi.Prefix.random_starts(model, 12, 1, parameterization="kv")
    fits = pi.sweep(model, task, starts, rates, recipe=recipe, progress=False)
    prefix = min(fits, key=lambda fit: fit.train_loss)
    loras = [
        pi.tune_lora(
            model, task, 2, ("mlp_in", "mlp_out", "o"), progress=False,
            recipe=pi.Recipe.from_preset("fast", "prefix", steps=steps, lr=lr),
        )
        for lr in rates
    ]  # fmt: skip
    lora = min(loras, key=lambda fit: fit.train_loss)
    kept[task] = prefix, lora
    for name, fit, n in (
        ("prefix", prefix, prefix.prefix.n_parameters), ("LoRA", lora, lora.n_parameters)
    ):  # fmt: skip
        rows.append({
            "task": task, "which is": what, "by": name, "numbers": n, "rate": fit.recipe.lr,
            "sequences right": fit.evaluation.exact_match.value,
            "outputs right": fit.evaluation.token_accuracy.value, "training loss": fit.train_loss,
        })  # fmt: skip
pd.DataFrame(rows).round(3)

# %% [markdown]
# Both do the skill. The histogram (how often does each input occur?) is new: the prefix gets two of
# five outputs and stays there, LoRA gets four of five and is still learning when the steps end. The
# same rates were tried for both, and the lowest training loss decides, not the test.
#
# ## Why
#
# A prefix leaves relative attention alone and adds a bias of rank 12 at most to each head; what
# follows is the pretrained MLP. LoRA changes the MLP itself. The attention of the adapted model is
# that of the model: nothing was added to its queries and keys.

# %%
tokens = pi.get_task("double_histogram").sample(32).tokens
prefix, lora = kept["double_histogram"]
drift = pi.attention_drift(pi.run_pair(model, prefix.prefix, tokens))
print(f"relative attention under the prefix moved by {float(drift.distance.max()):.0e}")
with torch.no_grad():
    _, ours = model.run_with_cache(tokens)
    _, theirs = lora.model.run_with_cache(tokens)
moved = (ours["pattern", 0] - theirs["pattern", 0]).abs().max()
print(f"attention of the model with LoRA moved by {float(moved):.0e}")

# %%
print(pi.bias_subspace(model, prefix.prefix, tokens, layer=0).caption())

# %% [markdown]
# The adapter is part of a copy of the model's weights, so every tool takes it like any model.

# %%
batch = pi.get_task("double_histogram").sample(256)
for name, each in (("the model", model), ("with LoRA", lora.model)):
    print(f"{name}: {pi.evaluate(each, batch).caption()}")
lora.plot()
