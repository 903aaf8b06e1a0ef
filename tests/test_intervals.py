"""Intervals against scipy, and their coverage by simulation with known truth."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=19))
def test_interval_equals_scipy(values):
    found = stats.estimate(values)
    assert math.isclose(found.mean, float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-9)
    error = scipy.stats.sem(values)
    low, high = (
        scipy.stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=error) if error > 0 else (found.mean,) * 2
    )
    assert math.isclose(found.low, low, rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(found.high, high, rel_tol=1e-6, abs_tol=1e-9)
    assert found.n == len(values)


def test_interval_says_nothing_it_cannot_know():
    nothing, one = stats.estimate([]), stats.estimate([0.5])
    assert all(map(math.isnan, (nothing.mean, nothing.low, nothing.high, one.low, one.high)))
    assert (one.mean, nothing.n, one.n) == (0.5, 0, 1)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_interval_covers_the_true_mean_in_95_percent(n):
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        found = stats.estimate(generator.normal(0.9, 0.01, n).tolist())
        covered += found.low <= 0.9 <= found.high
    assert 0.92 <= covered / 2000 <= 0.98
