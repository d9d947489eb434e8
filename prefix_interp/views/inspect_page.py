"""The page of `inspect`: one HTML file that opens anywhere without a network."""

from __future__ import annotations

import matplotlib
from markupsafe import Markup

from prefix_interp.inspection.look import Inspection
from prefix_interp.views.explorer import explorer_script, explorer_style
from prefix_interp.views.inspect_sections import all_sections
from prefix_interp.views.inspect_words import summary_sentences
from prefix_interp.views.page import page_style, page_template
from prefix_interp.words import counted


def render_inspection(found: Inspection, numbers: str = "inspect.json") -> str:
    """Return the page of an inspection.

    Args:
        found: from `inspect`.
        numbers: name of the file that stands beside it.
    """
    about = found.about
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the same pictures for every caller
        sections = all_sections(found)
    slots = counted(about.n_slots, "slot")
    return page_template("inspect.html.j2").render(
        title=f"What a prefix does inside {about.model}",
        lead=f"A prefix of {slots} ({about.parameterization}) in front of "
        f"{counted(about.n_sequences, 'sequence')} ({about.sentences}), in a model of "
        f"{counted(about.n_layers, 'layer')} with {counted(about.n_heads, 'head')} each; "
        f"{counted(about.n_answers, 'answer')} measured.",
        summary=summary_sentences(found),
        sections=sections,
        numbers=numbers,
        style=page_style("inspect.css") + Markup("\n") + explorer_style(),
        script=explorer_script(),
    )
