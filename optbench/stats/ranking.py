"""Which groups (optimizers, schedules …) can be told apart: paired tests of every two, and the ranks that follow.

`scores` is a wide frame throughout: a row for each seed, a column for each group, larger is better; what is not finite
(a seed that is missing) counts as missing. Groups with the same seed share initial weights and batch order, so every
comparison is of the differences over the seeds that both have. `lost` is a frame of the same shape, true for the seeds
whose training was lost: their scores stand for "as bad as can be" (worst-rank scores; Lachin 1999, "Worst-rank score
analysis with informatively missing observations in clinical trials"), so they say nothing about how scores spread.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from optbench.stats.moderation import moderate

_MOST_GROUPS = 300  # whose numbers of equal pairs are counted
SAME = 1e-9  # scores closer than this differ only by rounding


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


def shaffer(p: ArrayLike, groups: int) -> NDArray[np.float64]:
    """p-values of all pairs of groups, adjusted step down by what can be true together (Shaffer, 1986, procedure S1).

    Shape (m,) in and out, m = groups (groups − 1) / 2. As Holm's, but pairs are not equal in any number: of six groups,
    once one pair is known to differ, at most ten of the other fourteen can be equal. NaN counts as 1. Of very many
    groups it is Holm's, which is hardly less then.
    """
    if groups > _MOST_GROUPS:
        return holm(p)
    p = np.asarray(p, dtype=float)
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * _most_true(groups)))
    return adjusted


@cache
def _most_true(groups: int) -> NDArray[np.float64]:
    """The most pairs that can be equal when r pairs are known to differ, for r from 0 to all but one."""
    pairs = groups * (groups - 1) // 2
    possible = np.flatnonzero([bit == "1" for bit in reversed(f"{_numbers_true(groups):b}")])
    return possible[np.searchsorted(possible, np.arange(pairs, 0, -1), side="right") - 1].astype(float)


def _numbers_true(groups: int) -> int:
    """Which numbers of pairs can be equal at once, as bits: the groups fall into sets of equal ones."""
    numbers = [1]  # of no group: no pair, bit 0
    for n in range(1, groups + 1):
        numbers.append(0)
        for size in range(1, n + 1):
            numbers[n] |= numbers[n - size] << (size * (size - 1) // 2)
    return numbers[groups]


def resolution(values: ArrayLike) -> float:
    """The smallest gap between distinct values, of any shape; the step of their scale is at most that. 0 if none."""
    values = np.asarray(values, dtype=float)
    gaps = np.diff(np.sort(values[np.isfinite(values)]))
    gaps = gaps[gaps > SAME]
    return float(gaps.min()) if len(gaps) else 0.0


def differences(scores: pd.DataFrame, lost: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every two groups compared by a paired t-test; one row for each unordered pair, in the order of the columns.

    Columns: `first` and `second`, the groups; `n`, the seeds that both have; `difference`, the mean of first − second;
    `sd`, the standard deviation of these differences, no less than the scores' resolution allows and moderated by those
    of all other pairs (see `moderation`), and `freedom`, its degrees of freedom; `p`, two-sided;
    `p_adjusted`, over all pairs (see `shaffer`): the probability of calling any two groups different that are not is at
    most α (strong control of the family-wise error), so it holds for the best group, too, even though the same data say
    which is best. The difference is NaN where n = 0, sd and p where n < 2; these pairs, too, count in the family.
    Where a group lost a seed, its sd is that of its own differences.
    """
    i, j = np.triu_indices(scores.shape[1], k=1)
    groups = scores.columns.to_numpy()
    return pd.DataFrame({"first": groups[i], "second": groups[j], **_compared(_finite(scores), _lost(scores, lost))})


def _lost(scores: pd.DataFrame, lost: pd.DataFrame | None) -> NDArray[np.bool_]:
    """Which groups lost a seed, (G,)."""
    if lost is None:
        return np.zeros(scores.shape[1], dtype=bool)
    flags = lost.reindex_like(scores).to_numpy(dtype=object)
    return np.asarray((flags == True).any(axis=0), dtype=bool)  # noqa: E712  # a missing seed is NaN


def _finite(scores: pd.DataFrame) -> NDArray[np.float64]:
    values = scores.to_numpy(dtype=float)
    return np.where(np.isfinite(values), values, math.nan)


def _compared(scores_SG: NDArray[np.float64], lost_G: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The number columns of `differences`, for S seeds and G groups; `lost_G` marks those that lost a seed."""
    from scipy.special import stdtr

    scores_GS = np.ascontiguousarray(scores_SG.T)
    i, j = np.triu_indices(len(scores_GS), k=1)
    d_PS = scores_GS[i] - scores_GS[j]  # P pairs
    shared = ~np.isnan(d_PS)
    d_PS[~shared | (np.abs(d_PS) < SAME)] = 0.0
    n = shared.sum(axis=1)
    mean = d_PS.sum(axis=1) / np.where(n < 1, math.nan, n)
    d_PS -= mean[:, None]
    variance = np.einsum("ps,ps,ps->p", d_PS, d_PS, shared) / np.where(n < 2, math.nan, n - 1)
    # An accuracy is a multiple of 1/N, so with three seeds a difference may be the same in all of them by chance; its
    # variance would then be 0, and so would p. Each score is known to half a step: an error uniform over a step has the
    # variance step²/12, a difference of two scores twice that. Less than this is not believed, and says nothing more.
    least, freedom = 2 * resolution(scores_SG) ** 2 / 12, n - 1.0
    is_rounded, variance = variance < least, np.maximum(variance, least)
    whole = ~(lost_G[i] | lost_G[j])
    level_G = _levels(scores_SG)
    distance = np.nanmax(level_G, initial=-math.inf) - np.minimum(level_G[i], level_G[j])
    groups = int(np.sum(~lost_G & (np.isfinite(scores_SG).sum(axis=0) > 1)))
    variance[whole], freedom[whole] = moderate(variance[whole], freedom[whole], distance[whole], groups)
    variance, freedom = np.maximum(variance, least), np.where(is_rounded, n - 1.0, freedom)
    sd = np.sqrt(variance)
    error = sd / np.sqrt(np.maximum(n, 1))
    t = np.divide(mean, error, out=np.where(np.isnan(error), math.nan, 0.0), where=error > 0)
    p = 2 * stdtr(freedom, -np.abs(t))
    adjusted = np.where(np.isnan(p), p, shaffer(p, len(scores_GS)))
    return {"n": n, "difference": mean, "sd": sd, "freedom": freedom, "p": p, "p_adjusted": adjusted}


def _levels(scores_SG: NDArray[np.float64]) -> NDArray[np.float64]:
    """How good each group is, (G,), by its scores against the mean of each seed: some seeds are harder for all."""
    known = np.isfinite(scores_SG)
    filled = np.where(known, scores_SG, 0.0)
    seed_S1 = filled.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    away = np.where(known, scores_SG - seed_S1, 0.0).sum(axis=0)
    return np.asarray(away / np.where(known.any(axis=0), known.sum(axis=0), math.nan), dtype=float)


def ranks(scores: pd.DataFrame, pairs: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The groups from best to worst, by mean score over their own seeds, with what can be said about their ranks.

    `pairs` are their `differences`. Columns, indexed by group:

    - `rank`: 1 + the groups that are significantly better, so all that cannot be told apart from the best have rank 1;
    - `rank_to`: the number of groups with a score − those significantly worse. With probability 1 − α, for normal
      differences, all true ranks lie between `rank` and `rank_to` at once (Al Mohamad, Goeman and van Zwet, 2022,
      "Simultaneous confidence intervals for ranks", Biometrics 78; here with Shaffer's tests).

    Both are NaN for a group without a score; such groups come last. Missing seeds are not filled in: a group's place in
    the order rests on the seeds it has, comparisons on common ones. Groups with equal means are in the order of their
    labels.
    """
    values = _finite(scores)
    n = np.isfinite(values).sum(axis=0)
    sums = [math.fsum(column[np.isfinite(column)]) for column in values.T]
    labels = [str(label) for label in scores.columns]
    order = sorted(range(len(n)), key=lambda g: (n[g] == 0, -round(sums[g] / max(n[g], 1), 9), labels[g]))
    i, j = np.triu_indices(len(n), k=1)
    apart = pairs["p_adjusted"].to_numpy() <= alpha
    better, worse = np.where(pairs["difference"].to_numpy() > 0, (i, j), (j, i))[:, apart]
    scored = np.where(n > 0, 1.0, math.nan)
    table = pd.DataFrame(
        {
            "rank": scored * (1 + np.bincount(worse, minlength=len(n))),
            "rank_to": scored * (np.sum(n > 0) - np.bincount(better, minlength=len(n))),
        },
        index=scores.columns,
    )
    return table.iloc[order]


def candidates(pairs: pd.DataFrame, alpha: float = 0.05) -> set[Hashable]:
    """The groups that may be the best: with probability 1 − α the truly best one is among them.

    `pairs` are their `differences`. A group is left out where some other is significantly better in a one-sided test,
    corrected only for its own comparisons (Hsu, 1984, "Constrained simultaneous confidence intervals for multiple
    comparisons with the best", with Bonferroni's bound): only one group can wrongly be left out, the best. So this says
    more than ranks about who may be best, and nothing about anyone else.
    """
    ahead = np.sign(pairs["difference"])
    groups = pd.concat([pairs["first"], pairs["second"]])
    # One-sided: half of the two-sided p for the group that is behind.
    behind = pd.concat([pairs["p"].where(ahead < 0), pairs["p"].where(ahead > 0)]) / 2
    smallest = behind.groupby(groups, sort=False).min()
    others = groups.value_counts().reindex(smallest.index)
    return {group for group, p in (smallest * others).items() if not p <= alpha}
