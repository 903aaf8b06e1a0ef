"""How sure a mean is: 95 % confidence intervals; and two averages that outliers do not move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TAIL = 0.025  # on either side of an interval
_Z = 1.959963984540054  # of the standard normal distribution, 95 % lie within ±_Z
_BOOTSTRAP_FROM = 20  # fewer values say too little about the shape of their distribution to resample them
_RESAMPLES = 5_000
_BLOCK = 1_000_000  # values drawn at once, so that many values do not fill the memory


@dataclass(frozen=True)
class Estimate:
    """The mean of n values and the ends of its 95 % interval; NaN for what is not defined."""

    mean: float
    low: float
    high: float
    n: int


def estimate(values: Sequence[float], step: float = 0.0) -> Estimate:
    """The mean and its 95 % confidence interval: Student's t for n < 20, a BCa bootstrap from there on.

    Values that come in steps, such as shares of so many images, may be equal by chance; where n < 20 their standard
    deviation is at least that of an error uniform over a step, step / √12.
    The bootstrap follows the skewness of the values, so its ends need not lie at equal distances from the mean. It is
    seeded: the same values, in any order, give the same interval. NaN for what is not defined: the mean of nothing, the
    interval from fewer than two values. No value may be NaN.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    deviations = np.sort(np.asarray(values, dtype=float)) - mean
    if n < _BOOTSTRAP_FROM:
        sd = math.sqrt(float(deviations @ deviations) / (n - 1)) if n > 1 else math.nan
        low, high = t_interval(mean, max(sd, step / math.sqrt(12)), n)
    else:
        low, high = mean + _bca(deviations)
    return Estimate(mean, float(low), float(high), n)


def t_interval(
    mean: ArrayLike, sd: ArrayLike, n: ArrayLike, freedom: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % interval of a mean, ± t · sd / √n (Student, 1908).

    Arrays of any shapes that broadcast: means, sample standard deviations (of n − 1) and numbers of values; `freedom`,
    the degrees of freedom of the standard deviations, is n − 1 by default. NaN where n < 2.
    """
    from scipy.special import stdtrit

    mean, sd, n = (np.asarray(value, dtype=float) for value in (mean, sd, n))
    n = np.where(n < 2, math.nan, n)
    half = stdtrit(n - 1 if freedom is None else freedom, 1 - _TAIL) * sd / np.sqrt(n)
    return mean - half, mean + half


def wilson(share: ArrayLike, n: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % interval of a probability that showed as this share of n independent cases (Wilson, 1927).

    Arrays of any shapes that broadcast. Brown, Cai and DasGupta (2001) recommend it for small n. The ends are exactly 0
    and 1 where the share is; NaN where the share is.
    """
    share, n = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    scale = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / scale
    half = _Z / scale * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return np.where(share <= 0, 0.0, centre - half), np.where(share >= 1, 1.0, centre + half)


def _bca(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends of the interval of a mean, as distances from it; `deviations` are those of the values from the mean.

    Bias-corrected and accelerated bootstrap (Efron, 1987, "Better bootstrap confidence intervals", JASA 82), with the
    percentiles moved outward as far as t lies beyond the normal distribution, and √(n / (n − 1)) more (Hesterberg 2015,
    "What teachers should know about the bootstrap", The American Statistician 69): else intervals of 20 values would
    cover the mean in 92.6 % of cases instead of 95 %, and be narrower than those of 19.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    if np.ptp(deviations) == 0:
        return np.zeros(2)
    centred = deviations - deviations.mean()  # the mean of nearly equal values may be rounded too far
    scale = np.abs(centred).max()
    unit = centred / scale
    n = len(unit)
    generator = np.random.default_rng(0)
    rows, half = max(1, _BLOCK // n), _RESAMPLES // 2
    draws = (generator.integers(n, size=(min(rows, half - start), n)) for start in range(0, half, rows))
    # Every draw counts with its mirror image, the largest for the smallest (antithetic resampling; Hall, 1989), so that
    # the draws, which are the same for all values, do not pull every interval a little to one side.
    means = np.concatenate([drawn[draw].mean(axis=1) for draw in draws for drawn in (unit, unit[::-1])])
    # Means of few distinct values often equal the mean itself; those count half, no matter how they were rounded.
    side = np.where(np.abs(means) < 1e-9, 0.0, np.sign(means))
    bias = ndtri((1 - side.mean()) / 2)
    # The jackknife's means differ from the mean by −deviations / (n − 1), so the acceleration needs no jackknife.
    acceleration = np.sum(unit**3) / (6 * np.sum(unit**2) ** 1.5)
    z = bias + math.sqrt(n / (n - 1)) * stdtrit(n - 1, [_TAIL, 1 - _TAIL])
    ends: NDArray[np.float64] = scale * np.quantile(means, ndtr(bias + z / (1 - acceleration * z)))
    return ends


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle; NaN of nothing."""
    return float(np.median(values)) if len(values) else math.nan


def iqm(values: Sequence[float]) -> float:
    """The interquartile mean: the mean of the middle half of the values; NaN of nothing.

    Agarwal et al. (2021, "Deep reinforcement learning at the edge of the statistical precipice") take the mean that
    is left when a quarter of the values, rounded down, is trimmed on either side. Here a value that a quartile cuts
    counts with the share of it that lies inside, so that one value more or less makes no jump; for n a multiple of 4
    both are the same.
    """
    n = len(values)
    if n == 0:
        return math.nan
    # Value i fills the stretch from i to i + 1 of a line of length n, whose middle half counts.
    edges = np.clip(np.arange(n + 1), n / 4, 3 * n / 4)
    return float(np.average(np.sort(np.asarray(values, dtype=float)), weights=np.diff(edges)))
