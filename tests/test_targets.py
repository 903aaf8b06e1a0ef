"""The default target and the time to it, against loops over the rows."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.scores import Score


def frame(trials):
    """Rows from (optimizer, trial, val accuracy after each epoch, status); each trial is a configuration of its own."""
    return pd.DataFrame(
        [
            {
                "optimizer": optimizer,
                "algorithm": optimizer,
                "trial_id": trial,
                "configuration_id": f"c{trial}",
                "seed": 0,
                "epoch": epoch,
                "step": 10 * epoch,
                "train_seconds": 1.5 * epoch,
                "status": status,
                "val_accuracy": value,
                "val_loss": 1 - value,
                "stack_size": 1,
                "workers": 1,
            }
            for optimizer, trial, values, status in trials
            for epoch, value in enumerate(values)
        ]
    )


def finals(scores):
    """Final rows from label → (algorithm, accuracies of its configurations); None stands for a diverged one."""
    rows = [
        {
            "optimizer": label,
            "algorithm": algorithm,
            "configuration_id": f"{label}{i}",
            "val_accuracy": math.nan if value is None else value,
            "val_loss": math.nan if value is None else 1 - value,
            "status": "diverged" if value is None else "finished",
        }
        for label, (algorithm, values) in scores.items()
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_target_is_the_median_of_the_references():
    table = finals(
        {
            "mine": ("./my_opt.py:Mine", [0.99]),
            "sgd": ("sgd", [0.5, 0.8]),
            "nesterov": ("sgd", [0.7]),
            "adam": ("adam", [0.9, 0.2]),
        }
    )
    assert stats.target(table, Score.val_accuracy) == (pytest.approx(0.8), ["sgd", "nesterov", "adam"])
    assert stats.target(table, Score.val_loss) == (pytest.approx(0.2), ["sgd", "nesterov", "adam"])


def test_without_references_all_set_the_target():
    assert stats.target(finals({"a": ("lion", [0.5]), "b": ("muon", [0.7])}), Score.val_accuracy) == (
        pytest.approx(0.6),
        ["a", "b"],
    )


def test_a_reference_is_scored_by_the_mean_over_its_seeds():
    table = pd.concat([finals({"sgd": ("sgd", [0.5, 0.6])}), finals({"sgd": ("sgd", [0.9, 0.6])})])
    assert stats.target(table, Score.val_accuracy)[0] == pytest.approx(0.7)


def test_a_reference_that_diverged_counts_as_the_worst():
    table = finals({"sgd": ("sgd", [None]), "adam": ("adam", [0.8]), "adamw": ("adamw", [0.9])})
    assert stats.target(table, Score.val_accuracy)[0] == pytest.approx(0.8)
    value, labels = stats.target(table[table["optimizer"] != "adam"], Score.val_loss)
    assert math.isnan(value) and labels == ["sgd", "adamw"]
    assert math.isnan(stats.target(table.assign(status="stopped"), Score.val_accuracy)[0])


ROWS = [
    ("sgd", "slow", [0.1, 0.2, 0.5, 0.9], "finished"),
    ("sgd", "back", [0.1, 0.6, 0.4, 0.9], "finished"),
    ("sgd", "never", [0.1, 0.2, 0.3, 0.4], "finished"),
    ("adam", "wild", [0.1, 0.9, math.nan], "diverged"),
    ("adam", "stopped", [0.1, 0.2], "stopped"),
    ("adam", "stopped late", [0.1, 0.5], "stopped"),
    ("adam", "running", [0.1, 0.9], "running"),
    ("adam", "failed", [0.1, 0.9], "failed"),
]


def test_the_first_epoch_at_the_target_counts_and_a_miss_is_infinite():
    found = stats.time_to_target(frame(ROWS), Score.val_accuracy, 0.5).set_index("trial_id")
    expected = {"slow": 2, "back": 1, "never": math.inf, "wild": math.inf, "stopped": math.inf, "stopped late": 1}
    assert found["epochs_to"].to_dict() == expected
    assert found["steps_to"].to_dict() == {trial: 10 * epochs for trial, epochs in expected.items()}
    assert found["seconds_to"].to_dict() == {trial: 1.5 * epochs for trial, epochs in expected.items()}
    assert found.loc["slow", ["optimizer", "configuration_id", "seed"]].tolist() == ["sgd", "cslow", 0]


def test_a_loss_reaches_its_target_from_above():
    found = stats.time_to_target(frame(ROWS), Score.val_loss, 0.5).set_index("trial_id")
    assert found["epochs_to"].tolist() == [2, 1, math.inf, math.inf, math.inf, 1]


def test_seconds_are_those_of_trials_that_ran_alone():
    rows = frame(ROWS[:3])
    rows.loc[rows["trial_id"] == "slow", "stack_size"] = 4
    rows.loc[rows["trial_id"] == "never", "workers"] = 2
    found = stats.time_to_target(rows, Score.val_accuracy, 0.5)
    assert found["seconds_to"].tolist() == pytest.approx([math.nan, 1.5, math.nan], nan_ok=True)
    assert found["epochs_to"].tolist() == [2, 1, math.inf]


def test_configurations_can_be_named():
    found = stats.time_to_target(frame(ROWS), Score.val_accuracy, 0.5, ["cback", "cwild", "cfailed"])
    assert found["trial_id"].tolist() == ["back", "wild"]
    assert stats.time_to_target(frame(ROWS), Score.val_accuracy, 0.5, []).empty
    assert stats.time_to_target(frame(ROWS)[:0], Score.val_accuracy, 0.5).empty


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.1, 0.5, 0.9, math.nan]), min_size=1, max_size=5),
            st.sampled_from(["finished", "diverged", "stopped", "failed", "running"]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_and_how_text_is_kept_do_not_matter(trials, random):
    rows = frame([("sgd", str(i), values, status) for i, (values, status) in enumerate(trials)])
    order = list(range(len(rows)))
    random.shuffle(order)
    rows = rows.iloc[order].astype(dict.fromkeys(("trial_id", "configuration_id", "optimizer", "status"), "category"))
    found = stats.time_to_target(rows, Score.val_accuracy, 0.5).set_index("trial_id")["epochs_to"].to_dict()
    expected = {}
    for i, (values, status) in enumerate(trials):
        if status in ("finished", "diverged", "stopped"):
            reached = [epoch for epoch, value in enumerate(values) if value >= 0.5 and status != "diverged"]
            expected[str(i)] = min(reached, default=math.inf)
    assert found == expected


def test_medians_keep_the_misses():
    times = stats.time_to_target(frame(ROWS), Score.val_accuracy, 0.5)
    sgd, adam = stats.summarise_targets(times, ["optimizer"]).to_dict("records")
    assert (sgd["optimizer"], sgd["reached"], sgd["n"]) == ("sgd", 2, 3)
    assert (sgd["epochs_to"], sgd["epochs_to_min"], sgd["epochs_to_max"]) == (2, 1, math.inf)
    assert (sgd["steps_to"], sgd["seconds_to"]) == (20, 3)
    assert (adam["reached"], adam["n"], adam["epochs_to"], adam["steps_to_min"]) == (1, 3, math.inf, 10)


@pytest.mark.parametrize(
    ("values", "median"),
    [([1, 2, 4, math.inf], 3), ([1, 2, math.inf, math.inf], math.inf), ([math.inf] * 2, math.inf), ([3], 3)],
)
def test_the_median_of_an_even_number_is_infinite_if_one_of_its_middle_pair_is(values, median):
    times = pd.DataFrame({"optimizer": "sgd", "epochs_to": values, "steps_to": values, "seconds_to": math.nan})
    (row,) = stats.summarise_targets(times, ["optimizer"]).to_dict("records")
    assert (row["epochs_to"], row["steps_to"]) == (median, median)
    assert math.isnan(row["seconds_to"]) and math.isnan(row["seconds_to_min"])
    assert row["reached"] == int(np.isfinite(values).sum())


def test_reaching_a_target_is_a_one_sided_t_test():
    generator = np.random.default_rng(0)
    values = {label: generator.normal(mean, 0.01, 6) for label, mean in (("above", 0.95), ("at", 0.9), ("below", 0.85))}
    rows = [
        {"optimizer": label, "dataset": "digits", "val_accuracy": value, "val_loss": 1 - value, "lost": False}
        for label, found in values.items()
        for value in found
    ]
    finals = pd.DataFrame([*rows, {**rows[0], "optimizer": "alone"}])
    found = stats.reaches(finals, ["optimizer"], Score.val_accuracy, 0.9)
    p = [scipy.stats.ttest_1samp(values[label], 0.9, alternative="greater").pvalue for label in values]
    np.testing.assert_allclose(found[[*values]], stats.holm([*p, math.nan])[:3])
    assert math.isnan(found["alone"])
    np.testing.assert_allclose(found, stats.reaches(finals, ["optimizer"], Score.val_loss, 0.1))
    assert found["above"] < 0.001 < 0.05 < found["at"] <= found["below"]
    worse = finals.assign(lost=finals.index == 0)  # one of six guesses
    assert stats.reaches(worse, ["optimizer"], Score.val_accuracy, 0.9)["above"] > 0.5
