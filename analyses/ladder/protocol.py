"""What the ladder of contexts compares: skills, tasks, contexts and the sizes of its presets."""

from __future__ import annotations

from dataclasses import dataclass

from prefix_interp.tasks import DigitTask

SKILLS = DigitTask("three_skills", ("sort_ascending", "add_one", "add_two"))
# What each task requires of a toy that has the three skills.
TASKS = {
    "sort_ascending": "known",
    "sort_ascending_add_one": "combined",
    "sort_descending": "new",
    "double_histogram": "new",
}
# Tuned contexts, in the order in which they are shown.
TUNED = ("soft prompt", "prefix, residual", "prefix, kv", "suffix at every layer", "soft suffix")
# A control: the best rule that knows only an output's index and the token before it.
BLIND = "blind rule"
CONTEXTS = (BLIND, "none", "hard prompt", "examples", *TUNED)


@dataclass(frozen=True)
class Protocol:
    """One preset's sizes.

    Attributes:
        depths: layers of the toys.
        d_model: width of the toys, which have four heads each.
        pretrain_steps: steps of the pretraining on the mixture.
        n_slots: numbers of slots of the tuned contexts.
        steps: steps of each tuning.
        long_steps: steps of a second tuning from the same start, for tasks in `long_asks_for` and
            toys of `long_depths`: do contexts fail because the first tuning is too short?
        long_depths: layers of these toys.
        long_asks_for: kinds of tasks, by what they require of the toy.
        lrs: learning rates; each context is tuned at all, and the lowest training loss counts.
        hard_slots: numbers of real tokens of the prompts.
        n_examples: numbers of in-context examples per prompt.
        draws: number of draws of examples.
        n_test: number of test sequences.
    """

    depths: tuple[int, ...] = (1, 2, 4)
    d_model: int = 128
    pretrain_steps: int = 4000
    n_slots: tuple[int, ...] = (10,)
    steps: int = 400
    long_steps: int = 1200
    long_depths: tuple[int, ...] = (1, 2)
    long_asks_for: tuple[str, ...] = ("new",)
    lrs: tuple[float, ...] = (3e-2, 3e-1)
    hard_slots: tuple[int, ...] = (1, 2, 4)
    n_examples: tuple[int, ...] = (1, 4)
    draws: int = 3
    n_test: int = 800


PROTOCOLS = {
    "fast": Protocol(),
    "smoke": Protocol(
        depths=(1, 2), d_model=16, pretrain_steps=5, n_slots=(2,), steps=3, lrs=(1e-2,),
        long_steps=4, long_depths=(2,), hard_slots=(1, 2),
        n_examples=(1,), draws=1, n_test=50,
    ),
}  # fmt: skip


def toy_name(depth: int) -> str:
    """Return the name under which a toy of the ladder is kept.

    Args:
        depth: number of its layers.
    """
    return f"three-skills-{depth}l4h"
