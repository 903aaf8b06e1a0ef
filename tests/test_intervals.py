"""Intervals and averages against scipy, and the coverage of intervals by simulation with known truth."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats

numbers = st.floats(-1e3, 1e3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=2, max_size=19))
def test_interval_of_few_values_equals_scipys_t_interval(values):
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


def test_t_interval_takes_arrays_and_says_nothing_below_two_values():
    n = np.array([0, 1, 2, 5, 40])
    mean = np.array([[0.0], [0.9]])
    low, high = stats.t_interval(mean, 0.1, n)
    assert low.shape == high.shape == (2, 5)
    assert np.isnan(low[:, :2]).all() and np.isnan(high[:, :2]).all()
    expected = scipy.stats.t.interval(0.95, n[2:] - 1, loc=mean, scale=0.1 / np.sqrt(n[2:]))
    np.testing.assert_allclose([low[:, 2:], high[:, 2:]], expected, rtol=1e-12)


SAMPLES = {
    "normal": lambda generator, n: generator.normal(0.9, 0.01, n),
    "exponential": lambda generator, n: generator.exponential(size=n),
    "negative": lambda generator, n: -generator.lognormal(size=n),
    "two values": lambda generator, n: np.where(np.arange(n) < 2, 0.9, 0.93),
    "accuracies": lambda generator, n: generator.binomial(300, 0.95, n) / 300,
}


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize("name", SAMPLES)
def test_interval_of_many_values_equals_scipys_bca_bootstrap(name, n):
    values = SAMPLES[name](np.random.default_rng(n), n)
    found = stats.estimate(values.tolist())
    expanded = 1 - 2 * scipy.stats.norm.cdf(math.sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.025, n - 1))
    low, high = scipy.stats.bootstrap(
        (values,),
        np.mean,
        method="BCa",
        confidence_level=expanded,
        n_resamples=30_000,
        random_state=np.random.default_rng(0),
    ).confidence_interval
    # A quantile of 5,000 draws errs by 0.04 standard errors of the mean; skewness moves the ends by more than `within`.
    within = 0.15 * scipy.stats.sem(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=within)
    assert found.high == pytest.approx(high, abs=within)
    if name in ("exponential", "negative", "two values"):
        plain = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
        assert max(abs(found.low - plain[0]), abs(found.high - plain[1])) > within


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=20, max_size=60).flatmap(lambda v: st.tuples(st.just(v), st.permutations(v))))
def test_the_same_values_in_any_order_give_the_same_interval_around_their_mean(values):
    found = stats.estimate(values[0])
    assert found == stats.estimate(values[1])
    assert min(values[0]) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values[0]) + 1e-9


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-300, 0.9366666666666666, 1e30])
@pytest.mark.parametrize("n", [20, 21, 33, 49])
def test_constant_values_give_a_point(value, n):
    found = stats.estimate([value] * n)
    assert found.low == found.mean == found.high == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("n", [20, 29, 47])
def test_values_that_differ_by_rounding_alone_have_an_interval(n):
    found = stats.estimate([0.1] * (n - 1) + [math.nextafter(0.1, 1)])
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "skewed", "least"),
    [
        (3, False, 0.92),
        (5, False, 0.92),
        (10, False, 0.92),
        (19, False, 0.92),
        (20, False, 0.92),
        (50, False, 0.92),
        (20, True, 0.92),
        (50, True, 0.92),
    ],
)
def test_interval_covers_the_true_mean(n, skewed, least):
    generator = np.random.default_rng(0)
    repeats = 1500
    covered = 0
    for _ in range(repeats):
        values = generator.exponential(size=n) if skewed else generator.normal(1, 0.01, n)
        found = stats.estimate(values)
        covered += found.low <= 1 <= found.high
    assert least <= covered / repeats <= 0.98


def test_bootstrap_misses_on_both_sides_of_skewed_values_where_t_misses_on_one():
    generator = np.random.default_rng(1)
    bootstrap, t = np.zeros(2), np.zeros(2)
    for _ in range(1500):
        values = generator.exponential(size=30)
        found = stats.estimate(values)
        bootstrap += (found.low > 1, found.high < 1)
        low, high = stats.t_interval(values.mean(), values.std(ddof=1), 30)
        t += (low > 1, high < 1)
    assert bootstrap[1] < 3 * bootstrap[0]
    assert t[1] > 5 * t[0]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(numbers, min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_interquartile_mean_is_the_trimmed_mean_of_any_number_of_values(values, random):
    # Four copies of every value have the same middle half, and a quarter of them is a whole number.
    expected = scipy.stats.trim_mean(np.repeat(values, 4), 0.25)
    assert stats.iqm(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if len(values) % 4 == 0:
        assert stats.iqm(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-9)
    shuffled = random.sample(values, len(values))
    assert stats.iqm(shuffled) == stats.iqm(values)
    assert stats.median(shuffled) == stats.median(values) == pytest.approx(np.quantile(values, 0.5), abs=1e-9)


def test_an_outlier_moves_neither_median_nor_interquartile_mean():
    values = [0.90, 0.91, 0.92, 0.93, 0.94]
    assert stats.median([*values[1:], 0.1]) == pytest.approx(0.92)
    assert stats.iqm([*values, -1e6]) == pytest.approx((0.90 / 2 + 0.91 + 0.92 + 0.93 / 2) / 3)


def test_averages_of_nothing_are_nan():
    assert math.isnan(stats.median([])) and math.isnan(stats.iqm([]))
