"""Claim: the effect of a prefix goes through a small part of the model.

For every prefix of the shipped four-skill model, the smallest set of heads, MLPs and slots that
keeps its effect: JSON, a Graphviz file and an SVG each, and the curves against random circuits.

    python analyses/circuits.py --out circuits
    python analyses/circuits.py --n 16 --threshold 0.9 --out /somewhere
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import prefix_interp as pi
from prefix_interp.experiments.skills import load_skills
from prefix_interp.storage import write_file
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.circuit_graph import circuit_curves_figure, circuit_svg


def main(argv: Sequence[str] | None = None) -> dict[str, pi.Circuit]:
    """Find, print, save and return the circuit of every prefix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--out", type=Path, default=Path("circuits"))
    arguments = parser.parse_args(argv)

    skills = load_skills()
    found = {}
    for task in FOUR_SKILLS:
        prefix = skills.prefixes[task]
        circuit = pi.find_circuit(
            skills.model, prefix, task, threshold=arguments.threshold, n=arguments.n
        )
        fresh = pi.contrast(skills.model, prefix, task, n=arguments.n, seed=1)
        names = ", ".join(node.name for node in circuit.nodes)
        print(f"{task}: {names}")
        print(f"  faithfulness {circuit.faithfulness()}, held out {circuit.faithfulness(fresh)}")
        stem = arguments.out / task
        circuit.save(stem.with_suffix(".json"))
        write_file(stem.with_suffix(".dot"), circuit.to_dot().encode())
        write_file(stem.with_suffix(".svg"), circuit_svg(circuit).encode())
        circuit_curves_figure(circuit).savefig(stem.with_suffix(".png"), dpi=150)
        found[task] = circuit
    return found


if __name__ == "__main__":
    main()
