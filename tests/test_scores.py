"""What a score says of itself."""

import pytest

from optbench.results.store import COLUMNS
from optbench.scores import Score
from optbench.sweep.spec import parse


def test_every_score_is_a_column_and_every_measured_column_a_score():
    assert {name for name, *_ in COLUMNS if name.endswith(("_accuracy", "_loss"))} == set(Score)


@pytest.mark.parametrize(
    ("score", "heading", "sign", "scale", "written"),
    [
        (Score.test_accuracy, "test accuracy %", 1, 100, "12.34 %"),
        (Score.val_accuracy, "validation accuracy %", 1, 100, "12.34 %"),
        (Score.train_loss, "train loss", -1, 1, "0.123412"),
    ],
)
def test_a_score_knows_how_it_is_shown_and_what_is_better(score, heading, sign, scale, written):
    assert (score.heading, score.sign, score.scale) == (heading, sign, scale)
    assert score.is_loss == (sign < 0)
    assert score.written(0.1234123) == written
    assert f"{score}" == score.value  # so that it names its column wherever text is made of it


def test_a_sweep_has_a_score_as_its_metric():
    text = "dataset: digits\nepochs: 1\noptimizers: {adam: }\nmetric: "
    assert parse(text + "val_loss").metric is Score.val_loss
