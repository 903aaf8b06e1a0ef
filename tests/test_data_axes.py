"""How the data are used: the axes validation, input and augment, from the sweep file to the report."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from optbench.data import datasets, named
from optbench.data.arrays import Part
from optbench.data.datasets import load
from optbench.data.info import DATASETS, Last
from optbench.errors import UserError
from optbench.machine.randomness import augmentation
from optbench.report import build, formats, html, plots
from optbench.report.query import Query
from optbench.report.results import prepare
from optbench.results.store import Store
from optbench.runs.job import Job
from optbench.runs.run import events
from optbench.scores import Score
from optbench.stats import finals
from optbench.sweep.axes import Augmentation
from optbench.sweep.spec import parse, to_yaml
from optbench.sweep.stacks import Stack, plan
from optbench.sweep.trials import expand
from optbench.training import engine, step

SWEEP = """dataset: digits
epochs: 2
parameters: {{model: softmax, batch_size: 64{0}}}
optimizers: {{adam: {{lr: 0.01}}}}
"""


def sweep(*parameters, more="", settings=()):
    return parse(SWEEP.format("".join(f", {parameter}" for parameter in parameters)) + more, settings=settings)


def rows_of(trials, data):
    """The rows of each epoch, of one stack."""
    return list(engine.train(Stack(tuple(trials)), data, "cpu"))


def problem(*parameters, more=""):
    with pytest.raises(UserError) as caught:
        expand(sweep(*parameters, more=more))
    return str(caught.value)


# ---------------------------------------------------------------- sweep files


def test_neutral_values_leave_the_ids_as_they_were():
    (plain,) = expand(sweep())
    (written,) = expand(sweep("validation: null", "input: standardised", "augment: {flip: false, crop: 0}"))
    assert written.trial_id == plain.trial_id
    changed = (
        "validation: 100",
        "validation: {last: 100}",
        "validation: 0.1",
        "input: unit",
        "augment: {flip: true}",
        "augment: {crop: 1}",
    )
    assert len({plain.trial_id, *(expand(sweep(one))[0].trial_id for one in changed)}) == 7


def test_each_of_them_is_a_grid_and_is_written_as_it_was_read():
    found = sweep(
        "validation: [null, 100, 0.5, {last: 100}]",
        "input: [standardised, unit, [0.13, 0.3]]",
        "augment: [null, {flip: true}, {flip: true, crop: 4}]",
    )
    trials = expand(found)
    assert len(trials) == 36 and parse(to_yaml(found)) == found
    assert {trial.validation for trial in trials} == {None, 100, 0.5, Last(100)}
    assert {trial.input for trial in trials} == {"standardised", "unit", (0.13, 0.3)}
    assert {trial.augment for trial in trials} == {None, Augmentation(flip=True), Augmentation(flip=True, crop=4)}
    stacks = plan(trials, 4)
    assert len(stacks) == 36
    columns = pd.DataFrame([trial.columns() for trial in trials])
    assert set(columns["validation"]) == {"default", "100", "0.5", "the last 100"}
    assert set(columns["input"]) == {"standardised", "unit", "[0.13, 0.3]"}
    assert set(columns["augment"]) == {"none", "flip", "flip + crop 4"}
    sizes = {trial.validation: (trial.data.train, trial.data.val, trial.data.test) for trial in trials}
    assert sizes == {None: (1200, 297, 300), 100: (1397, 100, 300), 0.5: (749, 748, 300), Last(100): (1397, 100, 300)}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("validation: 0", "takes a number of images, a share below 1, {last: 6000}, none or null, not 0"),
        ("validation: 1.5", "takes a number of images, a share below 1, {last: 6000}, none or null, not 1.5"),
        ("validation: true", "takes a number of images, a share below 1, {last: 6000}, none or null, not true"),
        (
            "validation: all",
            "takes a number of images, a share below 1, {last: 6000}, none or null, not the text 'all'",
        ),
        (
            "validation: {last: 0}",
            "takes a number of images, a share below 1, {last: 6000}, none or null, not {'last': 0}",
        ),
        ("validation: 1497", "adam: validation 1497 is 1497 images of 1497 that are not test images (use 'exclude'"),
        ("input: raw", "takes standardised, unit or a pair, written [[mean, std]], not the text 'raw'"),
        ("input: [0.1, 0.3]", "takes standardised, unit or a pair, written [[mean, std]], not 0.1"),
        ("input: [[0.1, 0]]", "the standard deviation must be above 0, not 0"),
        ("input: [[0.1, 0.2, 0.3]]", "takes standardised, unit or a pair, written [[mean, std]], not [0.1, 0.2, 0.3]"),
        ("augment: flip", "takes a mapping such as {flip: true, crop: 4}, or null, not the text 'flip'"),
        ("augment: {flop: true}", "unknown key 'flop'; did you mean 'flip'?"),
        ("augment: {flip: 1}", "must be true or false, not 1"),
        ("augment: {crop: 1.5}", "must be a number of pixels, not 1.5"),
        ("augment: {crop: 28}", "adam: crop 28 may leave nothing of the images of digits, 28 × 28 pixels"),
        ("validation: [none, 100]", "with no validation set other numbers select: it needs a sweep of its own"),
    ],
)
def test_what_is_wrong_has_its_place(parameters, words):
    assert problem(parameters).partition(": ")[2].startswith(words)
    assert problem(parameters).startswith(("sweep:3:", "sweep:4:"))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_last_images_in_the_order_of_the_data_validate(name, monkeypatch):
    n, test = 40, 10
    pool = Part(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), np.zeros(n, np.int64))
    parts = {"all": pool} if name == "digits" else {"train": pool, "test": pool}
    monkeypatch.setattr(named, "read", lambda *_: parts)
    monkeypatch.setattr(datasets, "ensure", lambda *_: None)
    left = n - test if name == "digits" else n
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], train=left - 5, val=5, test=test))
    data = datasets.load(name, validation=Last(7))
    train, val = (sorted(part.images.flatten().tolist()) for part in (data.train, data.val))
    tested = data.test.images.flatten().tolist() if name == "digits" else []
    assert [*train, *val] == [pixel for pixel in range(n) if pixel not in tested] and len(val) == 7
    assert data.train.images.flatten().tolist() != train  # drawn, by split_seed


def test_what_selects_is_measured():
    assert sweep().metric is Score.val_accuracy
    assert sweep("validation: none").metric is Score.train_loss
    assert sweep("validation: none", more="metric: train_accuracy").metric is Score.train_accuracy
    assert problem("validation: none", more="metric: val_loss") == (
        "sweep:5:9: there is no validation set; select on train_loss or train_accuracy"
    )
    assert problem(more="metric: train_loss") == (
        "sweep:5:9: selecting on the training set favours what overfits; select on val_accuracy or val_loss"
    )
    assert "selecting on the test set would bias it" in problem(more="metric: test_loss")


def test_a_batch_may_be_as_large_as_the_training_set_that_there_is():
    assert expand(parse(SWEEP.format(", validation: none").replace("64", "1497")))
    with pytest.raises(UserError, match="batch_size 1497 is larger than the training set of 1200 images"):
        parse(SWEEP.format("").replace("64", "1497"))


# ---------------------------------------------------------------- input


@pytest.mark.parametrize(("given", "mean", "std"), [("unit", 0, 1), ("[[0.1302, 0.3069]]", 0.1302, 0.3069)])
def test_pixels_are_scaled_as_asked_for(digits, given, mean, std):
    (trial,) = expand(sweep(f"input: {given}"))
    scaled = digits.scaled(trial.input).normalise(digits.train.images, torch.float64)
    assert torch.equal(scaled, (digits.train.images.double() / 255 - mean) / std)
    found, usual = (rows_of(trials, digits)[0][0]["test_loss"] for trials in ([trial], expand(sweep())))
    assert found != usual


def test_a_pair_is_for_all_channels(digits):
    colour = replace(digits, info=replace(digits.info, image=(3, 28, 28))).scaled((0.5, 0.25))
    assert (colour.info.mean, colour.info.std) == ((0.5,) * 3, (0.25,) * 3)


# ---------------------------------------------------------------- augment


def augmented(image, uniform, flip, crop):
    """A plain loop over the pixels of one image (C, H, W)."""
    channels, height, width = image.shape
    down, right = (int(float(u) * (2 * crop + 1)) - crop for u in uniform[1:])
    result = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                from_x = width - 1 - x if flip and uniform[0] < 0.5 else x
                if 0 <= y + down < height and 0 <= from_x + right < width:
                    result[c, y, x] = image[c, y + down, from_x + right]
    return result


def augmenting(flip, crop, seeds, steps, batch_size, image=(3, 6, 5)):
    (trial,) = expand(sweep(f"augment: {{flip: {str(flip).lower()}, crop: {crop}}}"))
    info = replace(DATASETS["digits"], image=image)
    made_up = type("MadeUp", (), {"augment": trial.augment, "batch_size": batch_size, "data": info})()
    return step._Augmenting(made_up, seeds, steps, torch.device("cpu"))


@pytest.mark.parametrize(("flip", "crop"), [(True, 0), (False, 2), (True, 2)])
def test_images_are_augmented_as_a_plain_loop_does_it(flip, crop):
    seeds, epoch, first, size = [3, 8], 4, 2, 7
    pixels = torch.randint(1, 256, (2, size, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changing = augmenting(flip, crop, 2, 3, size)
    changing.draw(seeds, epoch, first, 3)
    found = changing.change(pixels, torch.arange(size, 2 * size))  # the step after the first of the chunk
    uniform = augmentation(seeds, epoch, (first + 1) * size, size, "cpu")
    for s in range(2):
        for b in range(size):
            assert torch.equal(found[s, b], augmented(pixels[s, b], uniform[s, b], flip, crop))
    assert not torch.equal(found, pixels)


def test_what_is_drawn_belongs_to_the_place_in_the_epoch_whatever_the_batch_size():
    pixels = torch.randint(256, (1, 24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = []
    for size in (4, 8):
        changing = augmenting(True, 2, 1, 24 // size, size, (1, 8, 8))
        changing.draw([5], 1, 0, 24 // size)
        found.append(
            torch.cat(
                [
                    changing.change(part, torch.arange(i * size, (i + 1) * size))
                    for i, part in enumerate(pixels.split(size, 1))
                ],
                1,
            )
        )
    assert torch.equal(*found)


def test_half_of_the_images_are_flipped_and_every_crop_is_as_likely():
    uniform = augmentation([0], 1, 0, 10_000, "cpu")[0]
    assert (uniform[:, 0] < 0.5).double().mean() == pytest.approx(0.5, abs=0.02)
    starts = (uniform[:, 1:] * 9).long()
    for axis in (0, 1):
        assert (starts[:, axis].bincount(minlength=9) / 10_000).numpy() == pytest.approx(np.full(9, 1 / 9), abs=0.015)
    assert np.corrcoef(uniform.T.numpy())[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.03)


def test_an_augmented_trial_is_the_same_alone_and_in_a_stack(tiny):
    trials = expand(
        sweep("augment: {flip: true, crop: 3}", more="seeds: 2", settings=["optimizers.adam.lr=[0.1, 0.01]"])
    )
    assert len(trials) == 4
    stacked = rows_of(trials, tiny)
    for t, trial in enumerate(trials):
        alone = rows_of([trial], tiny)
        for found, wanted in zip(alone, stacked, strict=True):
            assert [found[0][score] for score in Score] == [wanted[t][score] for score in Score]


def test_only_training_images_are_augmented(tiny):
    plain, changed = (rows_of(expand(sweep(*augment)), tiny) for augment in ([], ["augment: {flip: true, crop: 3}"]))
    assert [changed[0][0][score] for score in Score] == [plain[0][0][score] for score in Score]
    assert changed[1][0]["test_loss"] != plain[1][0]["test_loss"]


# ---------------------------------------------------------------- no validation set


@pytest.fixture(scope="module")
def unvalidated(tmp_path_factory):
    """A finished sweep in which all images that are not test are trained on."""
    text = SWEEP.format(", validation: none, dropout: [0.0, 0.5]").replace(
        "adam: {lr: 0.01}", "adam: {lr: [0.001, 0.01]}, sgd: {lr: 0.1}"
    )
    store = Store(tmp_path_factory.mktemp("results") / "s")
    list(events(Job(parse(text + "seeds: 2\nconfirm: {seeds: 2}\n"), store, "cpu", workers=1)))
    return store


def test_all_images_that_are_not_test_are_trained_on(unvalidated):
    rows = pd.read_parquet(unvalidated.folder)
    assert rows["val_loss"].isna().all() and rows["val_accuracy"].isna().all()
    sizes = rows[["train_images", "val_images", "test_images", "train_eval_images"]].drop_duplicates()
    assert sizes.to_numpy().tolist() == [[1497, 0, 300, 297]]
    assert rows["step"].max() == 2 * (1497 // 64)
    ends = finals.final(unvalidated.rows())
    assert ends["gap"].isna().all() and not ends["lost"].any()
    assert finals.final(unvalidated.rows().assign(train_accuracy=0.1))["lost"].all()
    masks = unvalidated.correct.of(ends["trial_id"].tolist(), "test")
    assert {i: float(mask.mean()) for i, mask in masks.items()} == pytest.approx(
        dict(zip(ends["trial_id"], ends["test_accuracy"], strict=True))
    )


def test_a_report_says_nothing_of_a_validation_set_that_is_not_there(unvalidated):
    report = build.build(unvalidated)
    text = formats.markdown(report)
    assert "validation none" in report.note and "augment" not in report.note and "as by default" in report.note
    assert "validation" not in text.replace("validation none", "").lower() and "val_" not in text
    assert "Each row shows its best configuration by mean train_loss" in text.replace("\\", "")
    tables = {table.title: table for table in report.tables}
    assert [column.name for column in tables["Optimizers"].columns][:4] == [
        "optimizer",
        "rank",
        "test_accuracy",
        "train_accuracy",
    ]
    assert tables["Training accuracy"].data["adam"].between(0, 1).all()
    page = html.page(report, plots.explore(prepare(unvalidated, Query())))
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert "curves" in {plot["name"] for plot in data["plots"]} and not {"gap"} & {p["name"] for p in data["plots"]}
    assert "Training loss after each epoch" in page and "Validation loss" not in page
    with pytest.raises(UserError, match="metric val_loss: the sweep has no validation set"):
        build.build(unvalidated, Query(metric=Score.val_loss))


def test_a_schedule_that_observes_the_loss_observes_that_of_training(tiny):
    nothing = replace(tiny, val=tiny.val[:0])
    plateau = "schedule: {name: reduce_lr_on_plateau, patience: 0, threshold: 0.5, factor: 0.1}"
    (trial,) = expand(parse(SWEEP.format(f", validation: none, {plateau}").replace("epochs: 2", "epochs: 4")))
    rows = [row for (row,) in rows_of([trial], nothing)]
    lr, best = 0.01, math.inf
    for before, row in pairwise(rows[1:]):
        best, lr = (before["train_loss"], lr) if before["train_loss"] < best / 2 else (best, lr / 10)
        assert row["scheduled_lr"] == pytest.approx(lr)
    assert lr < 0.01
    assert {row["val_loss"] for row in rows} == {None}


def test_the_train_eval_slice_is_as_large_as_the_validation_set_would_be():
    info = DATASETS["mnist"].validated("none")
    assert (info.splits, info.train_eval) == ({"train": 60_000, "val": 0, "test": 10_000}, 5_000)
    data = load("digits", validation="none")
    assert [len(split.labels) for split in (data.train, data.train_eval, data.val, data.test)] == [1497, 297, 0, 300]
    assert torch.equal(data.test.images, load("digits").test.images)
