"""Every group against one of them: is it better, worse or as good, and how many seeds would show it?"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from optbench.stats.ranking import SAME, holm

Floats = NDArray[np.float64]

_TAIL = 0.025  # on either side of an interval
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Reference:
    """What every group is compared with, and which differences matter.

    baseline: a group chosen in advance, so that only the comparisons with it count as tests; None: the best one, which
    the same data choose, so that all pairs count.
    rope: differences smaller than this do not matter (the "region of practical equivalence"); NaN: that is not known.
    asked: the groups that the question is about, if not about all: their comparisons with the baseline are corrected
    for by themselves, and so are those of the others.
    """

    baseline: Hashable | None = None
    rope: float = math.nan
    asked: frozenset[Hashable] = frozenset()


def verdicts(
    pairs: pd.DataFrame, reference: Hashable, was_chosen: bool, rope: float = math.nan, alpha: float = 0.05
) -> pd.DataFrame:
    """Every other group compared with the reference; `pairs` are the `ranking.differences` of all.

    Where `pairs` come from `images.on_other_images`, some columns say what holds for other images, too.

    Columns, indexed by group:

    - `n`: the seeds that both have; `difference`: the mean of group − reference over them; `difference_low`,
      `difference_high`: its own 95 % interval, not adjusted for the number of groups; `effect`: the difference in
      standard deviations of such differences between seeds;
    - `p`: of no difference, adjusted (Holm) over the comparisons with the reference if it `was_chosen` in advance, and
      else over all pairs;
    - `p_equivalent`: of a difference of at least `rope`, by two one-sided tests (Schuirmann 1987, "A comparison of the
      two one-sided tests procedure and the power approach for assessing the equivalence of average bioavailability"),
      adjusted over the comparisons with the reference;
    - `verdict`: "better" or "worse" where p is at most α, with "slightly" before it where p_equivalent is, too;
      "equivalent" where only p_equivalent is; else "undecided"; "" where there are too few seeds to compare;
    - `p_images`, `difference_images_low`, `difference_images_high`: `p` and the interval over seeds and images; never
      smaller or narrower than those over seeds alone;
    - `seeds_needed`: how many seeds find a difference as large as `rope` with probability 0.8 at α / number of tests,
      the first and hardest step.

    NaN is what is not defined: tests with fewer than two common seeds, those that need a rope without one.
    """
    from scipy.special import stdtrit

    mine = pairs[(pairs["first"] == reference) | (pairs["second"] == reference)]
    is_first = (mine["first"] == reference).to_numpy()
    n, sd, freedom = (mine[name].to_numpy(dtype=float) for name in ("n", "sd", "freedom"))
    difference = 0.0 + np.where(is_first, -1.0, 1.0) * mine["difference"].to_numpy(dtype=float)
    error = sd / np.sqrt(np.where(n > 1, n, math.nan))
    half = stdtrit(np.where(n > 1, freedom, math.nan), 1 - _TAIL) * error
    p = _adjusted(mine, "p", was_chosen)
    p_images, half_images = _on_other_images(mine, half, was_chosen)
    one_sided = _p_equivalent(difference, error, freedom, rope)
    p_equivalent = np.where(np.isnan(one_sided), math.nan, holm(one_sided))
    tests = len(mine) if was_chosen else len(pairs)
    same = np.abs(difference) < SAME
    effect = np.divide(difference, sd, out=np.where(same, 0.0, np.copysign(math.inf, difference)), where=sd > 0)
    columns = {
        "n": n,
        "difference": difference,
        "difference_low": difference - half,
        "difference_high": difference + half,
        "effect": np.where(np.isnan(error), math.nan, effect),
        "p": p,
        "p_images": p_images,
        "difference_images_low": difference - half_images,
        "difference_images_high": difference + half_images,
        "p_equivalent": p_equivalent,
        "verdict": [_in_words(*row, alpha) for row in zip(difference, p, p_equivalent, strict=True)],
        "seeds_needed": [seeds_needed(rope, spread, alpha / tests) for spread in sd],
    }
    return pd.DataFrame(columns, index=pd.Index(np.where(is_first, mine["second"], mine["first"])))


def _adjusted(mine: pd.DataFrame, name: str, was_chosen: bool) -> Floats:
    """These p of the pairs with the reference, adjusted for the tests that count; NaN where there is none."""
    p = holm(mine[name]) if was_chosen else mine[f"{name}_adjusted"]
    return np.where(mine[name].isna(), math.nan, p)


def _on_other_images(mine: pd.DataFrame, half: Floats, was_chosen: bool) -> tuple[Floats, Floats]:
    """The p over seeds and images, and half the width of the interval, no less than that over seeds."""
    from scipy.special import stdtrit

    if "p_images" not in mine:
        return np.full_like(half, math.nan), np.full_like(half, math.nan)
    own = (stdtrit(mine["freedom_images"], 1 - _TAIL) * mine["error_images"]).to_numpy(dtype=float)
    return _adjusted(mine, "p_images", was_chosen), np.maximum(half, own)


def _p_equivalent(difference: Floats, error: Floats, freedom: Floats, rope: float) -> Floats:
    """Of two tests, "better by at least rope" and "worse by at least rope", the larger p; NaN where there is none."""
    from scipy.special import stdtr

    inside = rope - np.abs(difference)
    t = np.divide(inside, error, out=np.copysign(math.inf, inside), where=~(error <= 0))
    return np.asarray(stdtr(freedom, -t), dtype=float)


def _in_words(difference: float, p: float, p_equivalent: float, alpha: float) -> str:
    if math.isnan(p):
        return ""
    if p > alpha:
        return "equivalent" if p_equivalent <= alpha else "undecided"
    return ("slightly " if p_equivalent <= alpha else "") + ("better" if difference > 0 else "worse")


def seeds_needed(difference: float, sd: float, alpha: float, power: float = 0.8) -> float:
    """Seeds with which a paired, two-sided t-test at level `alpha` finds a difference with probability `power`.

    `difference` is the true mean of the differences, `sd` their true standard deviation; the test's statistic then
    follows a noncentral t distribution with noncentrality difference / sd · √n. At least 2; infinite for no difference
    and where 10,000 seeds are too few; NaN if `difference` or `sd` is.
    """
    if math.isnan(difference) or math.isnan(sd):
        return math.nan
    if abs(difference) < SAME:
        return math.inf
    effect = abs(difference) / sd if sd > 0 else math.inf
    n = 2 + bisect_left(range(2, _MOST_SEEDS + 1), power, key=lambda n: _power(effect, n, alpha))
    return float(n) if n <= _MOST_SEEDS else math.inf


def _power(effect: float, n: int, alpha: float) -> float:
    """Probability that a t-test at level `alpha` rejects when the true mean of n values is `effect` sds."""
    from scipy.special import chdtr, nctdtr, stdtrit

    shift, critical = effect * math.sqrt(n), -stdtrit(n - 1, alpha / 2)
    if shift > 1_000:  # the mean is almost fixed, only its estimated error varies; nctdtr gives up further out
        return float(chdtr(n - 1, (n - 1) * (shift / critical) ** 2))
    # It also gives up, with NaN, on probabilities that are far too small to matter.
    accepted, wrong_side = np.nan_to_num(nctdtr(n - 1, shift, [critical, -critical]))
    return float(1 - accepted + wrong_side)
