# %% [markdown]
# # From heads to a circuit, and to a report
#
# This notebook finds the smallest set of heads, MLPs and prefix slots that keeps a prefix's effect,
# measures how good it is, saves it to a file, and writes a page about the prefix that can be sent.
#
# Takes about 20 seconds on one core.

# %%
# %matplotlib inline
import base64
import html
import re
import tempfile
from pathlib import Path

from IPython.display import SVG

import prefix_interp as pi

model = pi.load_toy("four-skills-1l4h")
prefix = pi.load_prefixes("four-skills-1l4h")["sort_descending"]

# %% [markdown]
# ## Search
#
# A head or MLP outside the circuit keeps the output it has without the prefix; a slot outside it
# loses its attention mass. With six nodes every set can be tried.

# %%
circuit = pi.find_circuit(model, prefix, "sort_descending", n=32, progress=False)
print(circuit.caption())
print(circuit.to_dataframe().round(3).to_string(index=False))

# %%
folder = Path(tempfile.mkdtemp())
SVG(filename=circuit.savefig(folder / "circuit.svg"))

# %% [markdown]
# ## How good is it?
#
# *Faithfulness*: how much of the prefix's effect the circuit keeps. *Completeness*: how much is
# lost without it. Random circuits have as many nodes of each kind. The search picks what looks best
# on its examples, so it is measured again on others.

# %%
fresh = pi.contrast(model, prefix, "sort_descending", n=128, seed=1)
print("faithfulness, searched:", circuit.faithfulness(), " held out:", circuit.faithfulness(fresh))
circuit.plot()

# %% [markdown]
# ## Keep it
#
# Save it as JSON, which loads as the same circuit, or as Graphviz text.

# %%
path = circuit.save(folder / "circuit.json")
again = type(circuit).load(path)
print([node.name for node in again.nodes], path.stat().st_size, "bytes")
print(circuit.to_dot().splitlines()[0])

# %% [markdown]
# ## A report on this prefix
#
# Every result has a caption, a picture and a table: that is all that a page needs. The picture goes
# into the page, so that it is one file and asks no network.

# %%
batch = pi.get_task("sort_descending").sample(64, seed=0)
results = {
    "Gate, base and bias; the picture shows head 0": pi.decompose_attention(
        pi.run_pair(model, prefix, batch.tokens)
    ),
    "Which heads it elicits": pi.head_elicitation(
        model, prefix, "sort_descending", n_random=19, n=32, progress=False
    ),
    "The circuit": circuit,
}


def section(title, result):
    picture = result.savefig(folder / "picture.svg").read_bytes()
    source = f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
    caption = html.escape(result.caption())
    table = result.to_dataframe().round(3).to_html(index=False, border=0)
    return (
        f'<h2>{title}</h2><p>{caption}</p><img src="{source}" alt="{caption}">'
        f"<details><summary>Numbers</summary>{table}</details>"
    )


score = html.escape(str(pi.evaluate(model, "sort_descending", prefix)))
head = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>sort descending</title>'
    "<style>body { font-family: sans-serif; max-width: 60rem; margin: auto; padding: 2rem } "
    "img { max-width: 100% } td, th { padding: 0 .5rem; text-align: right }</style>"
    f"<h1>A prefix that sorts descending</h1><p>{score}</p>"
)
report = folder / "report.html"
report.write_text(head + "".join(map(section, results, results.values())), encoding="utf-8")
asked = re.findall(r'(?:src|href)="(?!data:)', report.read_text(encoding="utf-8"))
print(f"{report.name}: {report.stat().st_size:,} bytes, {len(asked)} links to other files")

# %% [markdown]
# In a checkout of the repository `make report` writes a page about all that was measured in the
# paper's models. `prefix-interp inspect` writes a longer page about one prefix.
