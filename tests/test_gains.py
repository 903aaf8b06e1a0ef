"""What tuning gains, against scipy and by hand, and how often it is found where there is nothing to gain."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from optbench import stats
from optbench.scores import Score
from tests.test_ranking import at_most, frame


def finals(scores, side, lost=()):
    """A row for each seed and optimizer of a wide frame; of `lost`, pairs of both, training brought nothing."""
    rows = [
        {
            "optimizer": label,
            "configuration_id": f"{label} {side}",
            "seed": seed,
            "status": "finished",
            "dataset": "digits",
            "test_accuracy": value,
            "test_loss": 1 - value,
            "lost": (seed, label) in lost,
        }
        for label, column in scores.items()
        for seed, value in column.items()
        if not math.isnan(value)
    ]
    return pd.DataFrame(rows)


def gains(tuned, default, score=Score.test_accuracy, lost=()):
    return stats.gains(finals(tuned, "tuned"), finals(default, "default", lost), score)


def wide(seed, seeds=6, labels="abc"):
    """Scores of optimizers tuned and at their defaults."""
    both = frame(np.random.default_rng(seed), seeds, 2 * len(labels))
    sides = both.iloc[:, : len(labels)], both.iloc[:, len(labels) :]
    return tuple(side.set_axis(list(labels), axis=1) for side in sides)


def test_the_gain_of_one_optimizer_is_tested_as_scipy_tests_it():
    tuned, default = wide(0, labels="a")
    (row,) = gains(tuned + 0.02, default.iloc[1:]).itertuples()  # the first seed is missing
    d = (tuned + 0.02 - default).iloc[1:]["a"]
    test = scipy.stats.ttest_1samp(d, 0)
    low, high = test.confidence_interval()
    assert (row.Index, row.n_both, row.gain) == ("a", 5, pytest.approx(d.mean()))
    assert (row.gain_low, row.gain_high) == (pytest.approx(low), pytest.approx(high))
    assert row.p == pytest.approx(test.pvalue)


def test_gains_of_several_are_corrected_for_as_many_tests():
    tuned, default = wide(1)
    tuned += [0.02, 0.01, -0.01]
    found = gains(tuned, default)
    both = pd.concat({"t": tuned, "d": default}, axis=1).swaplevel(axis=1)
    pairs = stats.differences(both).set_index(["first", "second"])["p"]
    np.testing.assert_allclose(found["gain"], (tuned - default).mean())
    np.testing.assert_allclose(found["p"], stats.holm([pairs[(label, "t"), (label, "d")] for label in "abc"]))
    assert ((found["gain_low"] < found["gain"]) & (found["gain"] < found["gain_high"])).all()


def test_a_lower_loss_is_a_gain():
    tuned, default = wide(2)
    accuracy, loss = (gains(tuned + 0.02, default, score) for score in (Score.test_accuracy, Score.test_loss))
    pd.testing.assert_frame_equal(accuracy, loss)


def test_a_lost_seed_counts_as_guessing():
    tuned, default = wide(3)
    found = gains(tuned, default, lost={(0, "a"), (4, "a")})
    guessing = default.copy()
    guessing.loc[[0, 4], "a"] = 0.1
    np.testing.assert_allclose(found["gain"], (tuned - guessing).mean())


def test_defaults_that_were_selected_gain_nothing_and_are_not_tested():
    tuned, default = wide(4)
    mine, theirs = finals(tuned, "tuned"), finals(default, "default")
    same = theirs["optimizer"] == "b"
    theirs = pd.concat([theirs[~same], mine[mine["optimizer"] == "b"]])
    found = stats.gains(mine, theirs, Score.test_accuracy)
    assert found.loc["b", "gain"] == 0 and found.loc["b", ["gain_low", "gain_high", "p", "n_both"]].isna().all()
    pd.testing.assert_frame_equal(found.drop("b"), gains(tuned[["a", "c"]], default[["a", "c"]]))


def test_one_common_seed_has_a_gain_and_nothing_else():
    tuned, default = wide(5, seeds=1)
    found = gains(tuned, default)
    np.testing.assert_allclose(found["gain"], (tuned - default).iloc[0])
    assert found[["gain_low", "gain_high", "p"]].isna().all(axis=None)


def test_what_is_only_on_one_side_has_no_gain():
    tuned, default = wide(6)
    assert gains(tuned[["a", "b"]], default[["b", "c"]]).index.tolist() == ["b"]
    assert gains(tuned[["a"]], default[["c"]]).empty


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0, 0.5])
def test_where_there_is_nothing_to_gain_hardly_ever_a_gain_is_found(spread):
    generator, wrong, repeats = np.random.default_rng(7), 0, 200
    for _ in range(repeats):
        sd = 0.01 * np.exp(generator.normal(0, spread, 4))
        level = generator.normal(0, 0.03, 4)  # optimizers differ, their two configurations do not
        shared = generator.normal(0.9, 0.02, (5, 1)) + level
        tuned, default = (pd.DataFrame(shared + generator.normal(0, 1, (5, 4)) * sd, columns=[*"abcd"]) for _ in "td")
        wrong += (gains(tuned, default)["p"] <= 0.05).any()
    assert wrong / repeats <= at_most(0.06, repeats)
