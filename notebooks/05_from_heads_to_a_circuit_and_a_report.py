# %% [markdown]
# # From heads to a circuit, and to a report
#
# This notebook finds the smallest set of heads, MLPs and prefix slots that keeps a prefix's effect,
# measures how good it is, and saves it to a file.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

from IPython.display import SVG

import prefix_interp as pi
from prefix_interp.views.circuit_graph import circuit_curves_figure, circuit_svg

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
SVG(circuit_svg(circuit))

# %% [markdown]
# ## How good is it?
#
# *Faithfulness*: how much of the prefix's effect the circuit keeps. *Completeness*: how much is
# lost without it. Random circuits have as many nodes of each kind. The search picks what looks best
# on its examples, so it is measured again on others.

# %%
fresh = pi.contrast(model, prefix, "sort_descending", n=128, seed=1)
print("faithfulness, searched:", circuit.faithfulness(), " held out:", circuit.faithfulness(fresh))
circuit_curves_figure(circuit)

# %% [markdown]
# ## Keep it
#
# Save it as JSON (which loads as the same circuit), as Graphviz text, and in the report.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = circuit.save(Path(folder) / "circuit.json")
    again = pi.Circuit.load(path)
    print([node.name for node in again.nodes], path.stat().st_size, "bytes")
print(circuit.to_dot().splitlines()[0])

# %% [markdown]
# `python -m analyses report --out report` writes every figure and number, including the circuits of
# all four prefixes, into one HTML file that needs no network.
