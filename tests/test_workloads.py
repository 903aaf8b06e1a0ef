"""Performance profiles against numerical integration, ranks against scipy and the published table."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats

CHECK = settings(max_examples=60, deadline=None, derandomize=True)


def tables(values, max_rows=6, max_columns=5, min_columns=1):
    """Data frames of workloads × optimizers."""
    return st.integers(min_columns, max_columns).flatmap(
        lambda k: st.lists(st.lists(values, min_size=k, max_size=k), min_size=1, max_size=max_rows).map(
            lambda rows: pd.DataFrame(rows, columns=[f"o{i}" for i in range(k)])
        )
    )


times = st.floats(0.5, 20.0) | st.sampled_from([1.0, 2.0, math.inf, math.nan])


def share_within(times, optimizer, tau):
    """ρ(τ) by its definition."""
    solved = 0
    for row in times.fillna(math.inf).to_dict("records"):
        solved += row[optimizer] < math.inf and row[optimizer] <= tau * min(row.values())
    return solved / len(times)


@CHECK
@given(tables(times), st.floats(1.0, 4.0))
def test_a_profile_is_the_share_of_workloads_within_tau(table, tau):
    found = stats.performance_profile(table)
    for optimizer, steps in found.groupby("optimizer"):
        assert steps["tau"].is_monotonic_increasing and steps["share"].is_monotonic_increasing
        assert (steps["tau"].iloc[0], steps["tau"].iloc[-1]) == (1.0, 4.0)
        known = steps[steps["tau"] <= tau].iloc[-1]
        if abs(steps["tau"] - tau).min() > 1e-9:  # on a jump, rounding decides
            assert known["share"] == share_within(table, optimizer, tau)
    assert found["optimizer"].unique().tolist() == table.columns.tolist()


@CHECK
@given(tables(times), st.sampled_from([1.5, 4.0, 10.0]))
def test_the_score_is_the_integral_of_the_profile(table, r_max):
    found = stats.profile_score(table, r_max)
    profile = stats.performance_profile(table, r_max)
    taus = np.linspace(1, r_max, 4001)
    middle = (taus[1:] + taus[:-1]) / 2
    for optimizer in table:
        steps = profile[profile["optimizer"] == optimizer]
        heights = steps["share"].to_numpy()[np.searchsorted(steps["tau"], middle, side="right") - 1]
        assert found[optimizer] == pytest.approx(heights.mean(), abs=1e-3)
        assert 0 <= found[optimizer] <= 1


def test_the_fastest_everywhere_scores_one_and_a_miss_nothing():
    table = pd.DataFrame(
        {"fast": [1.0, 2.0], "twice": [2.0, 4.0], "lost": [math.inf, math.nan]}, index=["mnist", "digits"]
    )
    assert stats.profile_score(table).to_dict() == {"fast": 1.0, "twice": pytest.approx(2 / 3), "lost": 0.0}


def test_a_workload_that_nobody_solves_counts_as_missed_by_all():
    table = pd.DataFrame({"a": [1.0, math.inf], "b": [1.0, math.inf]})
    assert stats.profile_score(table).tolist() == [0.5, 0.5]
    assert stats.performance_profile(table)["share"].max() == 0.5


def test_a_target_that_was_reached_before_training_takes_no_time():
    table = pd.DataFrame({"a": [0.0], "b": [0.0], "c": [3.0]})
    assert stats.profile_score(table).tolist() == [1.0, 1.0, 0.0]


scores = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5])


@CHECK
@given(tables(scores, max_rows=8, min_columns=3))
def test_friedman_equals_scipy(table):
    found = stats.friedman(table)
    assert found.n == len(table)
    assert found.mean_ranks.to_numpy() == pytest.approx(scipy.stats.rankdata(-table.to_numpy(), axis=1).mean(axis=0))
    if len(table) < 3:
        assert math.isnan(found.p) and math.isnan(found.critical_difference)
        return
    if (table.nunique(axis=1) == 1).all():
        assert math.isnan(found.p) and math.isnan(found.statistic)
        return
    reference = scipy.stats.friedmanchisquare(*table.to_numpy().T)
    assert found.statistic == pytest.approx(reference.statistic, abs=1e-9)
    assert found.p == pytest.approx(reference.pvalue, abs=1e-9)


@pytest.mark.parametrize(
    ("k", "q"), [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)]
)
def test_the_critical_difference_is_that_of_demsars_table(k, q):
    table = pd.DataFrame(np.random.default_rng(0).random((12, k)))
    assert stats.friedman(table).critical_difference == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 12)), rel=5e-4)


def test_a_missing_score_is_the_worst_and_equal_ones_share_their_ranks():
    table = pd.DataFrame({"a": [0.9, 0.9, 0.5], "b": [0.9, math.nan, 0.4], "c": [0.1, math.nan, math.nan]})
    found = stats.friedman(table)
    assert found.mean_ranks.to_dict() == pytest.approx({"a": 3.5 / 3, "b": (1.5 + 2.5 + 2) / 3, "c": (3 + 2.5 + 3) / 3})
    assert 0 < found.p < 1


def test_two_optimizers_have_ranks_but_no_test():
    found = stats.friedman(pd.DataFrame({"a": [0.9] * 5, "b": [0.5] * 5}))
    assert found.mean_ranks.tolist() == [1.0, 2.0]
    assert math.isnan(found.statistic) and math.isnan(found.p) and math.isnan(found.critical_difference)


def test_where_all_tie_there_are_ranks_but_no_statistic():
    found = stats.friedman(pd.DataFrame(0.5, index=range(4), columns=["a", "b", "c"]))
    assert found.mean_ranks.tolist() == [2.0, 2.0, 2.0]
    assert math.isnan(found.statistic) and math.isnan(found.p)
    assert found.critical_difference > 0


def test_alike_optimizers_are_told_apart_in_one_case_of_twenty():
    generator = np.random.default_rng(0)
    wrong = [stats.friedman(pd.DataFrame(generator.random((20, 5)))).p < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(wrong) < 0.08
