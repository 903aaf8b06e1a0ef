"""Rows on disk: readable by pandas at any moment, one schema, nothing lost, nothing twice."""

import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optbench.errors import UserError
from optbench.store import COLUMNS, SCHEMA, Outline, Part, Store, newest


def columns(trial_id, epochs=2):
    return {"trial_id": trial_id, "epochs": epochs, "optimizer": "adam", "lr": 0.1, "dropout": None, "sweep": "s"}


def rows(epoch, status="running", ids=("a", "b"), **more):
    return [{"trial_id": i, "epoch": epoch, "status": status, "val_accuracy": 0.5 + epoch / 10, **more} for i in ids]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results" / "s")
    store.begin(Outline("s", "val_accuracy", ("a", "b"), {"adam": 2}), "name: s", ["one"])
    return store


def part(store, stack_id="one", ids=("a", "b")):
    return Part(store, stack_id, {i: columns(i) for i in ids})


def test_pandas_reads_the_folder_at_any_moment(store):
    empty = pd.read_parquet(store.folder)
    assert list(empty.columns) == [name for name, _, _ in COLUMNS]
    assert len(empty) == 0
    growing = part(store)
    growing.add(rows(0))
    assert len(pd.read_parquet(store.folder)) == 2
    growing.add(rows(1))
    growing.add(rows(2, "finished"))
    frame = pd.read_parquet(store.folder)
    assert frame["epoch"].tolist() == [0, 0, 1, 1, 2, 2]
    assert set(frame["status"]) == {"finished"}
    assert frame["dropout"].isna().all()


def test_the_schema_is_explicit_and_versioned(store):
    part(store).add(rows(0))
    (path,) = store.parts()
    schema = pq.read_schema(path)
    assert schema.equals(SCHEMA)
    assert schema.metadata[b"optbench.schema_version"] == b"1"


def test_only_trials_at_their_last_epoch_are_finished(store):
    growing = part(store)
    growing.add(rows(0))
    assert store.finished() == set()
    growing.add(rows(2, "finished", ids=("a",)) + rows(2, "diverged", ids=("b",)))
    assert store.finished() == {"a", "b"}
    failing = part(store, "two", ids=("c",))
    failing.fail("Traceback: no memory")
    assert store.finished() == {"a", "b"}
    frame = store.rows().set_index("trial_id")
    assert frame.loc["c", "status"] == "failed"
    assert frame.loc["c", "error"] == "Traceback: no memory"
    assert math.isnan(frame.loc["c", "val_accuracy"])


def test_a_trial_that_fails_keeps_its_rows(store):
    growing = part(store)
    growing.add(rows(0))
    growing.add(rows(1))
    growing.fail("why")
    frame = store.rows()
    assert frame["epoch"].tolist() == [0, 0, 1, 1]
    assert set(frame["status"]) == {"failed"}
    assert set(frame["error"]) == {"why"}


def test_a_stack_that_begins_again_replaces_its_rows(store):
    growing = part(store)
    growing.add(rows(0))
    growing.add(rows(1))
    growing.add(rows(0))
    growing.add(rows(2, "finished"))
    assert store.rows()["epoch"].tolist() == [0, 0, 2, 2]


def test_unfinished_parts_that_will_not_be_replaced_are_removed(store):
    part(store, "old", ids=("c",)).add(rows(0, ids=("c",)))
    part(store, "done", ids=("d",)).add(rows(2, "finished", ids=("d",)))
    part(store, "one").add(rows(0))
    store.begin(Outline("s", "val_accuracy", ("a", "b", "c", "d"), {"adam": 4}), "name: s", ["one", "new"])
    assert sorted(path.stem for path in store.parts()) == ["part-done", "part-one"]


def test_two_runs_cannot_write_at_once(store):
    with store.locked(), pytest.raises(UserError, match="another 'optbench run'"), Store(store.folder).locked():
        pass


def test_the_outline_survives(store):
    assert store.outline() == Outline("s", "val_accuracy", ("a", "b"), {"adam": 2})
    (store.meta / "outline.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        store.outline()


def test_what_is_no_result_is_said_in_one_line(tmp_path, store):
    with pytest.raises(UserError, match="no such folder"):
        Store(tmp_path / "none").rows()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no results"):
        Store(tmp_path / "empty").rows()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    pq.write_table(pa.table({"x": [1]}), foreign / "part-x.parquet")
    with pytest.raises(UserError, match="schema version none"):
        Store(foreign).rows()
    (foreign / "part-x.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        Store(foreign).rows()
    other = SCHEMA.with_metadata({b"optbench.schema_version": b"99"})
    pq.write_table(pa.Table.from_pylist([], other), store.folder / "part-new.parquet")
    with pytest.raises(UserError, match="schema version 99; this optbench reads version 1"):
        store.rows()


def test_newest_is_the_sweep_that_ran_last(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        newest(tmp_path)
    for name in ("first", "second"):
        Store(tmp_path / name).begin(Outline(name, "val_accuracy", (), {}), "", ["x"])
    import os

    os.utime(tmp_path / "first" / "_optbench" / "outline.json", (2e9, 2e9))
    assert newest(tmp_path) == tmp_path / "first"
