"""Optimizers across several workloads: performance profiles, mean ranks, and how often one beats another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from optbench.stats.ranking import holm

_ALPHA = 0.05
_MIN_TO_TEST = 3  # workloads, and optimizers
_MAX_EXACT = 12  # workloads
_RESAMPLES = 2000


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

    `p` is the probability of ranks at least as different if all optimizers were alike. NaN for what is not defined.
    """

    mean_ranks: pd.Series
    statistic: float
    p: float
    n: int


def friedman(scores: pd.DataFrame) -> Friedman:
    """Friedman's test (1937, corrected for ties).

    `scores` has a row for each workload and a column for each optimizer, larger is better. A missing score is the
    worst; equal ones share their ranks. With fewer than three workloads or optimizers there are ranks but no test: for
    two optimizers it would be a sign test, which is weaker than comparing their scores. Where all tie everywhere,
    statistic and p are NaN.
    """
    ranks = scores.rank(axis=1, ascending=False, method="average", na_option="bottom")
    n, k = ranks.shape
    statistic = p = math.nan
    spread = float(((ranks - (k + 1) / 2) ** 2).to_numpy().sum())
    if n >= _MIN_TO_TEST and k >= _MIN_TO_TEST and spread > 0:
        from scipy.special import chdtrc

        statistic = (k - 1) * float(((ranks.sum() - n * (k + 1) / 2) ** 2).sum()) / spread
        p = float(chdtrc(k - 1, statistic))
    return Friedman(ranks.mean(), statistic, p, n)


def signed_ranks(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of Wilcoxon's signed-rank test (1945) for each column; shape (n workloads, m pairs) → (m,).

    Up to 12 workloads by all 2ⁿ signs, so it is exact also with ties; beyond, by the normal distribution. Differences
    of zero keep their ranks and are not counted for either side (Pratt 1959).
    """
    from scipy.stats import rankdata, wilcoxon

    if len(differences) > _MAX_EXACT:
        with np.errstate(invalid="ignore"):
            p = wilcoxon(differences, axis=0, zero_method="pratt", method="approx").pvalue
        return np.where((differences == 0).all(axis=0), 1.0, np.asarray(p, dtype=float))
    ranks = rankdata(np.abs(differences), axis=0)
    observed = np.abs((ranks * np.sign(differences)).sum(axis=0))
    counted = ranks * (differences != 0)
    larger = np.zeros(differences.shape[1])
    for signs in product((-1, 1), repeat=len(differences)):
        larger += np.abs(np.array(signs) @ counted) >= observed - 1e-9
    return np.asarray(larger / 2 ** len(differences))


def tied_groups(scores: pd.DataFrame) -> list[list[str]]:
    """The bars of a critical-difference diagram (Demšar 2006): the largest groups of optimizers that may be alike.

    `scores` as for `friedman`. Each group is a run of optimizers, best mean rank first, of which no two differ at 5 %
    by Wilcoxon's signed-rank test with Holm's correction over all pairs. Not by the mean ranks, as Nemenyi's test does,
    since these depend on which other optimizers take part (Benavoli, Corani and Mangili 2016).
    """
    ranks = friedman(scores).mean_ranks.sort_values(kind="stable")
    order, k = list(ranks.index), len(ranks)
    values = scores[order].fillna(scores.min().min() - 1).to_numpy(dtype=float)
    first, second = np.triu_indices(k, 1)
    p = np.ones((k, k))
    p[first, second] = holm(signed_ranks(values[:, first] - values[:, second]))
    groups: list[list[str]] = []
    reached = 0
    for i in range(k):
        end = i + 1
        while end < k and (p[i:end, end] > _ALPHA).all():
            end += 1
        if end - i > 1 and end > reached:
            groups.append(order[i:end])
            reached = end
    return groups


def aggregate(scores: pd.DataFrame, against: str | None = None) -> pd.DataFrame:
    """Each optimizer over all workloads, with 95 % intervals (Agarwal et al. 2021); the index has the optimizers.

    `scores` has the columns workload, optimizer and score, a row for each seed; scores of different workloads must be
    on one scale, larger is better.

    iqm: the mean of the middle half of all its scores, of all workloads and seeds.
    improvement: the probability that a seed of it beats one of another optimizer (of `against`; None: of any other, all
    alike) in the same workload; a tie counts half; the mean over the workloads.
    `…_low`, `…_high`: percentiles of a bootstrap of the seeds, stratified by workload and optimizer. They hold for
    these workloads and say nothing about others. NaN for an optimizer that lacks a workload, and for one seed.
    """
    labels, generator = list(scores["optimizer"].unique()), np.random.default_rng(0)
    drawn: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {label: [] for label in labels}
    wins: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    parts = [part for _, part in scores.groupby("workload", sort=False, observed=True)]
    for part in parts:
        values, owners = part["score"].to_numpy(dtype=float), part["optimizer"].to_numpy()
        counts = np.zeros((1 + _RESAMPLES, len(values)), dtype=int)
        for label in part["optimizer"].unique():
            mine = owners == label
            counts[:, mine] = _drawn(int(mine.sum()), generator)
            drawn[label].append((values[mine], counts[:, mine]))
        for label, won in _improvement(values, owners, counts, against).items():
            wins[label].append(won)
    rows = {}
    for label, cells in drawn.items():
        if len(cells) == len(parts):
            is_sure = all(len(values) > 1 for values, _ in cells)
            iqm = _iqm(np.concatenate([values for values, _ in cells]), np.hstack([counts for _, counts in cells]))
            rows[label] = _with_interval("iqm", iqm, is_sure)
            if wins[label]:
                rows[label] |= _with_interval("improvement", np.mean(wins[label], axis=0), is_sure)
    return pd.DataFrame.from_dict(rows, orient="index").reindex(labels)


def _improvement(
    values: np.ndarray, owners: np.ndarray, counts: np.ndarray, against: str | None
) -> dict[str, np.ndarray]:
    """For each optimizer that has a rival in a workload, its probability of improvement in each sample.

    values and owners (n,): scores, and whose they are; counts (samples, n): how often each score is in a sample.
    """
    seeds = {label: int((owners == label).sum()) for label in owners}
    shares = counts / np.array([seeds[label] for label in owners])
    is_other = owners[:, None] != owners
    is_rival = is_other if against is None else is_other & (owners == against)
    beats = (np.sign(values[:, None] - values) + 1) / 2  # a tie counts half
    won = shares * (shares @ (beats * is_rival).T)
    rivals = {label: {other for other in seeds if other != label and against in (None, other)} for label in seeds}
    return {label: won[:, owners == label].sum(axis=1) / len(rivals[label]) for label in seeds if rivals[label]}


def _drawn(n: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of n values is in each sample, shape (1 + samples, n); the first sample is the data themselves."""
    drawn = generator.multinomial(n, np.full(n, 1 / n), _RESAMPLES)
    return np.vstack([np.ones(n, dtype=int), drawn])


def _iqm(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The interquartile mean of each sample that has the values so often; shapes (n,) and (samples, n) → (samples,)."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[:, order], axis=1)
    total = upto[:, -1:]
    cut = total // 4  # of each end, whole values, as scipy's trim_mean does
    kept = np.diff(np.clip(upto, cut, total - cut), axis=1, prepend=cut)
    return np.asarray(kept @ values[order] / kept.sum(axis=1))


def _with_interval(name: str, samples: np.ndarray, is_sure: bool) -> dict[str, float]:
    """The first of the samples, which is the data themselves, and the ends of 95 % of the others."""
    low, high = np.percentile(samples[1:], [2.5, 97.5]) if is_sure else (math.nan, math.nan)
    return {name: float(samples[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
