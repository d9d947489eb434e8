"""Time this checkout against another one, in processes that take turns.

git worktree add ../before COMMIT
python benchmarks/two_versions.py ../before

One line per kind of work: the median of the ratios of neighbouring rounds (below 1: this checkout
is faster), and between which values the middle half of them lies.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent.parent


def work() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name; both versions must have the functions it calls."""
    import torch

    import prefix_interp as pi

    model = pi.load_toy("four-skills-1l4h")
    prefix = pi.load_prefixes("four-skills-1l4h")["add_one"]
    deep = pi.build_toy(pi.ToyConfig(n_layers=4, n_heads=4, d_model=256, n_prefix=10))
    long = pi.Prefix.random(deep, 10)
    task = pi.get_task("sort_descending")
    few, many = (task.sample(n, split="test").tokens for n in (16, 512))
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=40)

    def attached(model: object, prefix: object, tokens: object, runs: int) -> None:
        with torch.no_grad(), pi.attach(model, prefix):
            for _ in range(runs):
                model(tokens)

    return {
        "attach and one run, 1 layer, 16 sequences": lambda: attached(model, prefix, few, 1),
        "attach and one run, 4 layers, 512 sequences": lambda: attached(deep, long, many, 1),
        "20 runs in one block, 4 layers, 16 sequences": lambda: attached(deep, long, few, 20),
        "evaluate, 3,200 sequences": lambda: pi.evaluate(model, task, prefix),
        "evaluate without a prefix": lambda: pi.evaluate(model, task),
        "tune, 40 steps": lambda: pi.tune_prefix(model, task, recipe=recipe, progress=False),
    }


def serve() -> None:
    """Time one round of everything for each line that comes in."""
    todo = work()
    for each in todo.values():
        each()
    for _ in sys.stdin:
        seconds = {}
        for name, function in todo.items():
            began = time.perf_counter()
            function()
            seconds[name] = time.perf_counter() - began
        print(json.dumps(seconds), flush=True)


def start(checkout: Path) -> subprocess.Popen[str]:
    """Return a process that times the code of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, __file__, "--serve"], cwd=checkout, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def one_round(process: subprocess.Popen[str]) -> dict[str, float]:
    """Return the seconds of one round."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, nargs="?", help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    if arguments.before is None:
        parser.error("name the other checkout")
    before, now = start(arguments.before.resolve()), start(HERE)
    ratios: dict[str, list[float]] = {}
    for i in range(arguments.rounds):
        pair = (before, now) if i % 2 else (now, before)  # neither always goes first
        seconds = {process: one_round(process) for process in pair}
        for name, after in seconds[now].items():
            ratios.setdefault(name, []).append(after / seconds[before][name])
    for name, found in ratios.items():
        found.sort()
        low, middle, high = (found[len(found) * part // 4] for part in (1, 2, 3))
        print(f"{name:46s} {middle:.3f} ({low:.3f} to {high:.3f})")
    for process in (before, now):
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
