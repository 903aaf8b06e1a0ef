"""Exports: every run of a sweep, read back with the tools' own readers; twice is the same as once."""

import io
import json
import math
import struct
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from optbench import cli, export
from optbench.errors import UserError
from optbench.results.store import COLUMNS, Store
from tests.test_compare import written

SWEEP = """
name: small
dataset: digits
epochs: 2
seeds: 2
parameters: {schedule: [constant, cosine], dropout: [[0.1, 0.25]]}
optimizers:
  sgd: {lr: [0.03, 0.1], momentum: 0.9}
  "a_b & 50% [red]|x": {optimizer: adam, lr: 0.001}
"""


def status(trial):
    """One trial diverged, one failed before it began, one is under way."""
    ends = {("sgd", 0.1, 1): "diverged", ("sgd", 0.03, 1): "failed", ("sgd", 0.03, 0): "running"}
    return ends.get((trial.optimizer, trial.hyperparameters.lr, trial.seed), "finished")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return written(tmp_path_factory.mktemp("small"), text=SWEEP, status=status)


@pytest.fixture(scope="module")
def runs(store):
    return {run.trial_id: run for run in export.gather(store)}


def done(target):
    """The names of the runs that an export writes."""
    return [run.name for run in target.runs]


def scores(run):
    """epoch → test accuracy, as far as there is one."""
    return {epoch: metrics["test_accuracy"] for epoch, (_, metrics) in run.epochs.items() if "test_accuracy" in metrics}


def same(found, expected, tolerance=0.0):
    """Whether two mappings of numbers are equal, NaN among them."""
    return found.keys() == expected.keys() and all(
        (math.isnan(found[k]) and math.isnan(expected[k])) or abs(found[k] - expected[k]) <= tolerance for k in expected
    )


# ---------------------------------------------------------------- runs


def test_a_run_says_what_its_trial_was(store, runs):
    rows = store.rows()
    assert set(runs) == set(rows["trial_id"]) and len(runs) == len(export.gather(store)) == 12
    for run in runs.values():
        own = rows[rows["trial_id"] == run.trial_id].sort_values("epoch")
        first = own.iloc[0]
        assert list(run.epochs) == own["epoch"].tolist()
        assert (run.status, run.phase) == (first["status"], "tune")
        assert run.parameters["lr"] == first["lr"] and run.parameters["seed"] == first["seed"]
        assert json.loads(first["hyperparameters"]).items() <= run.parameters.items()
        assert [metrics["step"] for _, metrics in run.epochs.values()] == own["step"].tolist()
        json.dumps(run.parameters, allow_nan=False)


def test_a_diverged_run_ends_with_nan_and_a_failed_one_without_scores(runs):
    by_status = {status: [run for run in runs.values() if run.status == status] for status in ("diverged", "failed")}
    for run in by_status["diverged"]:
        assert math.isnan(scores(run)[1]) and not math.isnan(scores(run)[0])
    for run in by_status["failed"]:
        assert scores(run) == {}
    assert len(by_status["diverged"]) == len(by_status["failed"]) == 2


def test_names_say_what_varies_and_no_two_are_the_same(runs):
    names = {run.name for run in runs.values()}
    assert len(names) == len(runs)
    assert {name.rpartition("_")[0] for name in names if name.startswith("a")} == {
        f"a_b-50-red-x_schedule={schedule}_lr=0.001_seed={seed}"
        for schedule in ("constant", "cosine")
        for seed in (0, 1)
    }
    groups = {run.configuration for run in runs.values()}
    assert len(groups) == 6 and all(sum(run.configuration == group for run in runs.values()) == 2 for group in groups)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.text(min_size=1, max_size=300))
def test_a_name_is_one_part_of_a_path_whatever_the_label(label):
    name = export.configuration_name(
        {"optimizer": label, "lr": 0.1, "schedule": "cosine(warmup_steps=0.1)"}, ["schedule", "lr"]
    )
    assert len(name) <= 100 and not set(name) & set('/\\ :*?"<>|\n\0')


def test_an_argument_named_like_a_column_stands_beside_it(tmp_path):
    store = written(tmp_path, text="name: s\ndataset: digits\nepochs: 1\noptimizers: {adam: }")
    part = store.parts()[0]
    table = pq.read_table(part)
    column = table.schema.get_field_index("hyperparameters")
    pq.write_table(table.set_column(column, table.schema.field(column), [['{"seed": 7}'] * len(table)]), part)
    (run,) = export.gather(store)
    assert (run.parameters["seed"], run.parameters["hyperparameter.seed"]) == (0, 7)


# ---------------------------------------------------------------- csv


def test_csv_has_every_row_and_column(store, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("old")
    export.csv(export.gather(store), path)
    found = pd.read_csv(path)
    assert list(found.columns) == [name for name, _, _ in COLUMNS]
    expected = store.rows()
    assert len(found) == len(expected)
    key = ["trial_id", "epoch"]
    found, expected = (frame.sort_values(key, ignore_index=True) for frame in (found, expected))
    for column in ("optimizer", "status", "hyperparameters"):
        assert found[column].tolist() == expected[column].tolist()
    for column in ("seed", "test_accuracy", "train_loss", "lr"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), rel=1e-15, nan_ok=True)


def test_csv_goes_to_stdout(store, capsys):
    export.csv(export.gather(store), None)
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) == len(store.rows())


def test_csv_into_a_folder_that_is_not_there_is_the_users_error(store, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        export.csv(export.gather(store), tmp_path / "nowhere" / "all.csv")


# ---------------------------------------------------------------- TensorBoard


def events(folder):
    """Run name → what TensorBoard reads of it."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the package tensorboard"
    )
    found = {}
    for path in folder.iterdir():
        found[path.name] = accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return found


def test_tensorboard_reads_every_run(store, runs, tmp_path):
    target = export.tensorboard(export.gather(store), tmp_path)
    assert done(target) == [run.name for run in runs.values()]
    found = events(tmp_path)
    for run in runs.values():
        accumulator = found[run.name]
        wanted = {tag for _, metrics in run.epochs.values() for tag in metrics} - {"step", "train_seconds"}
        assert set(accumulator.Tags()["scalars"]) == wanted
        if scores(run):
            read = accumulator.Scalars("test_accuracy")
            assert same({event.step: event.value for event in read}, scores(run), 1e-6)
            seconds = [event.wall_time - read[0].wall_time for event in read]
            assert seconds == pytest.approx([2.0 * epoch for epoch in run.epochs], abs=1e-3)


def test_tensorboard_has_parameters_and_the_end_of_each_run(store, runs, tmp_path):
    done(export.tensorboard(export.gather(store), tmp_path))
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2", reason="needs the package tensorboard")
    from tensorboard.plugins.hparams import api_pb2, metadata

    for name, accumulator in events(tmp_path).items():
        run = next(run for run in runs.values() if run.name == name)
        content = accumulator.summary_metadata
        started, ended = (
            plugin.HParamsPluginData.FromString(content[tag].plugin_data.content)
            for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
        )
        hparams = started.session_start_info.hparams
        assert hparams["lr"].number_value == run.parameters["lr"]
        assert hparams["optimizer"].string_value == run.parameters["optimizer"]
        assert hparams["status"].string_value == run.status
        expected = api_pb2.STATUS_FAILURE if run.status == "failed" else api_pb2.STATUS_SUCCESS
        assert ended.session_end_info.status == expected


def test_tensorboard_twice_is_as_once_also_when_the_sweep_has_grown(tmp_path):
    few = SWEEP.replace("[constant, cosine]", "constant")
    exported = [export.gather(written(tmp_path / str(i), text=text)) for i, text in enumerate((few, few, SWEEP))]
    counts = []
    for one in exported:
        names = done(export.tensorboard(one, tmp_path / "runs"))
        found = events(tmp_path / "runs")
        assert set(found) == set(names)
        assert all(len(accumulator.Scalars("val_loss")) == 3 for accumulator in found.values())
        counts.append(len(found))
    assert counts == [6, 6, 12]


# ---------------------------------------------------------------- Weights & Biases


def records(path):
    """The records of a .wandb file: a log in LevelDB's format, in blocks of 32 kB, after a header of 7 bytes."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="needs the package wandb")
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that holds no header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last of several parts
            yield proto.Record.FromString(parts)
            parts = b""


@pytest.fixture
def offline(monkeypatch):
    """No run of wandb can leave the machine, and none is asked to."""
    pytest.importorskip("wandb", reason="needs the package wandb")
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # as the export sets it; this one is put back


def test_wandb_writes_every_run_offline_and_once(store, runs, tmp_path, offline):
    for _ in range(2):
        target = export.wandb(export.gather(store), tmp_path)
        assert sorted(done(target)) == sorted(run.name for run in runs.values())
    found = sorted((tmp_path / "wandb").glob("*run-*"))
    assert len(found) == len(runs) and all(path.name.startswith("offline-run-") for path in found)
    seen = set()
    for path in found:
        (file,) = path.glob("*.wandb")
        log = list(records(file))
        (made,) = (record.run for record in log if record.WhichOneof("record_type") == "run")
        run = runs[made.run_id.removeprefix("small-")]
        seen.add(run.trial_id)
        assert (made.project, made.display_name, made.run_group) == ("small", run.name, run.configuration)
        assert (list(made.tags), made.job_type) == ([run.status], "tune")
        config = {item.key: json.loads(item.value_json) for item in made.config.update}
        assert run.parameters.items() <= config.items()
        history = [
            {
                item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
                for item in r.history.item
            }
            for r in log
            if r.WhichOneof("record_type") == "history"
        ]
        assert [row["epoch"] for row in history] == list(run.epochs)
        read = {row["_step"]: float(row["test_accuracy"]) for row in history if "test_accuracy" in row}
        assert same(read, scores(run))
    assert seen == set(runs)


def test_wandb_says_which_modes_there_are(store, tmp_path, offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(UserError, match="WANDB_MODE=disabled: set it to offline or online"):
        done(export.wandb(export.gather(store), tmp_path))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- MLflow


@pytest.fixture
def client(tmp_path, monkeypatch):
    """What reads MLflow's store in the folder `mlflow`."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the package mlflow-skinny")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)  # files, whatever is installed
    return lambda: tracking.MlflowClient((tmp_path / "mlflow" / "mlruns").as_uri())


def logged(client):
    """trial id → the run that MLflow has of it."""
    experiment = client.get_experiment_by_name("small")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len({run.data.tags["optbench.trial_id"] for run in found}) == len(found)
    return {run.data.tags["optbench.trial_id"]: run for run in found}


def test_mlflow_reads_every_run(store, runs, tmp_path, client):
    target = export.mlflow(export.gather(store), tmp_path / "mlflow")
    assert done(target) == [run.name for run in runs.values()]
    found = logged(client())
    assert set(found) == set(runs)
    for run in runs.values():
        read = found[run.trial_id]
        assert read.info.run_name == run.name
        assert read.info.status == {"failed": "FAILED", "running": "RUNNING"}.get(run.status, "FINISHED")
        assert (read.data.tags["status"], read.data.tags["configuration"]) == (run.status, run.configuration)
        assert read.data.params["lr"] == str(run.parameters["lr"])
        assert set(read.data.params) == set(run.parameters)
        history = client().get_metric_history(read.info.run_id, "test_accuracy") if scores(run) else []
        assert same({metric.step: metric.value for metric in history}, scores(run))


def test_mlflow_twice_is_as_once_and_what_changed_is_replaced(store, runs, tmp_path, client):
    done(export.mlflow(export.gather(store), tmp_path / "mlflow"))
    first = logged(client())
    done(export.mlflow(export.gather(store), tmp_path / "mlflow"))
    assert {i: run.info.run_id for i, run in logged(client()).items()} == {
        i: run.info.run_id for i, run in first.items()
    }
    done(export.mlflow(export.gather(written(tmp_path / "now", text=SWEEP)), tmp_path / "mlflow"))
    now = logged(client())
    kept = {i for i in runs if now[i].info.run_id == first[i].info.run_id}
    assert kept == {i for i, run in runs.items() if run.status == "finished"}
    assert {run.data.tags["status"] for run in now.values()} == {"finished"}


def test_an_interrupted_run_of_mlflow_is_written_anew(store, runs, tmp_path, client):
    target = export.mlflow(export.gather(store), tmp_path / "mlflow")
    next(target.runs)
    target.runs.close()
    found = logged(client())
    assert len(found) == 1
    (run,) = found.values()
    client().delete_tag(run.info.run_id, "optbench.digest")  # as if it had come to the digest no more
    done(export.mlflow(export.gather(store), tmp_path / "mlflow"))
    assert set(logged(client())) == set(runs)
    assert run.info.run_id not in {other.info.run_id for other in logged(client()).values()}


def test_more_metrics_than_mlflow_takes_at_once_all_arrive(tmp_path, client, monkeypatch):
    monkeypatch.setattr(export, "_METRICS_AT_ONCE", 4)
    exported = export.gather(
        written(tmp_path / "s", text="name: small\ndataset: digits\nepochs: 2\noptimizers: {adam: }")
    )
    done(export.mlflow(exported, tmp_path / "mlflow"))
    (run,) = logged(client()).values()
    assert set(run.data.metrics) == set(export.METRICS)
    assert [m.step for m in client().get_metric_history(run.info.run_id, "train_seconds")] == [0, 1, 2]


def test_an_experiment_that_was_deleted_is_named(store, tmp_path, client):
    done(export.mlflow(export.gather(store), tmp_path / "mlflow"))
    client().delete_experiment(client().get_experiment_by_name("small").experiment_id)
    with pytest.raises(UserError, match="the experiment small was deleted there"):
        done(export.mlflow(export.gather(store), tmp_path / "mlflow"))


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("tool", export.TOOLS)
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(tool, store, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(f"{tool}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, tool, None)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(name, "true")
    with pytest.raises(UserError, match=rf"to {tool}: needs the package {tool}: pip install 'optbench\[{tool}\]'"):
        done(export.TOOLS[tool](export.gather(store), tmp_path))


@pytest.mark.parametrize("tool", export.TOOLS)
def test_a_folder_that_cannot_be_written_is_the_users_error(tool, store, tmp_path, offline, client):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        done(export.TOOLS[tool](export.gather(store), tmp_path / "file"))


def test_a_folder_without_rows_is_the_users_error(tmp_path):
    store = written(tmp_path, text=SWEEP, status=lambda trial: None)
    with pytest.raises(UserError, match="no trial has begun yet"):
        export.gather(store)
    with pytest.raises(UserError, match="no such folder"):
        export.gather(Store(tmp_path / "nowhere"))


def test_ctrl_c_ends_an_export_with_130_and_says_how_far_it_came(store, runs, monkeypatch, tmp_path):
    def interrupted(exported, output):
        def some():
            yield next(iter(exported))
            raise KeyboardInterrupt

        return export.Destination(some(), "there")

    monkeypatch.setitem(export.TOOLS, "wandb", interrupted)
    result = CliRunner().invoke(cli.app, ["export", str(store.folder), "--to", "wandb"])
    assert result.exit_code == 130
    assert f"interrupted: 1/{len(runs)} runs are in there; run again for all" in result.stderr
