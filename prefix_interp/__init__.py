"""Mechanistic interpretability of context tuning.

The names below are the whole public surface; importing them loads no plotting library.
"""

from importlib.metadata import version as _version

from prefix_interp.attribution.circuit import Circuit as Circuit
from prefix_interp.attribution.circuit_search import find_circuit as find_circuit
from prefix_interp.attribution.contrast import Contrast as Contrast
from prefix_interp.attribution.contrast import contrast as contrast
from prefix_interp.attribution.elicitation import Elicitation as Elicitation
from prefix_interp.attribution.elicitation import head_elicitation as head_elicitation
from prefix_interp.attribution.elicitation import measure_elicitation as measure_elicitation
from prefix_interp.attribution.gradients import agreement as agreement
from prefix_interp.attribution.gradients import attribution_patch as attribution_patch
from prefix_interp.attribution.gradients import integrated_gradients as integrated_gradients
from prefix_interp.attribution.grid import PatchGrid as PatchGrid
from prefix_interp.attribution.patching import patch_heads as patch_heads
from prefix_interp.attribution.patching import patch_sites as patch_sites
from prefix_interp.attribution.patching import patch_slots as patch_slots
from prefix_interp.errors import PrefixInterpError as PrefixInterpError
from prefix_interp.models.model import to_dtype as to_dtype
from prefix_interp.models.sites import Site as Site
from prefix_interp.models.toy import ToyConfig as ToyConfig
from prefix_interp.models.toy import build_toy as build_toy
from prefix_interp.models.toy import save_toy as save_toy
from prefix_interp.models.zoo import list_toys as list_toys
from prefix_interp.models.zoo import load_toy as load_toy
from prefix_interp.prefixes.baselines import RunPair as RunPair
from prefix_interp.prefixes.baselines import run_pair as run_pair
from prefix_interp.prefixes.inject import attach as attach
from prefix_interp.prefixes.inject import prefix_cache as prefix_cache
from prefix_interp.prefixes.inject import prefix_hooks as prefix_hooks
from prefix_interp.prefixes.prefix import Prefix as Prefix
from prefix_interp.prefixes.prefix import load_prefixes as load_prefixes
from prefix_interp.prefixes.soft_inject import attach_soft as attach_soft
from prefix_interp.prefixes.soft_inject import soft_hooks as soft_hooks
from prefix_interp.prefixes.soft_prompt import SoftPrompt as SoftPrompt
from prefix_interp.results import Result as Result
from prefix_interp.tasks import Batch as Batch
from prefix_interp.tasks import Task as Task
from prefix_interp.tasks import get_task as get_task
from prefix_interp.tasks import list_tasks as list_tasks
from prefix_interp.theory.decompose import Decomposition as Decomposition
from prefix_interp.theory.decompose import decompose_attention as decompose_attention
from prefix_interp.theory.subspace import BiasSubspace as BiasSubspace
from prefix_interp.theory.subspace import bias_subspace as bias_subspace
from prefix_interp.tuning.evaluate import Evaluation as Evaluation
from prefix_interp.tuning.evaluate import evaluate as evaluate
from prefix_interp.tuning.evaluate import greedy_answers as greedy_answers
from prefix_interp.tuning.prefixes import sweep_prefixes as sweep_prefixes
from prefix_interp.tuning.prefixes import tune_prefix as tune_prefix
from prefix_interp.tuning.soft_prompts import sweep_soft_prompts as sweep_soft_prompts
from prefix_interp.tuning.soft_prompts import tune_soft_prompt as tune_soft_prompt
from prefix_interp.tuning.train import fine_tune as fine_tune
from prefix_interp.tuning.train import pretrain as pretrain

__version__ = _version("prefix-interp")
