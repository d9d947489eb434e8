"""A made-up Table 1 of three seeds, so that tests depend on no committed numbers."""

from analyses.table1.measure import NEW, OLD
from prefix_interp.results import Result


def made_up_table1(learned: float = 0.0, preset: str = "fast") -> Result:
    """Return a table in which kv prefixes with 10 slots reach `learned` exact match."""
    records = []
    for seed in range(3):
        records += _rows(seed, "pretrained", {OLD: 0.9 + seed / 50, NEW: 0.0})
        records += _rows(seed, "fine-tuned", {OLD: 0.0, NEW: 0.85})
        for kind, n, top in (("residual", 1, 0.0), ("kv", 10, learned)):
            for lr, exact in ((0.01, 0.0), (0.1, top)):
                variant = {"parameterization": kind, "n_slots": n, "lr": lr, "chosen": lr == 0.1}
                records += _rows(seed, "prefix", {OLD: 0.0, NEW: exact}, **variant)
            control = {"parameterization": kind, "n_slots": n}
            records += _rows(seed, "random prefix", {OLD: 0.5, NEW: 0.0}, **control)
    settings = {"protocol": {"n_test": 3200}}
    tables = {"rows": records}
    return Result("table1", preset, [0, 1, 2], settings, tables, timing={"wall_s": 1.0})


def _rows(seed, method, exact, parameterization=None, n_slots=None, lr=None, chosen=True):
    def estimate(x):
        return {"value": x, "low": max(0.0, x - 0.01), "high": x + 0.01}

    return [
        {
            "seed": seed, "method": method, "parameterization": parameterization,
            "n_slots": n_slots, "lr": lr, "chosen": chosen, "task": task,
            "baseline": "prefix" if n_slots else "masked", "train_loss": 1.0,
            "evaluation": {
                "task": task, "n": 3200, "exact_match": estimate(value),
                "token_accuracy": estimate(0.1 + value / 2), "loss": estimate(2.0 - value),
            },
        }
        for task, value in exact.items()
    ]  # fmt: skip
