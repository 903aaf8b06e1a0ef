"""How sure a mean is: 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The mean of n values and the ends of its 95 % interval; NaN for what cannot be said."""

    mean: float
    low: float
    high: float
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and its 95 % confidence interval, ± t · s / √n with n − 1 degrees of freedom (Student, 1908).

    NaN for what cannot be said: the mean of nothing, the interval from fewer than two values.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, n)
