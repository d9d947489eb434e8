"""The public surface: at most 45 names, each imported when it is first asked for."""

from .attribution.circuit import Circuit as Circuit
from .attribution.circuit_search import find_circuit as find_circuit
from .attribution.contrast import contrast as contrast
from .attribution.elicitation import head_elicitation as head_elicitation
from .attribution.elicited import Elicitation as Elicitation
from .attribution.gradients import attribution_patch as attribution_patch
from .attribution.grid import PatchGrid as PatchGrid
from .attribution.integrated import integrated_gradients as integrated_gradients
from .attribution.pair import Contrast as Contrast
from .attribution.patching import patch_heads as patch_heads
from .attribution.patching import patch_sites as patch_sites
from .attribution.patching import patch_slots as patch_slots
from .errors import PrefixInterpError as PrefixInterpError
from .models.model import to_dtype as to_dtype
from .models.pretrained import load_pretrained as load_pretrained
from .models.sites import Site as Site
from .models.toy import ToyConfig as ToyConfig
from .models.toy import build_toy as build_toy
from .models.zoo import load_toy as load_toy
from .prefixes.attach import attach as attach
from .prefixes.baselines import run_pair as run_pair
from .prefixes.check import check_context as check_context
from .prefixes.generation import generate as generate
from .prefixes.inject import prefix_hooks as prefix_hooks
from .prefixes.prefix import Prefix as Prefix
from .prefixes.prefix import load_prefixes as load_prefixes
from .prefixes.soft_prompt import SoftPrompt as SoftPrompt
from .tasks.batch import Batch as Batch
from .tasks.digits import get_task as get_task
from .tasks.own import task_from_function as task_from_function
from .tasks.own import task_from_tensors as task_from_tensors
from .tasks.task import Task as Task
from .tasks.text import text_task as text_task
from .theory.decompose import decompose_attention as decompose_attention
from .theory.subspace import BiasSubspace as BiasSubspace
from .theory.subspace import bias_subspace as bias_subspace
from .tuning.contexts import ContextFit as ContextFit
from .tuning.contexts import sweep as sweep
from .tuning.contexts import tune_prefix as tune_prefix
from .tuning.contexts import tune_soft_prompt as tune_soft_prompt
from .tuning.evaluate import evaluate as evaluate
from .tuning.recipes import Recipe as Recipe
from .tuning.train import fine_tune as fine_tune
from .tuning.train import pretrain as pretrain

__version__: str
