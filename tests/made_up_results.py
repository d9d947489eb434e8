"""One small result of every class, made by the function that makes it."""

import torch

import prefix_interp as pi
from prefix_interp.prefixes.check import check_context
from prefix_interp.prefixes.soft_prompt import SoftPrompt
from prefix_interp.theory.capacity import search_soft_tokens
from prefix_interp.theory.depth import attention_drift, expand_attention_logits
from prefix_interp.theory.interaction import interaction
from prefix_interp.theory.reach_construction import prefix_from_table
from prefix_interp.theory.reach_distance import reach_distance
from prefix_interp.theory.reach_tables import outputs_without_prefix
from prefix_interp.tuning.contexts import tune_soft_prompt
from prefix_interp.tuning.edits import tune_edit
from prefix_interp.tuning.hard_prompts import search_hard_prompt
from prefix_interp.tuning.lora import tune_lora
from prefix_interp.tuning.recipes import Recipe
from tests.helpers import randomise


def _reached():
    """What no prefix reaches, on a toy with one layer."""
    toy = pi.load_toy("sort-ascending-1l1h")
    task, tokens = "sort_descending", pi.get_task("sort_descending").sample(4).tokens
    tuned = pi.load_toy("sort-descending-1l1h-fine-tuned")
    base, goal = (outputs_without_prefix(model, tokens) for model in (toy, tuned))
    bound = pi.any_length_bound(toy, task, preset="smoke", n=64, n_select=64, progress=False)
    return [
        bound, prefix_from_table(toy, bound), pi.unreachable(toy, tokens, goal),
        reach_distance(base[0, :, 0], goal[0, :, 0], n_slots=(1, 2)),
    ]  # fmt: skip


def made_up_results():
    """Return results by the name of their class."""
    cfg = pi.ToyConfig(n_layers=2, n_heads=2, d_model=8)
    short = Recipe(steps=3, lr=1e-2, batch_size=4, precision="float32")
    fit = pi.pretrain(cfg, "add_one", recipe=short, progress=False)
    randomise(fit.model)  # after three steps a prefix would change hardly anything
    prefix = pi.Prefix.random(fit.model, 2, seed=1)
    runs = pi.contrast(fit.model, prefix, "add_one", n=4)
    case = fit.model, prefix, runs
    quiet = {"progress": False}
    found = [
        fit,
        fit.evaluation,
        pi.decompose_attention(runs.runs),
        pi.bias_subspace(fit.model, prefix, runs.tokens, layer=1, head=0),
        pi.patch_heads(*case, **quiet),
        pi.integrated_gradients(*case, tolerance=0.5, **quiet),
        pi.head_elicitation(*case, n_random=2, controls={"other": prefix}, **quiet),
        pi.find_circuit(*case, n_random=2, **quiet),
        tune_soft_prompt(fit.model, "add_one", 2, recipe=short, **quiet),
        search_hard_prompt(fit.model, "add_one", n=4),
        check_context(fit.model, prefix, runs.tokens),
        tune_lora(fit.model, "add_one", recipe=short, **quiet),
        tune_edit(fit.model, "add_one", "offset", recipe=short, **quiet),
        search_soft_tokens(fit.model, torch.tensor([[1, 2], [3, 4], [5, 6]]), steps=2, **quiet),
        expand_attention_logits(runs.runs, layer=1),
        attention_drift(runs.runs),
        interaction(fit.model, runs.batch, prefix, positions=[0, 1, 2], **quiet),
    ]
    assert isinstance(found[8].context, SoftPrompt)
    found += _reached()
    return {type(x).__name__: x for x in found}
