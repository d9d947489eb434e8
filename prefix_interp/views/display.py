"""circuitsvis figures that need no network: one bundle per page, and pictures without JS.

circuitsvis's own display contacts a remote host for every figure and repeats its megabyte. Here the
page contains the bundle once. Each figure is a `<div>` with its values as JSON and a static
picture, shown until the interactive one has been drawn.
"""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from markupsafe import Markup

from prefix_interp.errors import PrefixInterpError, check_index
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.views.attention import AttentionView, attention_figure, attention_view
from prefix_interp.views.style import data_uri

SPACER = "│"
# With more cells circuitsvis takes seconds to draw: only the picture is shown.
MAX_CELLS = 16 * 64 * 64

_DRAW = """
(function () {
  if (window.prefixInterp) { return; }
  function settle(box, target, tries) {
    // React swallows errors: only a canvas proves that something was drawn.
    if (target.querySelector("canvas")) {
      box.setAttribute("data-drawn", "yes");
      var picture = box.querySelector("img");
      if (picture) { picture.style.display = "none"; }
    } else if (tries > 0) {
      setTimeout(function () { settle(box, target, tries - 1); }, 50);
    } else {
      box.setAttribute("data-drawn", "failed");
      target.style.display = "none";
    }
  }
  function draw(box) {
    if (!window.CircuitsVis || box.hasAttribute("data-drawn")) { return; }
    box.setAttribute("data-drawn", "pending");
    var target = box.querySelector(".pi-target");
    if (document.getElementById(target.id) !== target) {
      target.id = target.id + "-" + Math.floor(performance.now() * 1000);
    }
    var data = JSON.parse(box.querySelector("script").textContent);
    window.CircuitsVis.render(target.id, window.CircuitsVis[data.component], data.props);
    settle(box, target, 100);
  }
  function drawAll() { document.querySelectorAll(".pi-attention").forEach(draw); }
  function watch() {
    var seen = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
      });
    }, { rootMargin: "400px" });
    document.querySelectorAll(".pi-attention:not([data-watched])").forEach(function (box) {
      box.setAttribute("data-watched", "yes");
      seen.observe(box);
    });
  }
  window.prefixInterp = { watch: watch, drawAll: drawAll };
  window.addEventListener("beforeprint", drawAll);
})();
"""
_WATCH = "<script>if (window.prefixInterp) { window.prefixInterp.watch(); }</script>"


@lru_cache(maxsize=1)
def _bundle() -> str:
    spec = find_spec("circuitsvis")  # its code does not run: only the file next to it is read
    if spec is None or spec.origin is None:
        raise PrefixInterpError("circuitsvis is not installed; pip install circuitsvis")
    path = Path(spec.origin).parent / "dist" / "cdn" / "iife.js"
    if not path.exists():
        raise PrefixInterpError(f"circuitsvis lacks {path.name}; use circuitsvis 1.43 or later")
    text = path.read_text(encoding="utf-8").split("//# sourceMappingURL")[0]
    return text.replace("</script", "<\\/script")


def page_scripts() -> Markup:
    """Return the scripts that a page with attention figures needs once, before `watch_script`."""
    return Markup(f"<script>{_bundle()}\nwindow.CircuitsVis = CircuitsVis;\n{_DRAW}</script>")


def watch_script() -> Markup:
    """Return the script that draws every figure above it as it scrolls into view."""
    return Markup(_WATCH)


def attention_div(
    view: AttentionView, figure_id: str, layer: int = 0, max_value: float = 1.0
) -> Markup:
    """Return one figure as HTML; it is interactive if the page contains `page_scripts`.

    Args:
        view: from `attention_view` or `plain_attention_view`.
        figure_id: unique in the page and the same in every run.
        layer: 0-based.
        max_value: attention shown in full colour.

    Raises:
        PrefixInterpError: no such layer.
    """
    n_layers, n_heads, n_query, n_slots = view.slots.shape
    check_index("layer", layer, n_layers)
    apart = f"{n_slots} prefix column{'' if n_slots == 1 else 's'} set apart on the left, "
    text = (
        f"Attention of {view.name}, layer {layer}, {n_query} queries; "
        f"{apart if n_slots else ''}content renormalised."
    )
    label = html.escape(text, quote=True)
    name = html.escape(figure_id, quote=True)
    source = data_uri(attention_figure(view, layer, max_value=max_value))
    picture = f'<img src="{source}" alt="{label}">'
    side = n_query + n_slots + (1 if n_slots else 0)
    if n_heads * side * side > MAX_CELLS:
        return Markup(f'<div class="pi-static" id="{name}" data-figure="static">{picture}</div>')
    props = _props(view, layer, max_value)
    data = json.dumps(props, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(
        f'<div class="pi-attention" id="{name}" data-figure="attention">{picture}'
        f'<div class="pi-target" id="{name}-target" role="img" aria-label="{label}"></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def _props(view: AttentionView, layer: int, max_value: float) -> dict[str, object]:
    """Return component and props; slots, an empty column and the content form one square."""
    slots, content = view.slots[layer], view.content[layer]
    n_heads, n_query, n_slots = slots.shape
    labels = list(view.tokens)
    if n_slots:
        # circuitsvis mislabels patterns that are not square: slots and spacer get empty rows.
        lead = n_slots + 1
        square = torch.zeros(n_heads, lead + n_query, lead + n_query, dtype=content.dtype)
        square[:, lead:, :n_slots] = slots
        square[:, lead:, lead:] = content
        labels = [*(f"P{i + 1}" for i in range(n_slots)), SPACER, *labels]
    else:
        square = content
    values = [[[round(x, 4) for x in row] for row in head] for head in square.double().tolist()]
    shared = {
        "tokens": labels,
        "minValue": -max_value,
        "maxValue": max_value,
        "maskUpperTri": True,
    }
    if n_heads == 1:
        return {
            "component": "AttentionPattern",
            "props": {"attention": values[0], "showAxisLabels": True, "zoomed": True, **shared},
        }
    names = [f"L{layer}H{i}" for i in range(n_heads)]
    return {
        "component": "AttentionHeads",
        "props": {"attention": values, "attentionHeadNames": names, **shared},
    }


@dataclass(frozen=True, eq=False)
class AttentionDisplay:
    """What a notebook shows: an interactive figure, or a picture if scripts do not run.

    The first figure of a kernel includes the bundle for all figures. Running its cell again
    includes it again, since a figure is identified by its content.
    """

    view: AttentionView
    layer: int = 0
    _carrier: ClassVar[str | None] = None

    @property
    def figure_id(self) -> str:
        """Return a name that depends only on what is shown."""
        digest = hashlib.sha256(f"{self.view.name}\x1f{self.layer}".encode())
        digest.update("\x1f".join(self.view.tokens).encode())
        for tensor in (self.view.slots, self.view.content):
            digest.update(tensor.double().contiguous().numpy().tobytes())
        return f"pi-{digest.hexdigest()[:12]}"

    def _repr_html_(self) -> str:
        name = self.figure_id
        if AttentionDisplay._carrier is None:
            AttentionDisplay._carrier = name
        scripts = page_scripts() if AttentionDisplay._carrier == name else ""
        return str(Markup(scripts) + attention_div(self.view, name, self.layer) + watch_script())


def show_attention(
    shown: RunPair | AttentionView, sequence: int = 0, layer: int = 0, name: str = ""
) -> AttentionDisplay:
    """Return an interactive attention figure for a notebook, with the prefix columns set apart.

    Content columns are renormalised. The slots, an empty column and the content are padded to a
    square, with empty rows for the slots. The figure appears as the last expression of a cell.

    Args:
        shown: a pair from `run_pair`, or a view.
        sequence: index in the pair's batch.
        layer: 0-based.
        name: title of the picture; by default the view's own name.

    Raises:
        PrefixInterpError: no such sequence or layer.
    """
    if isinstance(shown, RunPair):
        shown = attention_view(shown, sequence, name or "with the prefix")
    check_index("layer", layer, len(shown.content))
    return AttentionDisplay(shown, layer)
