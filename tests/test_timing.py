"""Seconds come from trials that trained once more, alone, and whose other numbers are those of the sweep."""

import re
import signal
import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optbench import stats
from optbench.report import build
from optbench.results.store import SCHEMA, Store
from optbench.runs.job import Job
from optbench.runs.phases import Timing, Tune
from optbench.runs.run import execute
from optbench.sweep.spec import parse
from tests.test_cli import WAITS, invoke, start
from tests.test_report import fill

SWEEP = """
name: timed
dataset: digits
epochs: 3
seeds: 2
parameters: {batch_size: 128, dropout: 0.25, model: mlp}
confirm: {seeds: 1}
optimizers:
  sgd: {lr: [0.05, 1e30], momentum: 0.9}
  adam: {lr: 0.003, schedule: [constant, cosine]}
  waits: {optimizer: "./waits.py:Waits", lr: 0.1}
"""
OF_THE_RUN = ["phase", "train_seconds", "stack", "stack_size", "workers"]


def by_trial(rows):
    """Rows in a fixed order, without what says how they were trained."""
    return rows.drop(columns=OF_THE_RUN).sort_values(["trial_id", "epoch"], ignore_index=True)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A sweep trained in stacks of four, then timed, with an interruption; and the parts that it had before."""
    folder = tmp_path_factory.mktemp("timed")
    (folder / "timed.yaml").write_text(SWEEP)
    results = folder / "results" / "timed"
    (folder / "waits.py").write_text(WAITS)
    (folder / "go").touch()
    invoke("run", "timed.yaml", "--stack-size", "4", "--workers", "1", cwd=folder)
    (folder / "go").unlink()
    before = {path.name: path.read_bytes() for path in results.glob("*.parquet")}
    with start("run", "timed.yaml", "--timing", cwd=folder) as process:
        while not set(Store(results).timing.statuses().values()) & {"finished"}:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (folder / "go").touch()
    return folder, before, err


@pytest.fixture(scope="module")
def complete(timed):
    folder, before, interrupted = timed
    _, err = invoke("run", "timed.yaml", "--timing", cwd=folder)
    return folder / "results" / "timed", before, interrupted, err


def test_what_a_table_shows_is_trained_alone_and_the_sweep_is_left_as_it_was(complete):
    folder, before, interrupted, err = complete
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == before
    k, n = re.search(r"^13/13 done, (\d+)/(\d+) timed; resume with: .*--timing$", interrupted, re.MULTILINE).groups()
    assert 1 <= int(k) < int(n)
    words = " ".join(err.split())
    assert f"timed, timing: {n} trials, one at a time; let nothing else run meanwhile" in words
    assert f"{int(n) - int(k)} trials to run in {int(n) - int(k)} stacks on cpu (1 process)" in words
    assert f"{n}/{n} trials timed (0 diverged and 0 failed in this run" in words
    rows = pd.read_parquet(folder)
    assert set(rows["phase"]) == {"tune", "confirm"}
    again = pd.read_parquet(folder / "_optbench" / "timing")
    assert set(again["phase"]) == {"timing"}
    assert set(again["stack_size"]) == set(again["workers"]) == {1}
    assert again["trial_id"].nunique() == int(n)
    assert again.groupby("trial_id")["epoch"].apply(list).tolist() == [[0, 1, 2, 3]] * int(n)
    assert set(again["seed"]) == {0}
    assert (again["train_seconds"][again["epoch"] > 0] > 0).all()
    # Of the sgd with an lr of 1e30, which diverged, there is nothing to be timed.
    assert rows[(rows["lr"] == 1e30)]["status"].unique().tolist() == ["diverged"]
    assert set(again["lr"]) == {0.05, 0.003, 0.1}


def test_its_scores_are_those_of_the_sweep_bit_for_bit(complete):
    folder, *_ = complete
    again = pd.read_parquet(folder / "_optbench" / "timing")
    rows = pd.read_parquet(folder)
    rows = rows[rows["trial_id"].isin(again["trial_id"])]
    assert set(rows["stack_size"]) == {4}
    pd.testing.assert_frame_equal(by_trial(again), by_trial(rows), check_exact=True)


def test_cost_stands_beside_accuracy(complete):
    folder, *_ = complete
    report = build.build(Store(folder))
    (cost,) = (table for table in report.tables if table.title == "Cost")
    data = cost.data.set_index("optimizer")
    assert data["state_per_parameter"].to_dict() == {"sgd": 1.0, "adam": 2.0, "waits": 0.0}
    assert data["gradients_per_step"].tolist() == [1.0] * 3
    assert data["ratio"]["sgd"] == 1 and (data["ratio"] > 0).all()
    assert data["pareto"][data["seconds"].idxmin()]


def test_what_is_timed_is_not_timed_again(complete):
    folder, *_ = complete
    paths = sorted((folder / "_optbench" / "timing").glob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in paths]
    _, err = invoke("run", "timed.yaml", "--timing", cwd=folder.parents[1])
    n = len(paths)
    assert f"nothing to do: all 13 trials are in results/timed, {n} of them timed" in err
    assert [path.stat().st_mtime_ns for path in paths] == before
    out, _ = invoke("run", "timed.yaml", "--timing", "--dry-run", cwd=folder.parents[1])
    assert f"timed, timing: {n} trials, one at a time" in out
    assert "to run in" not in out
    assert invoke("compact", cwd=folder.parents[1])[0].endswith(f"results/timed/_optbench/timing: {n} parts → 1\n")
    assert len(Store(folder).timed()) == 4 * n


def test_a_sweep_that_is_not_trained_yet_is_trained_first(tmp_path):
    (tmp_path / "s.yaml").write_text(
        "dataset: digits\nepochs: 1\nparameters: {model: softmax}\noptimizers: {adam: {lr: [0.01, 0.02]}}"
    )
    out, _ = invoke("run", "s.yaml", "--timing", "--dry-run", cwd=tmp_path)
    assert "then one seed of each configuration that a table shows, alone, to measure its seconds" in " ".join(
        out.split()
    )
    _, err = invoke("run", "s.yaml", "--timing", "--stack-size", "2", cwd=tmp_path)
    assert "2/2 trials done" in err
    assert "2/2 trials timed" in err
    report = tmp_path / "results" / "s" / "_optbench" / "report.md"
    assert report.stat().st_mtime_ns >= (tmp_path / "results/s/_optbench/timing").stat().st_mtime_ns


MADE_UP = """
name: made-up
dataset: digits
epochs: 2
seeds: 3
optimizers: {sgd: {lr: [0.1, 0.2, 1.0]}}
"""


def lost(trial):
    """The lr 1.0 always diverges, 0.2 with the first seed."""
    return trial.hyperparameters.lr == 1.0 or (trial.hyperparameters.lr == 0.2 and trial.seed == 0)


def made_up(folder, **columns):
    store = fill(folder, MADE_UP, status=lambda t: "diverged" if lost(t) else "finished", device="cpu", **columns)
    return Tune(Job(parse(MADE_UP), store, "cpu", workers=4))


def timing_of(tune, configuration_ids=None):
    """The phase that times these configurations of a made-up sweep, or all of them."""
    ids = {trial.configuration_id for trial in tune.trials} if configuration_ids is None else configuration_ids
    return Timing(tune.job, ids, [tune])


def change(store, **columns):
    """Write all rows of a sweep anew with other values in these columns."""
    rows = pd.read_parquet(store.folder).assign(**columns)
    pq.write_table(pa.Table.from_pandas(rows, SCHEMA, preserve_index=False), store.parts()[0])


def test_the_first_seed_that_finished_is_timed(tmp_path):
    tune = made_up(tmp_path)
    timing = timing_of(tune)
    assert [(t.hyperparameters.lr, t.seed, t.phase) for t in timing.trials] == [(0.1, 0, "timing"), (0.2, 1, "timing")]
    assert [len(stack) for stack in timing.stacks] == [1, 1]
    assert timing.workers == 1
    assert [t.hyperparameters.lr for t in timing_of(tune, {timing.trials[1].configuration_id}).trials] == [0.2]
    assert timing_of(tune, {"unknown"}).trials == []


def test_trials_of_the_sweep_that_ran_alone_on_this_device_count(tmp_path):
    for name, columns, missing in (
        ("alone", {"stack_size": 1, "workers": 1}, []),
        ("two processes", {"stack_size": 1}, [0.1, 0.2]),
        ("stack", {"workers": 1}, [0.1, 0.2]),
    ):
        tune = made_up(tmp_path / name, **columns)
        timing = timing_of(tune)
        assert len(timing.trials) == 2
        assert [t.hyperparameters.lr for stack in timing.stacks for t in stack.trials] == missing
        found = stats.final(tune.store.timed())
        assert len(found) == (0 if missing else 9)
    tune = made_up(tmp_path / "gpu", stack_size=1, workers=1)
    change(tune.store, device="NVIDIA H100")
    assert len(timing_of(tune).stacks) == 2


def test_timed_rows_come_from_both_places_each_trial_once(tmp_path, monkeypatch):
    tune = made_up(tmp_path)
    assert len(tune.store.timed()) == 0
    assert list(tune.store.timed(["seed", "epoch"]).columns) == ["seed", "epoch"]
    timing = timing_of(tune)
    for _ in execute(timing):
        assert tune.store.is_locked()  # a run of the same sweep would take time from the one that is measured
    rows = tune.store.timed()
    assert sorted(rows["trial_id"].unique()) == sorted(trial.trial_id for trial in timing.trials)
    assert len(rows) == 2 * 3
    finals = stats.final(rows)
    assert (finals["train_seconds"] > 0).all()
    assert finals["phase"].tolist() == ["timing"] * 2
    assert len(tune.store.timed(["epoch"], last=True)) == 2
    assert timing_of(tune).stacks == []
    # Now all trials of the sweep ran alone, and two of them twice; but on another device.
    change(tune.store, stack_size=1, workers=1, device="GPU")
    rows = stats.final(tune.store.timed())
    assert rows["trial_id"].is_unique
    assert rows["device"].value_counts().to_dict() == {"GPU": 7, "cpu": 2}
    assert rows["status"].value_counts().to_dict() == {"finished": 5, "diverged": 4}
    # On that device they are timed already, whatever the folder says about this one.
    monkeypatch.setattr("optbench.runs.phases.device_name", lambda device: "GPU")
    again = timing_of(tune)
    assert again.settled() == {trial.trial_id for trial in again.trials}
