"""How often the ranking finds true differences, and how often it finds some that are not there, before and after.

python experiments/simulations/power.py [REPEATS] > results/simulations/power.md
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr

from optbench import stats

Scores = NDArray[np.float64]  # (seeds, groups)
ALPHA = 0.05


def before(scores: Scores) -> NDArray[np.float64]:
    """The adjusted p of all pairs with their own variances; a lost seed is NaN, and missing."""
    i, j = np.triu_indices(scores.shape[1], k=1)
    d = scores[:, i] - scores[:, j]
    n = np.isfinite(d).sum(axis=0)
    with np.errstate(all="ignore"):
        mean = np.nansum(d, axis=0) / n
        variance = np.nansum((d - mean) ** 2, axis=0) / (n - 1)
        sd = np.sqrt(np.maximum(variance, 2 * stats.resolution(scores) ** 2 / 12))
        p = 2 * stdtr(n - 1.0, -np.abs(mean) / (sd / np.sqrt(n)))
    return stats.holm(np.where(n > 1, p, math.nan))


def after(scores: Scores, lost: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """The adjusted p of all pairs as reports have them."""
    flags = None if lost is None else pd.DataFrame(lost)
    return stats.differences(pd.DataFrame(scores), flags)["p_adjusted"].to_numpy()


def _normal(spread: Callable[[np.random.Generator, int], object]) -> Callable[[np.random.Generator, int, int], Scores]:
    def draw(generator: np.random.Generator, n: int, groups: int) -> Scores:
        noise = generator.standard_normal((n, groups)) * np.asarray(spread(generator, groups))
        return noise + 2 * generator.standard_normal((n, 1))

    return draw


def _skewed(generator: np.random.Generator, n: int, groups: int) -> Scores:
    return generator.exponential(size=(n, groups)) + 2 * generator.standard_normal((n, 1))


def _heavy(generator: np.random.Generator, n: int, groups: int) -> Scores:
    return generator.standard_t(3, size=(n, groups)) + 2 * generator.standard_normal((n, 1))


def _rounded(generator: np.random.Generator, n: int, groups: int) -> Scores:
    """Shares of 300 images, three images of standard deviation."""
    return np.round(280 + 3 * generator.standard_normal((n, groups))) / 300


def _levels(generator: np.random.Generator, n: int, groups: int) -> Scores:
    """Half of the groups fail: they are far below, and vary thirty times as much."""
    scores = equal(generator, n, groups)
    scores[:, groups // 2 :] = 30 * scores[:, groups // 2 :] - 300
    return scores


equal = _normal(lambda generator, groups: 1.0)
alike = _normal(lambda generator, groups: np.exp(generator.normal(0, 0.5, groups)))
unlike = _normal(lambda generator, groups: np.geomspace(1, 30, groups))
NULL = {
    "equal spread": equal,
    "spreads of e^N(0, 0.5)": alike,
    "spreads from 1 to 30": unlike,
    "exponential": _skewed,
    "Student's t, 3 degrees of freedom": _heavy,
    "accuracies of 300 images": _rounded,
}
POWER = {"equal spread": equal, "spreads of e^N(0, 0.5)": alike, "half of the groups fail": _levels}


def power(name: str, groups: int, n: int, repeats: int) -> tuple[float, float]:
    """The share of the best group's differences that is found, before and after; to groups that do not fail."""
    generator = np.random.default_rng([groups, n])
    others = groups if name != "half of the groups fail" else groups // 2
    found = np.zeros(2)
    for _ in range(repeats):
        scores = POWER[name](generator, n, groups)
        scores[:, 0] += 2
        ahead = (scores[:, :1] - scores[:, 1:others]).mean(axis=0) > 0  # the first pairs are those of the first group
        found += [((p[: others - 1] <= ALPHA) & ahead).mean() for p in (before(scores), after(scores))]
    return tuple(found / repeats)


def error(name: str, groups: int, n: int, repeats: int) -> tuple[float, float]:
    """The share of simulations in which any pair is called different, before and after."""
    generator = np.random.default_rng([groups, n, 1])
    wrong = np.zeros(2)
    for _ in range(repeats):
        scores = NULL[name](generator, n, groups)
        wrong += [(p <= ALPHA).any() for p in (before(scores), after(scores))]
    return tuple(wrong / repeats)


def error_with_losses(share: float, groups: int, n: int, repeats: int) -> tuple[float, float]:
    """The share in which a group that loses its worst seeds is called better than one that loses none, else the same.

    The groups of the first half lose this share of their seeds.
    """
    generator = np.random.default_rng([groups, n, 2])
    i, j = np.triu_indices(groups, k=1)
    mixed = (i < groups // 2) & (j >= groups // 2)
    wrong = np.zeros(2)
    for _ in range(repeats):
        scores = 0.97 + 0.003 * generator.standard_normal((n, groups))
        lost = scores < np.quantile(scores, share, axis=0)
        lost[:, groups // 2 :] = False
        known, worst = np.where(lost, math.nan, scores), np.where(lost, 0.1, scores)
        ahead = [np.nansum(x[:, i] - x[:, j], axis=0) > 0 for x in (known, worst)]
        tested = (before(known), after(worst, lost))
        wrong += [(mixed & better & (p <= ALPHA)).any() for better, p in zip(ahead, tested, strict=True)]
    return tuple(wrong / repeats)


def _table(title: str, what: str) -> None:
    print(f"\n## {title}\n\n{what}\n\n| | groups, seeds | before | after |\n| :-- | :-- | --: | --: |")


def _row(name: str, groups: int, n: int, found: tuple[float, float]) -> None:
    print(f"| {name} | {groups}, {n} | {100 * found[0]:.1f} | {100 * found[1]:.1f} |", flush=True)


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print("# Power and error of rankings\n")
    print("Before: paired t tests with their own variances, Holm's correction for all pairs, lost seeds left out.")
    print("After: as `optbench.stats.differences` tests. Scores are normal around a level that each seed has for all")
    print(f"groups, unless the table says otherwise. {repeats:,} simulations each, all numbers in %.")
    _table(
        "Power", "The best group is 2 standard deviations above all others: the share of its differences that is found."
    )
    for name in POWER:
        for groups, n in ((6, 3), (6, 5), (12, 5), (12, 10)):
            _row(name, groups, n, power(name, groups, n, repeats))
    _table("Family-wise error", "No group differs: the share of simulations in which any pair is called different.")
    for name in NULL:
        for groups in (2, 3, 6, 12):
            for n in (3, 5, 10):
                _row(name, groups, n, error(name, groups, n, repeats))
    _table(
        "Lost seeds",
        "Half of the groups lose their worst seeds, else all are the same: the share of simulations in which one of\n"
        "them is called better than one that loses none.",
    )
    for share in (0.2, 0.5):
        for groups in (2, 6):
            for n in (5, 10):
                _row(f"{100 * share:.0f} % lost", groups, n, error_with_losses(share, groups, n, repeats))


if __name__ == "__main__":
    main()
