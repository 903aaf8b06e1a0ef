"""What trials end with is the same whether the texts of the rows are plain or categories."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench import stats
from optbench.sweep.axes import COMPARED
from tests.generate import write

TEXTS = ("trial_id", "optimizer", "status", "hyperparameters", "schedule", "model")


@st.composite
def rows(draw):
    """Rows of a few trials in any order, some of them cut short."""
    found = []
    for trial in range(draw(st.integers(1, 6))):
        momentum = draw(st.sampled_from(["0.0", "0.9", "null"]))
        same = {
            "trial_id": f"t{draw(st.integers(0, 99)):02}-{trial}",
            "dataset": "digits",
            "optimizer": draw(st.sampled_from(["sgd", "adam"])),
            "lr": draw(st.sampled_from([0.1, 0.2])),
            "hyperparameters": f'{{"momentum": {momentum}}}',
            "schedule": draw(st.sampled_from(["constant", "cosine"])),
            "dropout_conv": draw(st.sampled_from([0.0, 0.1, 0.25])),
            "dropout_linear": draw(st.sampled_from([0.0, 0.25])),
            "status": draw(st.sampled_from(["finished", "diverged", "stopped", "failed", "running"])),
            "model": "cnn",
        }
        for epoch in range(draw(st.integers(1, 4))):
            value = draw(st.sampled_from([0.25, 0.5, float("nan")]))
            found.append(same | {"epoch": epoch, "train_accuracy": 1 - value, "val_accuracy": value})
    return pd.DataFrame(draw(st.permutations(found)))


@given(rows())
@settings(deadline=None, derandomize=True, max_examples=50)
def test_categories_and_plain_texts_come_to_the_same(frame):
    spare = pd.CategoricalDtype([*sorted({value for name in TEXTS for value in frame[name]}), "zz"])  # more than occur
    categories = frame.astype(dict.fromkeys(TEXTS, spare))
    ends = []
    for each in (frame, categories):
        labelled = stats.with_labels(each)
        finals, hyperparameters = stats.with_hyperparameters(stats.final(labelled))
        assert not len(finals.select_dtypes("category").columns)
        plain = finals.astype(dict.fromkeys([*TEXTS, "dropout"], object))
        ends.append((plain, hyperparameters, stats.varying(labelled, ("optimizer", "schedule", "dropout", "model"))))
        states = stats.states(each)
        assert dict(zip(states["trial_id"], states["epoch"], strict=True)) == {
            trial: max(row["epoch"] for row in frame.to_dict("records") if row["trial_id"] == trial)
            for trial in frame["trial_id"]
        }
        wide, names = stats.with_hyperparameters(each)
        assert names == stats.with_hyperparameters(frame)[1]
        for name in names:
            assert [str(value) for value in wide[name]] == [str(v) for v in stats.with_hyperparameters(frame)[0][name]]
    pd.testing.assert_frame_equal(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]
    expected = [
        f"{row.dropout_conv:g}" if row.dropout_conv == row.dropout_linear else f"{row.dropout_conv:g} + 0.25"
        for row in frame.itertuples()
        if row.dropout_linear
    ]
    assert stats.with_labels(frame)["dropout"][frame["dropout_linear"] > 0].tolist() == expected


def test_an_unknown_rate_of_dropout_is_a_value_too():
    frame = pd.DataFrame({"dropout_conv": [0.1, np.nan], "dropout_linear": [0.1, 0.5]})
    assert stats.with_labels(frame)["dropout"].tolist() == ["0.1", "nan + 0.5"]
    assert stats.with_labels(frame.iloc[:0])["dropout"].tolist() == []


def test_rates_with_the_same_digits_share_a_label():
    frame = pd.DataFrame({"dropout_conv": [0.1, 0.1 + 1e-12], "dropout_linear": [0.1, 0.1 + 1e-12]})
    assert stats.with_labels(frame)["dropout"].tolist() == ["0.1", "0.1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write(tmp_path_factory.mktemp("results") / "made-up", 300, 6, optimizers=3, schedules=2, confirm=2)


def test_finals_of_a_store_are_those_of_its_last_rows(store):
    every, last = stats.final(store.rows()), stats.final(store.rows(last=True))
    pd.testing.assert_frame_equal(every.reset_index(drop=True), last.reset_index(drop=True))
    assert every["trial_id"].is_unique
    assert set(every["status"]) == {"finished", "diverged"}
    assert (every.loc[every["status"] == "finished", "epoch"] == 6).all()
    assert every.loc[every["status"] == "diverged", "val_accuracy"].isna().all()
    assert stats.varying(every, list(COMPARED)) == ["optimizer", "schedule", "batch_size", "dropout"]
