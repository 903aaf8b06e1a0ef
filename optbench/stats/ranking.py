"""Which groups (optimizers, schedules …) can be told apart: paired tests of every two, and the ranks that follow.

`scores` is a wide frame throughout: a row for each seed, a column for each group, larger is better; what is not finite
(a seed that is missing or diverged) counts as missing. Groups with the same seed share initial weights and batch order,
so every comparison is of the differences over the seeds that both have.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from optbench.stats.intervals import t_interval

_SAME = 1e-9  # scores closer than this differ only by rounding
_MOST_SEEDS = 10_000


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for multiple tests, step down (Holm, 1979); shape (m,) in and out.

    Rejecting what is at most α keeps the probability of any false rejection at most α, no matter how the tests depend
    on each other. NaN, a test that could not be made, counts as 1.
    """
    p = np.asarray(p, dtype=float)
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def resolution(values: ArrayLike) -> float:
    """The smallest gap between distinct values, of any shape; the step of their scale is at most that. 0 if none."""
    values = np.asarray(values, dtype=float)
    gaps = np.diff(np.sort(values[np.isfinite(values)]))
    gaps = gaps[gaps > _SAME]
    return float(gaps.min()) if len(gaps) else 0.0


def differences(scores: pd.DataFrame) -> pd.DataFrame:
    """Every two groups compared by a paired t-test; one row for each unordered pair, in the order of the columns.

    Columns: `first` and `second`, the groups; `n`, the seeds that both have; `difference`, the mean of first − second;
    `sd`, their standard deviation, but no less than the scores' resolution allows; `p`, two-sided;
    `p_holm`, adjusted over all pairs: the probability of calling any two groups different that are not is at most
    α (strong control of the family-wise error), so it holds for the best group, too, even though the same data say
    which is best. The difference is NaN where n = 0, sd and p where n < 2; these pairs, too, count in the family.
    """
    i, j = np.triu_indices(scores.shape[1], k=1)
    groups = scores.columns.to_numpy()
    return pd.DataFrame({"first": groups[i], "second": groups[j], **_compared(_finite(scores))})


def _finite(scores: pd.DataFrame) -> NDArray[np.float64]:
    values = scores.to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, math.nan)


def _compared(scores_SG: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """The number columns of `differences`, for S seeds and G groups."""
    from scipy.special import stdtr

    scores_GS = np.ascontiguousarray(scores_SG.T)
    i, j = np.triu_indices(len(scores_GS), k=1)
    d_PS = scores_GS[i] - scores_GS[j]  # P pairs
    shared = ~np.isnan(d_PS)
    d_PS[~shared | (np.abs(d_PS) < _SAME)] = 0.0
    n = shared.sum(axis=1)
    mean = d_PS.sum(axis=1) / np.where(n < 1, math.nan, n)
    d_PS -= mean[:, None]
    variance = np.einsum("ps,ps,ps->p", d_PS, d_PS, shared) / np.where(n < 2, math.nan, n - 1)
    # An accuracy is a multiple of 1/N, so with three seeds a difference may be the same in all of them by chance; its
    # variance would then be 0, and so would p. Each score is known to half a step: an error uniform over a step has the
    # variance step²/12, a difference of two scores twice that. Less than this is not believed.
    sd = np.sqrt(np.maximum(variance, 2 * resolution(scores_SG) ** 2 / 12))
    error = sd / np.sqrt(np.maximum(n, 1))
    t = np.divide(mean, error, out=np.where(np.isnan(error), math.nan, 0.0), where=error > 0)
    p = 2 * stdtr(n - 1.0, -np.abs(t))
    return {"n": n, "difference": mean, "sd": sd, "p": p, "p_holm": np.where(np.isnan(p), p, holm(p))}


def rank(scores: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The groups from best to worst, by mean score over their own seeds, with what can be said about their ranks.

    Columns, indexed by group:

    - `rank`: 1 + the groups that are significantly better, so all that cannot be told apart from the best have rank 1;
    - `rank_to`: the number of groups with a score − those significantly worse. With probability 1 − α, for normal
      differences, all true ranks lie between `rank` and `rank_to` at once (Al Mohamad, Goeman and van Zwet, 2022,
      "Simultaneous confidence intervals for ranks", Biometrics 78; here with Holm's tests, see `differences`);
    - `difference`: the mean of group − best over the seeds that both have; `difference_low`, `difference_high`: its own
      95 % interval by Student's t, not adjusted for the number of groups; `n`: those seeds;
    - `p`: of this difference, adjusted over all pairs (Holm);
    - `seeds_needed`: seeds for a comparison with the best to come out significant in a table of so many groups with
      probability 0.8, if the difference and its sd are as observed; also for groups that are separated already.
      Significance is at α / number of pairs, Holm's first and hardest step.

    NaN stands for what is not defined: ranks of a group without a score (such groups come last), comparisons with fewer
    than two common seeds, the best compared with itself (but `difference` is 0). Missing seeds are not filled in: a
    group's place in the order rests on the seeds it has, comparisons on common ones, so a `difference` may be positive
    where they differ. Groups with equal means are in the order of their labels.
    """
    values = _finite(scores)
    n = np.isfinite(values).sum(axis=0)
    sums = [math.fsum(column[np.isfinite(column)]) for column in values.T]
    labels = [str(label) for label in scores.columns]
    order = sorted(range(len(n)), key=lambda g: (n[g] == 0, -round(sums[g] / max(n[g], 1), 9), labels[g]))
    i, j = np.triu_indices(len(n), k=1)
    compared = _compared(values)
    apart = compared["p_holm"] <= alpha
    better, worse = np.where(compared["difference"] > 0, (i, j), (j, i))[:, apart]
    scored = np.where(n > 0, 1.0, math.nan)

    pairs = max(1, len(i))
    best = order[0] if order else 0
    with_best = np.flatnonzero((i == best) | (j == best))
    other = (i + j)[with_best] - best
    pair = np.full(len(n), -1)  # where each group's comparison with the best is; that of the best itself is last
    pair[other] = with_best
    itself = {"n": n[best : best + 1].sum(), "difference": 0.0, "sd": math.nan, "p_holm": math.nan}
    common, difference, sd, p = (np.append(compared[name], value)[pair] for name, value in itself.items())
    difference = np.where(np.arange(len(n)) > best, 0.0 - difference, difference) * scored
    low, high = t_interval(difference, sd, common)
    table = pd.DataFrame(
        {
            "rank": scored * (1 + np.bincount(worse, minlength=len(n))),
            "rank_to": scored * (np.sum(n > 0) - np.bincount(better, minlength=len(n))),
            "difference": difference,
            "difference_low": low,
            "difference_high": high,
            "p": p,
            "seeds_needed": [seeds_needed(*d, alpha / pairs) for d in zip(difference, sd, strict=True)],
            "n": common,
        },
        index=scores.columns,
    )
    return table.iloc[order]


def seeds_needed(difference: float, sd: float, alpha: float, power: float = 0.8) -> float:
    """Seeds with which a paired, two-sided t-test at level `alpha` finds a difference with probability `power`.

    `difference` is the true mean of the differences, `sd` their true standard deviation; the test's statistic then
    follows a noncentral t distribution with noncentrality difference / sd · √n. At least 2; infinite for no difference
    and where 10,000 seeds are too few; NaN if `difference` or `sd` is.
    """
    if math.isnan(difference) or math.isnan(sd):
        return math.nan
    if abs(difference) < _SAME:
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
