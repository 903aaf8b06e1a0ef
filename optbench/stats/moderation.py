"""How variable differences are, when each has few seeds: what all of them have in common says more than each alone.

Three seeds give a standard deviation up to a factor of six, so a test that uses it alone finds nearly nothing. But the
variances of the pairs of a table are alike: each is moved towards what is expected of it, the more so the better the
others keep to that (empirical Bayes, as Smyth 2004, "Linear models and empirical Bayes methods for assessing
differential expression in microarray experiments"). The worse a group, the more it varies, so the expected variance
rises with the distance from the best (a trend, as Sartor et al. 2006, "Intensity-based hierarchical Bayes method
improves testing for differentially expressed genes in microarray experiments"). The prior is normal in the logarithm
(Cui, Hwang, Qiu, Blades and Churchill 2005, "Improved statistical tests for differential gene expression by shrinking
variance components estimates"): Smyth's is drawn to the largest variances, and one optimizer that fails would make all
others look noisy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


_FEWEST_FOR_TREND = 5  # groups


def moderate(variance: Floats, freedom: Floats, distance: Floats, groups: int) -> tuple[Floats, Floats]:
    """The variances of the differences of all pairs of groups, each with what the others say; and degrees of freedom.

    All arrays are (P,), one entry for each of P pairs among so many groups; `freedom` are those of each variance alone,
    `distance` says how far the worse one of the two groups is from the best of all, at least 0. A difference divided by
    its new standard error follows about Student's t with the new degrees of freedom. Pairs with no variance or no
    degree of freedom stay as they are, and all of them where there are fewer than three groups.
    """
    from scipy.special import digamma, polygamma

    known = (variance > 0) & (freedom > 0)
    variance, freedom = variance.copy(), freedom.copy()
    if groups < 3 or known.sum() < 3:
        return variance, freedom
    half = freedom[known] / 2
    # The logarithm of a variance estimated with d degrees of freedom has this bias, and the variance ψ'(d / 2).
    log = np.log(variance[known]) - digamma(half) + np.log(half)
    own = polygamma(1, half)
    scale = np.sqrt(np.median(variance[known]))
    expected, coefficients = _expected(log, 1 / own, np.log(scale + distance[known]), groups)
    between = _between(log - expected, own, groups, coefficients) + _uncertainty(freedom[known], groups)
    weight = own / (own + between)
    left = _inverse_trigamma(1 / (1 / own + 1 / between))
    variance[known] = np.exp(weight * expected + (1 - weight) * log + digamma(left) - np.log(left))
    freedom[known] = 2 * left
    return variance, freedom


def _expected(log: Floats, weights: Floats, level: Floats, groups: int) -> tuple[Floats, int]:
    """The log variances that the others lead to expect, a straight line over `level`; and how many coefficients it has.

    It is level where there are too few groups to fit one, and never falls.
    """
    centre = np.average(log, weights=weights)
    away = level - np.average(level, weights=weights)
    squares = float(weights @ away**2)
    if groups < _FEWEST_FOR_TREND or squares < 1e-9 * float(weights.sum()):  # they are all as good, but for rounding
        return np.full_like(log, centre), 1
    slope = max(0.0, float(weights @ (away * (log - centre))) / squares)
    return centre + slope * away, 2


def _between(residual: Floats, own: Floats, groups: int, coefficients: int) -> float:
    """The variance of the true log variances around the expected ones: what is left beyond their own uncertainty."""
    # Two pairs that share a group have differences correlated by 1/2, so their variances are by 1/4: they vary less
    # among each other than independent estimates would. And groups are independent, not pairs.
    pairs = groups * (groups - 1) / 2
    correlation = 2 * (groups - 2) / (pairs - 1) / 4
    fitted = (groups - 1) / (groups - coefficients)
    spread = fitted * float(residual @ residual) / (len(residual) - 1) / (1 - correlation)
    return max(0.0, spread - float(own.mean()))


def _uncertainty(freedom: Floats, groups: int) -> float:
    """How uncertain the expected value is: the other groups have their own degrees of freedom, and these limit it."""
    from scipy.special import polygamma

    others = (groups - 2) ** 2 / (groups - 1) * float(np.median(freedom))
    return float(polygamma(1, others / 2))


def _inverse_trigamma(value: Floats) -> Floats:
    """x with ψ'(x) = value, by Newton's method on 1 / ψ', which is nearly a straight line (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(20):
        now = polygamma(1, x)
        x = x + now * (1 - now / value) / polygamma(2, x)
    return np.asarray(x, dtype=float)
