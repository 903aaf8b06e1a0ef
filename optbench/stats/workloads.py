"""Optimizers across several workloads: performance profiles and mean ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

_MIN_TO_TEST = 3  # workloads, and optimizers


def performance_profile(times: pd.DataFrame, r_max: float = 4.0) -> pd.DataFrame:
    """The share of workloads that an optimizer solves within tau times the shortest time (Dolan and Moré 2002).

    `times` has a row for each workload and a column for each optimizer; infinite is a miss, and so is a missing value.
    A workload that no optimizer solves counts as missed by all. Columns tau, optimizer and share, ascending in tau: for
    each optimizer the points at which its step function rises, and both ends, 1 and `r_max`; between them the share
    does not change.
    """
    ratios = np.sort(_ratios(times), axis=0)
    steps = []
    for optimizer, ratio in zip(times.columns, ratios.T, strict=True):
        tau = np.unique(np.r_[1.0, ratio[ratio <= r_max], r_max])
        share = np.searchsorted(ratio, tau, side="right") / len(ratio)
        steps.append(pd.DataFrame({"tau": tau, "optimizer": optimizer, "share": share}))
    return pd.concat(steps, ignore_index=True)


def profile_score(times: pd.DataFrame, r_max: float = 4.0) -> pd.Series:
    """The mean height of each optimizer's performance profile from 1 to `r_max`: 1 for the fastest everywhere.

    AlgoPerf (Dahl et al. 2023) integrates this numerically; in closed form it is Σ max(0, (r_max − r) / (r_max − 1))
    over the n workloads, divided by n; a miss adds nothing.
    """
    areas = np.maximum(0.0, (r_max - _ratios(times)) / (r_max - 1))
    return pd.Series(areas.mean(axis=0), index=times.columns, name="score")


def _ratios(times: pd.DataFrame) -> np.ndarray:
    """Each time divided by the shortest one of its workload, infinite for a miss."""
    seconds = times.to_numpy(dtype=float)
    seconds = np.where(np.isnan(seconds), math.inf, seconds)
    best = seconds.min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # a target that was reached before training takes no time
        return np.where(np.isinf(seconds), math.inf, np.where(seconds == best, 1.0, seconds / best))


@dataclass(frozen=True)
class Friedman:
    """Mean ranks of optimizers over n workloads, 1 being the best, and whether they can be told apart.

    `p` is the probability of ranks at least as different if all optimizers were alike; two whose mean ranks differ by
    less than `critical_difference` are a tie. NaN for what is not defined.
    """

    mean_ranks: pd.Series
    statistic: float
    p: float
    critical_difference: float
    n: int


def friedman(scores: pd.DataFrame) -> Friedman:
    """Friedman's test (1937, corrected for ties) and Nemenyi's critical difference at 5 % (Demšar 2006).

    `scores` has a row for each workload and a column for each optimizer, larger is better. A missing score is the
    worst; equal ones share their ranks. With fewer than three workloads or optimizers there are ranks but no test: for
    two optimizers it would be a sign test, which is weaker than comparing their scores. Where all tie everywhere,
    statistic and p are NaN.
    """
    ranks = scores.rank(axis=1, ascending=False, method="average", na_option="bottom")
    n, k = ranks.shape
    statistic = p = difference = math.nan
    if n >= _MIN_TO_TEST and k >= _MIN_TO_TEST:
        from scipy.special import chdtrc
        from scipy.stats import studentized_range

        spread = float(((ranks - (k + 1) / 2) ** 2).to_numpy().sum())
        if spread > 0:
            statistic = (k - 1) * float(((ranks.sum() - n * (k + 1) / 2) ** 2).sum()) / spread
            p = float(chdtrc(k - 1, statistic))
        difference = float(studentized_range.ppf(0.95, k, math.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    return Friedman(ranks.mean(), statistic, p, difference, n)
