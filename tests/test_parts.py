"""Merging parts changes no row, whoever reads meanwhile and wherever it is cut short."""

import json
import math
import os
import shutil
import stat
import tempfile
from itertools import count, pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.errors import UserError
from optbench.results import parts
from optbench.results.store import SCHEMA, Outline, Store
from optbench.scores import Score

TEXTS = [field.name for field in SCHEMA if field.type == pa.string()]


def row(trial, epoch):
    """A row of the trial with this number; three seeds make a configuration, and four configurations an optimizer."""
    return {
        "phase": "tune",
        "trial_id": f"trial-{trial * 7 % 101:03}",
        "configuration_id": f"configuration-{trial // 3 * 5 % 11:02}",
        "optimizer": "sgd" if trial < 12 else "adam",
        "seed": trial % 3,
        "epoch": epoch,
        "status": "failed" if trial % 5 == 0 else "finished",
        "val_accuracy": float("nan") if trial % 4 == 0 and epoch else trial / 100 + epoch / 10,
        "dropout": None if trial % 2 else 0.5,
        "error": "Traceback: why" if trial % 5 == 0 else None,
    }


OUTLINE = Outline("s", Score.val_accuracy, tuple(row(trial, 0)["trial_id"] for trial in range(21)), {})


def fill(folder, stacks, epochs=2):
    """A folder with a part for each list of trials, epoch by epoch as a run writes them."""
    store = Store(folder)
    store.begin(OUTLINE, "", {})
    for stack in stacks:
        store.replace("-".join(map(str, stack)), [row(trial, epoch) for epoch in range(epochs + 1) for trial in stack])
    return store


def content(store):
    return in_order(store.rows())


def in_order(frame):
    """The rows in a fixed order, texts as plain objects and what is missing as None, whatever the version of pandas."""
    texts = {name: frame[name].astype(object).where(frame[name].notna(), None) for name in TEXTS}
    return frame.assign(**texts).sort_values(["trial_id", "epoch"], ignore_index=True)


@pytest.fixture
def small(monkeypatch):
    """Parts of ten rows at most, so that a few trials make several, which are read four rows at a time."""
    monkeypatch.setattr(parts, "ROWS_PER_PART", 10)
    monkeypatch.setattr(parts, "_ROWS_PER_GROUP", 4)


def cut(order, cuts):
    bounds = [0, *sorted(cuts), len(order)]
    return [order[a:b] for a, b in pairwise(bounds)]


TRIALS = range(15)
stacks_of_them = st.builds(cut, st.permutations(TRIALS), st.sets(st.integers(1, len(TRIALS) - 1), max_size=8))


@given(stacks_of_them, st.integers(0, 3), st.integers(3, 200))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_merged_parts_have_the_same_rows_in_an_order_of_their_own(stacks, epochs, limit):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROWS_PER_PART", limit)
        store = fill(Path(folder) / "s", stacks, epochs)
        before, statuses = content(store), store.statuses()
        old, new = store.compact()
        assert (old, new) == (len(stacks), len(store.parts()))
        pd.testing.assert_frame_equal(content(store), before)
        pd.testing.assert_frame_equal(in_order(pd.read_parquet(store.folder)), before)
        assert store.statuses() == statuses
        if new == old:
            return  # there was nothing to gain
        found = [parts.read([path], SCHEMA).to_pandas() for path in store.parts()]
        for frame in found:
            keys = frame[["optimizer", "configuration_id", "seed", "epoch"]].astype(object)
            assert list(keys.itertuples(index=False)) == sorted(keys.itertuples(index=False))
        assert sum(frame["trial_id"].nunique() for frame in found) == len(TRIALS)  # none is cut in two
        each = max(1, limit // (epochs + 1))  # trials in a part
        assert new == math.ceil(len(TRIALS) / each)
        # However the rows came, the files are the same; and a second time there is nothing to do.
        other = fill(Path(folder) / "other", [[trial] for trial in TRIALS], epochs)
        other.compact()
        assert {p.name: p.read_bytes() for p in other.parts()} == {p.name: p.read_bytes() for p in store.parts()}
        assert store.compact() == (new, new)


class Crash(BaseException):
    """The process is gone: nothing in it runs any more."""


class Steps:
    """Counts what is done to the file system; `before(number)` is called ahead of each step."""

    def __init__(self, patch, before):
        self.done = 0
        for name in ("replace", "unlink", "fsync"):
            patch.setattr(os, name, self._counted(getattr(os, name), before))

    def _counted(self, real, before):
        def step(*arguments, **options):
            before(self.done, real, arguments)
            self.done += 1
            return real(*arguments, **options)

        return step


def crash_at(number):
    def before(done, real, arguments):
        if done == number:
            if real.__name__ == "fsync" and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)  # what was written never got to disk
            raise Crash

    return before


def crashes(action, number):
    """Whether the action came so far that it could be cut short at the step with this number."""
    with pytest.MonkeyPatch.context() as patch:
        Steps(patch, crash_at(number))
        try:
            action()
        except Crash:
            return True
    return False


STACKS = [[0, 1], [2], [3, 17], [4, 5], [6, 7], [20]]  # 30 rows


@pytest.mark.slow
def test_a_merge_that_is_cut_short_loses_nothing_and_doubles_nothing(tmp_path, small):
    """At every step, and then whoever mends it at every step, too."""
    expected = content(fill(tmp_path / "start", STACKS))
    whole = fill(tmp_path / "whole", STACKS)
    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, lambda *_: None)
        assert whole.compact() == (6, 4)
    assert steps.done >= 18  # four parts and a journal are written and renamed, six parts and the journal go …
    names, twice = [path.name for path in whole.parts()], 0
    for number in range(steps.done):
        cut = Store(shutil.copytree(tmp_path / "start", tmp_path / f"{number}"))
        assert crashes(cut.compact, number)
        pd.testing.assert_frame_equal(content(cut), expected)
        for second in count():
            store = Store(shutil.copytree(cut.folder, tmp_path / f"{number}-{second}"))
            again = crashes(store._recover, second)
            pd.testing.assert_frame_equal(content(store), expected)
            store.begin(OUTLINE, "", {})
            assert sorted(path.name for path in store.meta.iterdir()) == ["outline.json", "sweep.yaml"]
            assert len(list(store.folder.glob("*.parquet"))) in (4, 6)
            if not again:
                break
            twice += 1
        pd.testing.assert_frame_equal(in_order(pd.read_parquet(store.folder)), expected)
        store.compact()
        assert [path.name for path in store.parts()] == names
    assert twice > 50


def test_a_reader_sees_all_rows_once_at_every_moment_of_a_merge(tmp_path, small):
    store = fill(tmp_path / "s", STACKS)
    expected = content(store)

    def read(*_):
        pd.testing.assert_frame_equal(content(Store(store.folder)), expected)
        assert Store(store.folder).statuses().keys() == set(expected["trial_id"])

    with pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch, read)
        store.compact()
    assert steps.done >= 18


@pytest.mark.parametrize("moment", ["_names", "_journal", "read"])
def test_a_merge_between_two_looks_of_a_reader_is_noticed(tmp_path, small, monkeypatch, moment):
    store = fill(tmp_path / "s", STACKS)
    expected, real, calls = content(store), getattr(parts, moment), []

    def merge_first(*arguments):
        calls.append(arguments)
        if len(calls) == 1 and moment == "_names":  # the reader has looked, and the merge comes then
            found = real(*arguments)
            store.compact()
            return found
        if len(calls) == 1:
            store.compact()
        return real(*arguments)

    monkeypatch.setattr(parts, moment, merge_first)
    pd.testing.assert_frame_equal(content(Store(store.folder)), expected)
    assert len(store.parts()) == 4


def test_a_folder_that_never_stands_still_is_given_up(tmp_path, monkeypatch):
    store = fill(tmp_path / "s", STACKS)
    monkeypatch.setattr(parts, "listed", lambda folder, meta: [folder / "part-gone.parquet"])
    with pytest.raises(UserError, match="changes faster than it can be read"):
        store.rows()


def test_half_renamed_parts_do_not_count(tmp_path, small):
    """The state between two renames, written by hand."""
    store, merged = fill(tmp_path / "s", STACKS), fill(tmp_path / "merged", STACKS)
    merged.compact()
    new, old = ([path.name for path in each.parts()] for each in (merged, store))
    journal = store.meta / "merge.json"
    journal.write_text(json.dumps({"new": new, "old": old}))
    for name in new:
        assert [path.name for path in store.parts()] == old
        shutil.copy(merged.folder / name, store.folder / name)
    assert [path.name for path in store.parts()] == new
    for name in old:
        (store.folder / name).unlink()
        assert [path.name for path in store.parts()] == new
    store.begin(OUTLINE, "", {})
    assert not journal.exists()
    assert [path.name for path in store.parts()] == new


def test_a_merged_part_gives_up_the_trials_that_train_anew(tmp_path):
    store = fill(tmp_path / "s", STACKS)
    before = content(store)
    store.compact()
    again = [row(trial, 0)["trial_id"] for trial in (0, 5, 20)]  # 0, 5 and 20 failed
    store.begin(OUTLINE, "", {"new": again})
    pd.testing.assert_frame_equal(content(store), before[~before["trial_id"].isin(again)].reset_index(drop=True))
    store.replace("new", [row(trial, epoch) for epoch in range(3) for trial in (0, 5, 20)])
    assert store.compact() == (2, 1)
    pd.testing.assert_frame_equal(content(store), before)
    whole = fill(tmp_path / "whole", STACKS[::-1])
    whole.compact()
    assert [path.name for path in store.parts()] == [path.name for path in whole.parts()]


def test_what_cannot_be_merged_stays_as_it_is(tmp_path, monkeypatch):
    store = fill(tmp_path / "s", STACKS)
    before = content(store)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"s: cannot be compacted: No space left on device"):
            store.compact()
    pd.testing.assert_frame_equal(content(store), before)
    (store.folder / "part-x.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"part-x.parquet: cannot be read as parquet"):
        store.compact()
    (store.folder / "part-x.parquet").unlink()
    assert store.compact() == (6, 1)
    pd.testing.assert_frame_equal(content(store), before)


def test_an_empty_folder_and_a_part_without_rows_are_left_alone(tmp_path):
    store = fill(tmp_path / "s", [])
    assert store.compact() == (0, 0)
    store.replace("a", [])
    assert store.compact() == (1, 1)
    store.replace("b", [])
    assert store.compact() == (2, 1)
    assert len(store.rows()) == 0


@pytest.mark.parametrize("merged", [False, True])
def test_parts_are_read_by_column_by_trial_and_by_their_last_rows(tmp_path, small, merged):
    store = fill(tmp_path / "s", STACKS)
    if merged:
        store.compact()
    everything = store.rows()
    assert list(everything.columns) == SCHEMA.names
    some = store.rows(["epoch", "error", "trial_id"])
    assert list(some.columns) == ["epoch", "error", "trial_id"]
    pd.testing.assert_frame_equal(some, everything[["epoch", "error", "trial_id"]])
    wanted = {row(trial, 0)["trial_id"] for trial in (2, 3, 20)}
    pd.testing.assert_frame_equal(
        in_order(store.rows(trial_ids=wanted)), in_order(everything[everything["trial_id"].isin(wanted)])
    )
    assert len(store.rows(["seed"], trial_ids=[])) == 0
    assert store.rows(["seed"], trial_ids=["unknown"]).columns.tolist() == ["seed"]
    assert store.statuses() == dict(zip(everything["trial_id"], everything["status"], strict=True))
    assert store.rows(["epoch"], wanted, last=True)["epoch"].tolist() == [2, 2, 2]
    pd.testing.assert_frame_equal(in_order(store.rows(last=True)), in_order(everything[everything["epoch"] == 2]))


def test_texts_sort_and_group_as_texts_do(tmp_path):
    store = fill(tmp_path / "s", STACKS)
    rows = store.rows()
    assert set(rows.select_dtypes("category")) == set(TEXTS)
    for name in TEXTS:
        assert rows[name].cat.categories.tolist() == sorted(rows[name].dropna().unique())
    assert rows.sort_values(["optimizer", "trial_id"])["trial_id"].tolist() == [
        trial for _, trial in sorted(zip(rows["optimizer"], rows["trial_id"], strict=True))
    ]
