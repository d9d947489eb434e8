"""Draw the README's picture: `make readme`. What a prefix leaves as it is, and what it changes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import prefix_interp as pi
from prefix_interp.views.attention import attention_view, plain_attention_view, query_figure
from prefix_interp.views.style import variant_label

PICTURE = Path(__file__).parent / "pictures" / "attention.png"


def draw() -> Figure:
    """Return the attention of the last input position, before and after tuning, on one input."""
    pretrained = pi.load_toy("sort-ascending-1l1h")
    fine_tuned = pi.load_toy("sort-descending-1l1h-fine-tuned")
    task = pi.get_task("sort_descending")
    tokens = task.sample(3, split="test", seed=1).tokens
    views = [
        plain_attention_view(pretrained, tokens, 0, "pretrained"),
        plain_attention_view(fine_tuned, tokens, 0, "fine-tuned"),
    ]
    prefixes = pi.load_prefixes("sort-ascending-1l1h").values()
    for prefix in sorted(prefixes, key=lambda p: (p.parameterization == "kv", p.n_slots)):
        pair = pi.run_pair(pretrained, prefix, tokens)
        views.append(
            attention_view(pair, 0, variant_label(prefix.parameterization, prefix.n_slots))
        )
    return query_figure([views], query=task.length - 1)
