"""What is compared, and how long and at which rates each side is tuned."""

from __future__ import annotations

from dataclasses import dataclass

TASK = "double_histogram"
PAPER_SIZE = 12_288  # of the paper's prefix and of its LoRA
PAPER = {"LoRA": 92.4, "prefix": 0.3}  # percent, 4 layers, one run each
NONE, BLIND = "nothing", "blind rule"  # the model alone; the best rule that sees no content


@dataclass(frozen=True)
class Trial:
    """How one side is tuned: at every rate for every number of steps.

    The lowest training loss counts, and all are counted.
    """

    steps: tuple[int, ...]
    lrs: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        n_parameters: what each method may have; the largest size that is not above it is taken.
        contexts: prefixes and soft prompts.
        weights: LoRA.
        edits: head offsets and low-rank updates of the residual stream.
        full: full fine-tuning, for comparison; it has as many parameters as the model.
        init_std: standard deviation of the start of contexts; Table 2's.
    """

    n_parameters: tuple[int, ...] = (3_072, PAPER_SIZE)
    contexts: Trial = Trial((500, 2000), (1e-2, 3e-2, 1e-1))
    weights: Trial = Trial((500, 2000), (1e-3, 5e-3, 2e-2))
    edits: Trial = Trial((500, 2000), (3e-3, 1e-2, 3e-2))
    full: Trial = Trial((2000,), (3e-4, 1e-3))
    init_std: float = 0.1


PROTOCOLS = {
    # 1.2 hours for one seed on one core: a step takes 20 to 40 ms (batches of 32; contexts at three
    # rates side by side three times that), so 23 minutes for contexts, 21 for LoRA, 15 for edits,
    # 2 for full fine-tuning, and 9 for evaluations of 2 to 10 s each. As measured by 20 steps of
    # each on a busy core. Five seeds on two cores: 3 hours.
    "fast": Protocol(),
    # The paper's steps and rates, with rates around them for both sides.
    "paper": Protocol(
        (PAPER_SIZE,), Trial((100_000,), (5e-5, 5e-4, 5e-3, 5e-2)),
        Trial((10_000,), (5e-5, 5e-4, 5e-3, 5e-2)), Trial((10_000,), (5e-4, 5e-3, 5e-2)),
        Trial((10_000,), (5e-4,)), init_std=1.0,
    ),
    "smoke": Protocol(
        (512, 3_072), Trial((1,), (1e-2, 3e-2)), Trial((1, 2), (5e-3,)), Trial((1,), (1e-2,)),
        Trial((1,), (1e-3,)),
    ),
}  # fmt: skip
