"""Rows on disk: readable by pandas at any moment, one schema, nothing lost, nothing twice."""

import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optbench.errors import UserError
from optbench.results.store import COLUMNS, SCHEMA, Outline, Part, Store, newest
from optbench.scores import Score


def columns(trial_id, epochs=2):
    return {"trial_id": trial_id, "epochs": epochs, "optimizer": "adam", "lr": 0.1, "dropout": None, "sweep": "s"}


def rows(epoch, status="running", ids=("a", "b"), **more):
    return [{"trial_id": i, "epoch": epoch, "status": status, "val_accuracy": 0.5 + epoch / 10, **more} for i in ids]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "results" / "s")
    store.begin(Outline("s", Score.val_accuracy, ("a", "b"), {"adam": 2}), "name: s", {"one": ["a", "b"]})
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
    assert schema.metadata[b"optbench.schema_version"] == b"3"


def test_rows_from_before_a_column_was_added_are_null_there_and_merge_with_newer_ones(store):
    of_run = {"cpu": "X", "python_version": "3.11.7", "os": "Linux 6.1"}
    measured = {"state_per_parameter": 2.0, "gradients_per_step": 1.0, "peak_memory_bytes": 2**33}
    added = [*of_run, *measured]
    part(store, "one", ids=("a",)).add(rows(0, "finished", ids=("a",)))
    (path,) = store.parts()
    pq.write_table(pq.read_table(path).drop_columns(added), path)  # as an older version wrote it
    new = Part(store, "two", {"b": columns("b") | of_run | measured})
    new.add(rows(0, "finished", ids=("b",)))

    def found():
        frame = store.rows(["trial_id", *added]).astype(object).set_index("trial_id")
        return frame.where(frame.notna(), None).loc[["a", "b"]].to_numpy().tolist()

    expected = [[None] * len(added), [*of_run.values(), *measured.values()]]
    assert found() == expected
    assert store.compact() == (2, 1)
    assert found() == expected
    assert pq.read_schema(store.parts()[0]).equals(SCHEMA, check_metadata=True)


def test_every_trial_has_a_status(store):
    growing = part(store)
    growing.add(rows(0))
    assert store.statuses() == {"a": "running", "b": "running"}
    growing.add(rows(1, ids=("a",)) + rows(1, "diverged", ids=("b",)))
    assert not growing.is_settled
    growing.add(rows(2, "finished", ids=("a",)))
    assert growing.is_settled
    assert store.statuses() == {"a": "finished", "b": "diverged"}
    assert set(store.rows().query("trial_id == 'b'")["status"]) == {"diverged"}
    failing = part(store, "two", ids=("c",))
    failing.fail("Traceback: no memory")
    assert store.statuses() == {"a": "finished", "b": "diverged", "c": "failed"}
    frame = store.rows(trial_ids=["c"]).set_index("trial_id")  # no trial of the sweep that ran last
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


def test_a_trial_that_fails_alone_takes_its_error_to_all_its_rows(store):
    growing = part(store)
    growing.add(rows(0))
    growing.add(rows(1, "failed", ids=("a",), error="Traceback: why") + rows(1, ids=("b",)))
    growing.add(rows(2, "finished", ids=("b",)))
    frame = store.rows()
    assert frame.query("trial_id == 'a'")["error"].tolist() == ["Traceback: why"] * 2
    assert frame.query("trial_id == 'b'")["error"].isna().all()


def test_stopped_trials_keep_their_rows_and_the_others_go_on(store):
    growing = part(store)
    growing.add(rows(0))
    growing.add(rows(1))
    growing.stop(["a"])
    assert store.statuses() == {"a": "stopped", "b": "running"}
    growing.add(rows(2, "finished", ids=("b",)))
    assert store.statuses() == {"a": "stopped", "b": "finished"}
    assert store.rows().groupby("trial_id", observed=True)["epoch"].apply(list).to_dict() == {
        "a": [0, 1],
        "b": [0, 1, 2],
    }


def test_old_rows_of_trials_that_train_anew_are_removed_and_no_others(store):
    part(store, "old", ids=("c",)).add(rows(0, ids=("c",)))  # interrupted, of another sweep
    part(store, "done", ids=("d", "e")).add(
        rows(2, "finished", ids=("d",)) + rows(1, "failed", ids=("e",), error="why")
    )
    part(store, "one").add(rows(0))
    part(store, "kept", ids=("f",)).add(rows(1, "failed", ids=("f",), error="why"))
    outline = Outline("s", Score.val_accuracy, ("a", "b", "d", "e"), {"adam": 4})
    store.begin(outline, "name: s", {"one": ["a", "b"], "new": ["e"]})
    assert sorted(path.stem for path in store.parts()) == ["part-done", "part-kept"]
    assert store.statuses() == {"d": "finished", "f": "failed"}


def test_rows_say_what_a_trial_does_in_the_sweep_that_ran_last(store):
    part(store, "done").add(rows(2, "finished"))
    store.begin(Outline("s", Score.val_accuracy, ("b",), {"adam": 2}, confirm_ids=("a",)), "", {})
    assert store.rows().set_index("trial_id")["phase"].to_dict() == {"a": "confirm", "b": "tune"}
    store.begin(Outline("s", Score.val_accuracy, ("a",), {"adam": 2}), "", {})
    assert store.rows().set_index("trial_id")["phase"].to_dict() == {"a": "tune"}
    assert store.rows(trial_ids=["a", "b"]).set_index("trial_id")["phase"].to_dict() == {"a": "tune", "b": "tune"}


def test_two_runs_cannot_write_at_once(store):
    with store.locked(), pytest.raises(UserError, match="another run"), Store(store.folder).locked():
        pass


def test_the_outline_survives(store):
    assert store.outline() == Outline("s", Score.val_accuracy, ("a", "b"), {"adam": 2})
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
    with pytest.raises(UserError, match="schema version 99; this optbench reads version 3"):
        store.rows()


def test_newest_is_the_sweep_that_ran_last(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        newest(tmp_path)
    for name in ("first", "second"):
        Store(tmp_path / name).begin(Outline(name, Score.val_accuracy, (), {}), "", {"x": []})
    import os

    os.utime(tmp_path / "first" / "_optbench" / "outline.json", (2e9, 2e9))
    assert newest(tmp_path) == tmp_path / "first"
