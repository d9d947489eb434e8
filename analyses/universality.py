"""Claim (Petrov et al. 2024): one fixed head and a long prefix fit any function on a sphere.

A head whose weights are ones and zeros, and prefixes of 4 to 1024 slots that make it approximate
functions on S^1, S^2 and S^4. Error falls with the number of slots; eq. 6, eq. 7 and the bound on
the bias's rank hold all the same. Writes results/universality-PRESET.json and a figure.

    python analyses/universality.py --preset fast --seeds 10      # about 4 minutes on a core
    python analyses/universality.py --preset smoke --seeds 1 --out /somewhere
"""

from __future__ import annotations

from collections.abc import Sequence

from prefix_interp.cli import reproduce
from prefix_interp.results import Result
from prefix_interp.views.universality import universality_figure


def main(argv: Sequence[str] | None = None) -> Result:
    """Fit and measure, print errors, orders and violations, and return the result."""
    result, stem = reproduce("universality", argv, __doc__)
    table = result.to_dataframe()
    table.columns = table.columns.str.removeprefix("rmse.")
    table["n_slots"] = table["n_slots"].astype("Int64")
    functions = ["harmonic", "bumps", "kink", "waves"]
    for part, keys in {"fit": ["dim", "method", "n_slots"], "order": ["dim", "method"]}.items():
        means = table[table["part"] == part].groupby(keys, sort=False)[functions].mean()
        print(f"{part}, rmse", means.map("{:.2g}".format).to_string(), sep="\n", end="\n\n")
    fits = table[(table["part"] == "fit") & (table["n_slots"] > 0)]
    print("largest violations:", fits[["eq6", "eq7"]].max().to_dict())
    print("rank within its bound:", bool((fits["rank"] <= fits["bound"]).all()))
    for dim in sorted(set(fits["dim"])):
        path = stem.with_name(f"{stem.name}-s{dim}.png")
        universality_figure(result, int(dim)).savefig(path, dpi=150)
    return result


if __name__ == "__main__":
    main()
