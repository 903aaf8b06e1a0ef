"""What a report is asked for: every option says what is wrong with it in one line."""

import pandas as pd
import pytest

from optbench.errors import UserError
from optbench.report.query import matching, parse_at, parse_metric, parse_target

FINALS = pd.DataFrame(
    {
        "trial_id": ["a", "b", "c"],
        "optimizer": ["sgd", "sgd", "adam"],
        "batch_size": [32, 64, 64],
        "lr": [0.1, 0.2, 0.001],
        "hyperparameter.momentum": [0.0, 0.9, None],
    }
)


def test_at_is_a_word_or_an_epoch():
    assert [parse_at(text) for text in ("last", "best", "epoch=3", "epoch = 0")] == ["last", "best", 3, 0]
    for text in ("first", "epoch", "epoch=", "epoch=-1", "epoch=x", "3"):
        with pytest.raises(UserError, match="valid: last, best, epoch=K"):
            parse_at(text)


def test_a_target_is_a_share_or_in_percent():
    assert parse_target("98.5%") == pytest.approx(0.985)
    assert parse_target(" 0.985 ") == 0.985
    for text in ("", "%", "high", "nan", "inf", "120%"):
        with pytest.raises(UserError, match="target "):
            parse_target(text)


def test_a_misspelt_metric_is_named():
    with pytest.raises(UserError, match="did you mean 'test_accuracy'"):
        parse_metric("test_acuracy")


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("batch_size == 64", "bc"),
        ("batch_size == 64 and optimizer == 'sgd'", "b"),
        ("optimizer in ['adam', 'lion']", "c"),
        ("lr < 0.15", "ac"),
        ("momentum == 0.9", "b"),
        ("optimizer.str.startswith('a')", "c"),
    ],
)
def test_a_condition_picks_trials(where, ids):
    assert "".join(matching(FINALS, where)["trial_id"]) == ids


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("batch_sise == 64", "'batch_sise' is not defined; columns: batch_size"),
        ("optimizer == adam", "name 'adam' is not defined; a value of optimizer is written with quotes, 'adam'"),
        ("batch_size = 64", "is not a condition"),
        ("batch_size ==", "invalid syntax"),
        ("batch_size + 1", "is not a condition"),
        ("batch_size == 65", "no trial meets this condition"),
        ("optimizer < 3", "where 'optimizer < 3': "),
        ("True", "is not a condition"),
    ],
)
def test_a_condition_that_is_none_is_explained_in_one_line(where, why):
    with pytest.raises(UserError) as caught:
        matching(FINALS, where)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
