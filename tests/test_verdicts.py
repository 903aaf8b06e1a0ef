"""Verdicts against scipy's tests, their error rates, and the seeds that it takes."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from optbench import stats
from tests.test_ranking import at_most, frame


def compared(scores, reference, was_chosen=True, rope=math.nan):
    return stats.verdicts(stats.differences(scores), reference, was_chosen, rope)


def test_two_groups_are_compared_as_scipy_compares_them():
    scores = frame(np.random.default_rng(2), 6, 2).set_axis(["a", "b"], axis=1) - [0.0, 0.01]
    (row,) = compared(scores, "a", rope=0.02).itertuples()
    d = scores["b"] - scores["a"]
    low, high = scipy.stats.ttest_1samp(d, 0).confidence_interval()
    assert (row.Index, row.n, row.difference) == ("b", 6, pytest.approx(d.mean()))
    assert (row.difference_low, row.difference_high) == (pytest.approx(low), pytest.approx(high))
    assert row.p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue)
    assert row.effect == pytest.approx(d.mean() / d.std())
    two = [
        scipy.stats.ttest_1samp(d, end, alternative=side).pvalue for end, side in ((-0.02, "greater"), (0.02, "less"))
    ]
    assert row.p_equivalent == pytest.approx(max(two))
    assert row.seeds_needed == stats.seeds_needed(0.02, d.std(), 0.05)
    (other,) = compared(scores, "b", rope=0.02).itertuples()
    assert (other.difference, other.p, other.effect) == (
        pytest.approx(-row.difference),
        row.p,
        pytest.approx(-row.effect),
    )


def test_a_baseline_chosen_in_advance_costs_fewer_tests_than_the_best():
    scores = frame(np.random.default_rng(3), 6, 5) - np.arange(5) * 0.01
    pairs = stats.differences(scores)
    chosen, best = (stats.verdicts(pairs, 0, was_chosen, 0.01) for was_chosen in (True, False))
    raw = pairs.set_index(["first", "second"])["p"]
    np.testing.assert_allclose(chosen["p"], stats.holm([raw[0, g] for g in chosen.index]))
    np.testing.assert_allclose(best["p"], pairs.set_index(["first", "second"])["p_adjusted"][0])
    assert (chosen["p"] <= best["p"]).all() and (chosen["p"] < best["p"]).any()
    assert (chosen["seeds_needed"] < best["seeds_needed"]).all()


@pytest.mark.parametrize(
    ("shift", "rope", "verdict"),
    [
        (0.1, 0.01, "better"),
        (-0.1, 0.01, "worse"),
        (0.01, 0.1, "slightly better"),
        (-0.01, 0.1, "slightly worse"),
        (0.0, 0.1, "equivalent"),
        (0.0, 1e-6, "undecided"),
        (0.0, math.nan, "undecided"),
        (-0.1, math.nan, "worse"),
    ],
)
def test_the_verdict_says_what_the_tests_say(shift, rope, verdict):
    noise = np.array([0.3, -0.4, 0.1, 0.2, -0.2]) / 1000
    scores = pd.DataFrame({"base": 0.8 + 3 * noise, "other": 0.8 + shift + noise[::-1]})
    found = compared(scores, "base", rope=rope)
    assert found["verdict"].tolist() == [verdict]
    assert math.isnan(found["p_equivalent"]["other"]) == math.isnan(rope) == math.isnan(found["seeds_needed"]["other"])


def test_what_cannot_be_compared_has_no_verdict():
    scores = pd.DataFrame({"a": [0.9, 0.8], "b": [0.7, math.nan], "c": [math.nan, math.nan]})
    found = compared(scores, "a", rope=0.01)
    assert found["verdict"].tolist() == ["", ""]
    assert found.drop(columns=["n", "difference", "verdict"]).isna().all(axis=None)
    same = compared(pd.DataFrame({"a": [0.5, 0.5], "b": [0.5, 0.5]}), "a", rope=0.01)
    assert same[["difference", "effect", "p", "p_equivalent"]].to_numpy().tolist() == [[0, 0, 1, 0]]
    assert same["verdict"].tolist() == ["equivalent"]


@pytest.mark.slow
def test_different_groups_are_rarely_called_equivalent_and_equal_ones_rarely_different():
    generator, repeats, rope = np.random.default_rng(4), 1000, 0.01
    wrong_equivalent = wrong_different = right = 0
    for _ in range(repeats):
        noise = frame(generator, 10, 5, 0.004)
        at_the_edge = compared(noise + np.array([0, rope, -rope, rope, -rope]), 0, rope=rope)
        wrong_equivalent += at_the_edge["verdict"].isin(["equivalent", "slightly better", "slightly worse"]).any()
        equal = compared(noise, 0, rope=rope)
        wrong_different += (equal["p"] <= 0.05).any()
        right += (equal["verdict"] == "equivalent").mean()
    assert wrong_equivalent / repeats <= at_most(0.05, repeats)
    assert wrong_different / repeats <= at_most(0.05, repeats)
    assert right / repeats > 0.9
