"""Numbers against independent computations: scipy, brute force, simulation with known truth."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench import stats
from optbench.scores import Score


def frame(records):
    """Rows as the store has them, from (optimizer, configuration, seed, epoch, val accuracy, status)."""
    rows = []
    for optimizer, configuration, seed, epoch, value, status in records:
        rows.append(
            {
                "trial_id": f"{configuration}/{seed}",
                "configuration_id": configuration,
                "optimizer": optimizer,
                "dataset": "digits",
                "seed": seed,
                "epoch": epoch,
                "epochs": 2,
                "steps": math.nan,
                "batch_size": 64,
                "status": status,
                "train_accuracy": value + 0.01,
                "val_accuracy": value,
                "val_loss": 1 - value,
                "train_loss": 0.9 - value,
                "test_loss": 1.1 - value,
                "test_accuracy": value - 0.01,
                "train_seconds": 10.0,
                "stack_size": 1,
                "workers": 1,
            }
        )
    return pd.DataFrame(rows)


def test_selection_is_on_the_mean_over_seeds():
    rows = frame(
        [
            ("adam", "lucky", 0, 2, 0.99, "finished"),
            ("adam", "lucky", 1, 2, 0.80, "finished"),
            ("adam", "steady", 0, 2, 0.91, "finished"),
            ("adam", "steady", 1, 2, 0.92, "finished"),
            ("sgd", "only", 0, 2, 0.50, "finished"),
        ]
    )
    finals = stats.final(rows)
    assert stats.select(finals, ["optimizer"], Score.val_accuracy).to_dict() == {"adam": "steady", "sgd": "only"}
    assert stats.select(finals, ["optimizer"], Score.val_loss).to_dict() == {"adam": "steady", "sgd": "only"}


def test_a_configuration_that_diverged_comes_after_all_that_did_not():
    rows = frame(
        [
            ("adam", "wild", 0, 2, 0.99, "finished"),
            ("adam", "wild", 1, 2, math.nan, "diverged"),
            ("adam", "tame", 0, 2, 0.60, "finished"),
            ("adam", "tame", 1, 2, 0.61, "finished"),
        ]
    )
    finals = stats.final(rows)
    assert stats.select(finals, ["optimizer"], Score.val_accuracy)["adam"] == "tame"
    (row,) = stats.compare(finals, ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (row["n"], row["trials"], row["diverged"]) == (2, 4, 1)


def test_a_configuration_with_fewer_seeds_does_not_win_by_luck():
    rows = frame(
        [("adam", "lucky", 4, 2, 0.99, "finished")] + [("adam", "known", seed, 2, 0.9, "finished") for seed in range(5)]
    )
    assert stats.select(stats.final(rows), ["optimizer"], Score.val_accuracy)["adam"] == "known"


def test_a_configuration_that_always_diverged_comes_after_one_with_fewer_seeds():
    rows = frame(
        [("adam", "wild", seed, 2, math.nan, "diverged") for seed in range(3)]
        + [("adam", "tame", 0, 2, 0.9, "finished"), ("adam", "tame", 1, 2, 0.9, "finished")]
    )
    assert stats.select(stats.final(rows), ["optimizer"], Score.val_accuracy)["adam"] == "tame"


def test_states_follow_the_last_row_of_a_trial():
    rows = frame(
        [
            ("a", "x", 0, 1, 0.5, "finished"),
            ("a", "x", 0, 2, 0.5, "finished"),
            ("a", "x", 1, 0, 0.5, "stopped"),
            ("a", "x", 1, 1, 0.5, "stopped"),
            ("a", "x", 2, 1, math.nan, "diverged"),
            ("a", "x", 3, 0, 0.5, "failed"),
            ("a", "x", 4, 1, 0.5, "running"),
        ]
    )
    found = stats.states(rows).set_index("trial_id")[["status", "epoch"]].T.to_dict("list")
    assert found == {
        "x/0": ["finished", 2],
        "x/1": ["stopped", 1],
        "x/2": ["diverged", 1],
        "x/3": ["failed", 0],
        "x/4": ["running", 1],
    }


def test_what_diverged_everywhere_is_shown_and_not_filled():
    rows = frame(
        [("adam", "wild", seed, 2, math.nan, "diverged") for seed in (0, 1)] + [("sgd", "x", 0, 2, 0.4, "finished")]
    )
    first, second = stats.compare(stats.final(rows), ["optimizer"], Score.val_accuracy).to_dict("records")
    assert first["optimizer"] == "sgd"
    assert (second["n"], second["trials"], second["diverged"]) == (0, 2, 2)
    assert math.isnan(second["test_accuracy"])


def test_compare_equals_brute_force():
    generator = np.random.default_rng(3)
    records = [
        (optimizer, f"{optimizer}{c}", seed, epoch, float(generator.uniform(0.2, 1)), "finished")
        for optimizer in ("a", "b", "c")
        for c in range(4)
        for seed in range(5)
        for epoch in (0, 1, 2)
    ]
    finals = stats.final(frame(records))
    result = stats.compare(finals, ["optimizer"], Score.val_accuracy, timed=finals).set_index("optimizer")
    for optimizer in ("a", "b", "c"):
        groups = {}
        for o, configuration, _, epoch, value, _ in records:
            if o == optimizer and epoch == 2:
                groups.setdefault(configuration, []).append(value)
        best = max(groups, key=lambda configuration: np.mean(groups[configuration]))
        row = result.loc[optimizer]
        assert row["configuration_id"] == best
        assert row["val_accuracy"] == pytest.approx(np.mean(groups[best]))
        assert row["test_accuracy"] == pytest.approx(np.mean(groups[best]) - 0.01)
        assert row["gap"] == pytest.approx(0.01)
        assert row["n"] == 5
        assert row["seconds_per_epoch"] == pytest.approx(5.0)
    assert result["val_accuracy"].is_monotonic_decreasing


def test_seconds_are_those_of_the_timed_trials():
    rows = frame([("adam", "x", seed, epoch, 0.9, "finished") for seed in range(3) for epoch in (1, 2)])
    timed = rows[rows["seed"] < 2].assign(train_seconds=[5.0, 10.0, 7.0, 14.0])
    (row,) = stats.compare(stats.final(rows), ["optimizer"], Score.val_accuracy, timed=timed).to_dict("records")
    assert row["seconds_per_epoch"] == 6.0
    (row,) = stats.compare(stats.final(rows), ["optimizer"], Score.val_accuracy, timed=timed[:0]).to_dict("records")
    assert math.isnan(row["seconds_per_epoch"])


def test_only_trials_that_came_to_their_end_are_final():
    rows = frame(
        [
            ("adam", "x", 0, 1, 0.1, "finished"),
            ("adam", "x", 0, 2, 0.2, "finished"),
            ("adam", "x", 1, 1, 0.3, "running"),
            ("adam", "x", 2, 2, 0.4, "failed"),
            ("adam", "x", 3, 0, 0.1, "diverged"),
            ("adam", "x", 3, 1, math.nan, "diverged"),
            ("adam", "x", 4, 1, 0.4, "stopped"),
        ]
    )
    assert stats.final(rows)[["trial_id", "epoch"]].to_numpy().tolist() == [["x/0", 2], ["x/3", 1], ["x/4", 1]]


def test_a_stopped_trial_neither_selects_nor_scores_and_counts():
    rows = frame(
        [("adam", "good", seed, 2, 0.5, "finished") for seed in (0, 1)]
        + [("adam", "lucky", seed, 1, 0.9, "stopped") for seed in (0, 1)]
        + [("sgd", "only", 0, 1, 0.7, "stopped")]
    )
    first, second = stats.compare(stats.final(rows), ["optimizer"], Score.val_accuracy).to_dict("records")
    assert (first["configuration_id"], first["n"], first["trials"]) == ("good", 2, 4)
    assert (second["optimizer"], second["n"], second["trials"]) == ("sgd", 0, 1)
    assert math.isnan(second["val_accuracy"])


def test_fresh_seeds_score_what_the_others_selected():
    tuning = stats.final(
        frame([("adam", "a", 0, 2, 0.8, "finished"), ("adam", "b", 0, 2, 0.9, "finished")])  # b is selected
    )
    fresh = stats.final(frame([("adam", "b", seed, 2, 0.5 + seed / 100, "finished") for seed in (7, 8)]))
    (row,) = stats.compare(tuning, ["optimizer"], Score.val_accuracy, fresh).to_dict("records")
    assert row["configuration_id"] == "b"
    assert row["val_accuracy"] == pytest.approx(0.575)
    assert (row["n"], row["trials"]) == (2, 4)


def test_hyperparameters_become_columns_where_they_vary():
    rows = pd.DataFrame(
        {
            "optimizer": ["sgd", "sgd", "adam", "adam"],
            "lr": [0.1, 0.2, 0.3, 0.3],
            "hyperparameters": [
                '{"momentum": 0.0, "nesterov": false}',
                '{"momentum": 0.9, "nesterov": false}',
                '{"betas": [0.9, 0.99]}',
                '{"betas": [0.9, 0.999]}',
            ],
        }
    )
    wide, varying = stats.with_hyperparameters(rows)
    assert varying == ["lr", "hyperparameter.momentum", "hyperparameter.betas"]
    assert wide["hyperparameter.momentum"].tolist()[:2] == [0.0, 0.9]
    assert wide["hyperparameter.betas"].tolist()[2:] == ["[0.9, 0.99]", "[0.9, 0.999]"]
    assert [name for name in wide if "nesterov" in name] == []


def test_null_is_a_value_like_others():
    texts = ['{"max_eval": null}', '{"max_eval": 5}', "{}"]
    rows = pd.DataFrame({"optimizer": ["lbfgs", "lbfgs", "sgd"], "lr": 0.1, "hyperparameters": texts})
    wide, varying = stats.with_hyperparameters(rows)
    assert varying == ["hyperparameter.max_eval"]
    assert wide["hyperparameter.max_eval"].tolist()[:2] == ["null", 5]


def test_dropout_has_one_label_for_both_rates():
    rows = pd.DataFrame({"dropout": [0.5, None], "dropout_conv": [0.5, 0.1], "dropout_linear": [0.5, 0.25]})
    assert stats.with_labels(rows)["dropout"].tolist() == ["0.5", "0.1 + 0.25"]


def test_seconds_per_epoch_count_the_part_of_the_last_one_that_steps_leave():
    """30 steps of 18 an epoch, digits' 1,200 images in batches of 64: 1.67 epochs."""
    rows = frame([("adam", "x", 0, epoch, 0.9, "finished") for epoch in (1, 2)]).assign(steps=30)
    (row,) = stats.compare(stats.final(rows), ["optimizer"], Score.val_accuracy, timed=rows).to_dict("records")
    assert row["seconds_per_epoch"] == pytest.approx(10 / (30 / 18))
