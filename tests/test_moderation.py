"""Moderated variances against their limits and an independent computation, and what they gain in simulations."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats

FLAT = np.zeros(15)


def estimated(true, freedom, generator):
    """Variances estimated from normal values."""
    return true * generator.chisquare(freedom, np.shape(true)) / freedom


def test_two_groups_have_only_their_own():
    variance, freedom = stats.moderate(np.array([0.3]), np.array([4.0]), np.zeros(1), 2)
    assert (variance.tolist(), freedom.tolist()) == ([0.3], [4.0])


def test_variances_that_are_alike_are_pooled_and_those_that_are_not_are_left_alone():
    generator = np.random.default_rng(0)
    alike = estimated(np.full(15, 2.0), 4, generator)
    pooled, freedom = stats.moderate(alike, np.full(15, 4.0), FLAT, 6)
    assert np.log(pooled).std() < 0.4 * np.log(alike).std()
    assert (freedom > 8).all()
    unlike = np.geomspace(1e-6, 1e6, 15)
    own, freedom = stats.moderate(unlike, np.full(15, 4.0), FLAT, 6)
    np.testing.assert_allclose(own, unlike, rtol=0.5)
    assert (freedom < 4.5).all()


def test_one_group_that_varies_much_does_not_make_the_others_look_noisy():
    generator = np.random.default_rng(1)
    pairs = np.array([(i, j) for i in range(8) for j in range(i)])
    noisy = (pairs == 0).any(axis=1)
    found = [
        stats.moderate(estimated(np.where(noisy, 900.0, 1.0), 9, generator), np.full(28, 9.0), np.zeros(28), 8)[0]
        for _ in range(200)
    ]
    assert np.median(np.array(found)[:, ~noisy]) == pytest.approx(1, rel=0.25)


def test_what_is_worse_is_expected_to_vary_more():
    generator = np.random.default_rng(2)
    distance = np.linspace(0, 10, 28)
    true = (1 + distance) ** 2
    errors = {False: [], True: []}
    for _ in range(100):
        seen = estimated(true, 4, generator)
        for known, levels in ((True, distance), (False, np.zeros(28))):
            variance, _ = stats.moderate(seen, np.full(28, 4.0), levels, 8)
            errors[known].append(np.log(variance / true).std())
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False])


def test_it_is_the_lognormal_posterior_with_the_moments_of_the_data():
    """The same by other means: numerical roots, and the posterior of a normal prior of the logarithm."""
    generator = np.random.default_rng(3)
    groups, d = 6, 4.0
    seen = estimated(np.exp(generator.normal(0, 0.8, 15)), d, generator)
    log = np.log(seen) - (scipy.special.digamma(d / 2) - np.log(d / 2))
    error = scipy.special.polygamma(1, d / 2)
    # Of 14 other pairs, 8 share a group, and their variances are correlated by 1/4.
    between = max(0, log.var(ddof=1) / (1 - 8 / 14 / 4) - error)
    between += scipy.special.polygamma(1, 4 * 4 / 5 * d / 2)
    mean = (log / error + log.mean() / between) / (1 / error + 1 / between)
    spread = 1 / (1 / error + 1 / between)
    half = scipy.optimize.brentq(lambda x: scipy.special.polygamma(1, x) - spread, 0.1, 1e4)
    variance, freedom = stats.moderate(seen, np.full(15, d), FLAT, groups)
    np.testing.assert_allclose(freedom, 2 * half)
    np.testing.assert_allclose(np.log(variance), mean + scipy.special.digamma(half) - np.log(half))


variances = st.lists(st.floats(1e-12, 1e6) | st.just(0.0), min_size=6, max_size=6).map(np.array)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    variances, st.lists(st.integers(0, 30), min_size=6, max_size=6), st.lists(st.floats(0, 1e3), min_size=6, max_size=6)
)
def test_whatever_there_is_something_sensible_comes_out(variance, freedom, distance):
    freedom, distance = np.array(freedom, dtype=float), np.array(distance)
    for groups in (4, 5):
        found, left = stats.moderate(variance, freedom, distance, groups)
        known = (variance > 0) & (freedom > 0)
        assert np.isfinite(found).all() and np.isfinite(left).all()
        np.testing.assert_array_equal(found[~known], variance[~known])
        assert (left[known] >= freedom[known] * (1 - 1e-9)).all()  # nobody knows less than before


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_another_unit_changes_only_the_unit(seed, unit):
    generator = np.random.default_rng(seed)
    seen, distance = estimated(np.exp(generator.normal(0, 1, 15)), 3, generator), generator.uniform(0, 2, 15)
    one, freedom = stats.moderate(seen, np.full(15, 3.0), distance, 6)
    other, again = stats.moderate(unit**2 * seen, np.full(15, 3.0), unit * distance, 6)
    np.testing.assert_allclose(other, unit**2 * one, rtol=1e-6)
    np.testing.assert_allclose(again, freedom, rtol=1e-6)
