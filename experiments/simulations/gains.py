"""How often gains from tuning are found, and how often some that are not there, with and without moderated variances.

python experiments/simulations/gains.py [REPEATS] > results/simulations/gains.md
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from optbench import stats

ALPHA = 0.05
SIZES = ((4, 3), (4, 5), (4, 10), (12, 5), (12, 10))  # optimizers, seeds
SPREADS = {"equal spread": 0.0, "spreads of e^N(0, 0.5)": 0.5}

P = NDArray[np.float64]  # (optimizers,)


def tests(generator: np.random.Generator, k: int, n: int, spread: float, gain: float) -> tuple[P, P]:
    """The p of each optimizer's gain by itself, and as `optbench.stats.gains` has it; the first half gain."""
    sd = np.exp(generator.normal(0, spread, (2, k)))
    shared = generator.normal(0, 2, (n, 1)) + generator.normal(0, 3, k)  # of seeds and of optimizers
    tuned, default = (shared + generator.standard_normal((n, k)) * of_side for of_side in sd)
    tuned[:, : k // 2] += gain
    pairs = stats.differences(pd.concat({"tuned": pd.DataFrame(tuned), "default": pd.DataFrame(default)}, axis=1))
    own = pairs["first"].str[1] == pairs["second"].str[1]
    return stats.holm(scipy.stats.ttest_rel(tuned, default).pvalue), stats.holm(pairs["p"][own])


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    print("# Power and error of gains from tuning\n")
    print(
        "Every optimizer tuned and at its defaults, with its own level; a gain is 2 standard deviations. Alone: paired"
    )
    print("t tests with their own variances; moderated: as `optbench.stats.gains` tests. Both with Holm's correction.")
    print("Power: half of the optimizers gain; the share that is found. Error: none gains; the share of simulations in")
    print(f"which a gain is found. {repeats:,} simulations each, all numbers in %.\n")
    print("| | optimizers, seeds | power alone | moderated | error alone | moderated |")
    print("| :-- | :-- | --: | --: | --: | --: |")
    for name, spread in SPREADS.items():
        for k, n in SIZES:
            generator, found, wrong = np.random.default_rng([k, n]), np.zeros(2), np.zeros(2)
            for _ in range(repeats):
                found += [(p[: k // 2] <= ALPHA).mean() for p in tests(generator, k, n, spread, 2.0)]
                wrong += [(p <= ALPHA).any() for p in tests(generator, k, n, spread, 0.0)]
            shares = [f"{100 * share:.1f}" for pair in (found, wrong) for share in pair / repeats]
            print(f"| {name} | {k}, {n} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
