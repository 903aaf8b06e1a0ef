"""When a published number is reproduced: decided before anything is measured.

A mean of several runs is hit where the 95 % interval of the difference between both means contains 0: Student's, since
the same recipe spreads the same on both sides, so that even one run of ours can miss. A case that makes m such
comparisons has intervals of 1 − 0.05 / m each (Bonferroni): that a true reproduction misses one of them by chance has a
probability of 0.05 for all together. A single published run is hit where our mean is no further away than the tolerance
that the case states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from optbench.verify.published import Published

_ALPHA = 0.05


class Verdict(StrEnum):
    """Whether a published number is reproduced."""

    hit = "hit"
    miss = "miss"
    not_reached = "not reached"


@dataclass(frozen=True)
class Judgement:
    """What was measured of a published number: the mean of `n` runs, and its difference from what was published.

    A difference of up to `half` is a hit: that is half of its interval or, for a single published run, the tolerance.
    `lost` are those of the runs that diverged: their score is no number, and with one of them nothing is a hit. NaN for
    what is not known.
    """

    verdict: Verdict
    n: int
    lost: int
    mean: float
    difference: float
    half: float


def judge(published: Published, measured: Sequence[float], comparisons: int = 1) -> Judgement:
    """The verdict on a published number by the runs that came as far; `comparisons` of its case have intervals."""
    n = len(measured)
    if not n:
        return Judgement(Verdict.not_reached, 0, 0, math.nan, math.nan, math.nan)
    lost = sum(map(math.isnan, measured))
    mean = math.fsum(measured) / n
    difference = mean - published.mean
    half = _half_width(published, measured, comparisons) if published.tolerance is None else published.tolerance
    is_hit = abs(difference) <= half  # no if either is NaN
    return Judgement(Verdict.hit if is_hit else Verdict.miss, n, lost, mean, difference, half)


def _half_width(published: Published, measured: Sequence[float], comparisons: int) -> float:
    """Half of the interval of the difference, t · s · √(1/n + 1/m) with the variances of both sides pooled."""
    from scipy.special import stdtrit

    assert published.sd is not None, "the mean of several runs has one"
    n, m = len(measured), published.n
    mean = math.fsum(measured) / n
    squares = math.fsum((value - mean) ** 2 for value in measured) + (m - 1) * published.sd**2
    freedom = n + m - 2
    quantile = float(stdtrit(freedom, 1 - _ALPHA / comparisons / 2))
    return quantile * math.sqrt(squares / freedom * (1 / n + 1 / m))
