"""Measure this package against named peers.

    python -m benchmarks                    # everything: bench/bench.json and bench/bench.png
    python -m benchmarks against_peft seeds # some of it

Medians and the middle half of the rounds, one thread unless a name says more. Run it on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks import attribution, costs, tuning
from benchmarks.compare import Ratio
from benchmarks.costs import Cost
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.results import package_versions
from prefix_interp.storage import write_json

ALL = {each.__name__: each for each in (*tuning.ALL, *attribution.ALL, *costs.ALL)}


def ratios_figure(ratios: Sequence[Ratio]) -> Figure:
    """Return how many times as fast as each peer the package is, with the middle half of rounds."""
    figure = Figure(figsize=(9, 1 + 0.32 * len(ratios)), layout="constrained")
    ax = figure.subplots()
    for i, each in enumerate(ratios):
        ax.plot([each.low, each.high], [i, i], color="C0", linewidth=4, alpha=0.4)
        ax.plot(each.ratio, i, "o", color="C0")
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_yticks(range(len(ratios)), [f"{each.work}\nagainst {each.peer}" for each in ratios])
    ax.tick_params(axis="y", labelsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("times as fast as the peer (right of the line: faster)")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(ALL)}")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder (bench)")
    arguments = parser.parse_args(argv)
    try:
        for name in arguments.names:
            check_choice("name", name, ALL)
    except PrefixInterpError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    ratios: list[Ratio] = []
    found: list[Cost] = []
    for name in arguments.names or ALL:
        for each in ALL[name]():
            print(each, flush=True)
            ratios.append(each) if isinstance(each, Ratio) else found.append(each)
    about = {
        "machine": platform.machine(), "processor": torch.cpu.get_capabilities()["cpu_name"],
        "cores": torch.cpu.get_capabilities()["num_logical_cores"], **package_versions(),
    }  # fmt: skip
    record = {"about": about, "ratios": [asdict(r) for r in ratios],
              "costs": [asdict(c) for c in found]}  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(write_json(arguments.out / "bench.json", json.loads(json.dumps(record))))
    if ratios:
        ratios_figure(ratios).savefig(arguments.out / "bench.png", dpi=150)
        print(arguments.out / "bench.png")


if __name__ == "__main__":
    main()
