"""Bits of correct images: beside the rows, in step with them, whatever happens to the rows."""

import numpy as np
import pandas as pd
import pytest

from optbench.results.correct import SCHEMA
from optbench.results.store import Outline, Part, Store
from optbench.scores import Score

IDS = ("a", "b", "c", "d")


def mask(trial_id, images=21):
    return np.random.default_rng(ord(trial_id)).random(images) < 0.7


def ending(ids, status="finished", make=mask):
    """The rows of the last epoch."""
    rows = []
    for i in ids:
        row = {"trial_id": i, "epoch": 1, "status": status, "test_accuracy": make(i).mean()}
        for split in ("val", "test"):
            row |= {f"{split}_images": len(make(i)), f"{split}_correct": np.packbits(make(i)).tobytes()}
        rows.append(row)
    return rows


def train(store, stack, ids, **kwargs):
    columns = {"optimizer": "adam", "configuration_id": "k", "epochs": 1}
    part = Part(store, stack, {i: columns | {"trial_id": i, "seed": ord(i)} for i in ids})
    part.add([{"trial_id": i, "epoch": 0, "status": "running"} for i in ids])
    part.add(ending(ids, **kwargs))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "s")
    begin(store, {"one": ["a", "b"], "two": ["c", "d"]})
    train(store, "one", ["a", "b"])
    train(store, "two", ["c", "d"])
    return store


def begin(store, stacks):
    store.begin(Outline("s", Score.val_accuracy, IDS, {"adam": 4}), "name: s", stacks)


def test_what_is_written_is_read_of_the_trials_and_the_split_that_are_asked_for(store):
    found = store.correct.of(["a", "c", "none"], "test")
    assert sorted(found) == ["a", "c"]
    assert all((found[i] == mask(i)).all() for i in found)
    assert store.correct.of([], "val") == {}
    assert Store(store.folder / "elsewhere").correct.of(["a"], "test") == {}


def test_rows_are_as_they_were_and_pandas_does_not_see_the_bits(store):
    rows = pd.read_parquet(store.folder)
    assert not {"val_correct", "test_correct"} & set(rows) and len(rows) == 8
    assert SCHEMA.names[-2:] == ["val_correct", "test_correct"]


def test_trials_that_train_again_are_forgotten_and_the_others_stay(store):
    begin(store, {"three": ["b", "c", "d"]})
    assert sorted(store.correct.of(IDS, "test")) == ["a"]
    train(store, "three", ["b", "c", "d"], make=lambda i: ~mask(i))
    assert (store.correct.of(["b"], "val")["b"] == ~mask("b")).all()


def test_merging_the_parts_changes_nothing(store):
    before = store.correct.of(IDS, "test")
    store.compact()
    assert len(list((store.meta / "correct").glob("part-*.parquet"))) == 1
    after = store.correct.of(IDS, "test")
    assert before.keys() == after.keys() and all((before[i] == after[i]).all() for i in after)
    begin(store, {"three": ["a"]})
    assert sorted(store.correct.of(IDS, "test")) == ["b", "c", "d"]


def test_a_stack_that_goes_on_as_halves_leaves_no_bits(store):
    part = Part(store, "two", {i: {"trial_id": i} for i in "cd"})
    part.hand_on("three")
    assert sorted(store.correct.of(IDS, "test")) == ["a", "b"]


def test_only_trials_that_finish_have_bits(tmp_path):
    store = Store(tmp_path / "s")
    begin(store, {"one": ["a", "b"]})
    train(store, "one", ["a", "b"], status="diverged")
    assert store.correct.of(IDS, "test") == {}
