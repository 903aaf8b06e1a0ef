"""A sweep's rows for other tools: one CSV file, or a run for each trial in TensorBoard, Weights & Biases or MLflow.

Everything is written from the rows, at any time; nothing is logged while a sweep trains. Each exporter of runs yields a
run when it is written. Exporting again replaces the old runs, so that nothing doubles.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from optbench import stats
from optbench.errors import ArgumentError, UserError
from optbench.results.store import COLUMNS, Store
from optbench.scores import Score
from optbench.sweep.axes import AXES, COMPARED

# What is logged after each epoch, including 0, under the names of the columns; `scheduled_lr` is its last step's.
SCORES = tuple(name for name, *_ in COLUMNS if name in Score.__members__)
METRICS = (*SCORES, "scheduled_lr", "step", "train_seconds")
# What is the same in all rows of a trial and says how it was trained; the hyperparameters are added to it.
PARAMETERS = (
    *(
        column.name
        for axis in AXES.values()
        for column in axis.columns
        if column.name != "hyperparameters" and not column.is_redundant
    ),
    "phase",
    "device",
    "cpu",
    "workers",
    "stack_size",
    "trial_id",
    "configuration_id",
    "optbench_version",
    "torch_version",
    "python_version",
    "os",
)
_SCALARS = (*SCORES, "scheduled_lr")  # what TensorBoard draws: its axes have epochs and seconds already
_SHORT_ID = 8
_NAME_LENGTH = 100  # of a run's name before the id: some file systems and tools take at most 255 or 128
_NAMING = [name for name in COMPARED if name != "optimizer"]  # whose values are in a run's name where they vary
_EVENTS = "events.out.tfevents.optbench"
_OFFLINE = ("offline", "dryrun")
_ID_LENGTH = 47  # of the sweep's name in an id of wandb, which has 64 characters at most
_WANDB_PLACES = ("wandb", ".wandb")  # the latter where it exists already
_METRICS_AT_ONCE = 800  # MLflow takes 1000 entities in one batch


@dataclass(frozen=True)
class Run:
    """One trial: its name, made of what tells it from the others, its configuration's name, and what was measured.

    epochs: for each epoch the seconds of training so far and the metrics; a diverged trial's scores are NaN where it
    diverged, and what was not measured is absent.
    """

    name: str
    configuration: str
    status: str
    phase: str
    parameters: dict[str, Any]
    epochs: dict[int, tuple[float, dict[str, float]]]

    @property
    def trial_id(self) -> str:
        """The id of the trial."""
        return str(self.parameters["trial_id"])

    @cached_property
    def digest(self) -> str:
        """A hash of all that is exported."""
        text = json.dumps([self.name, self.status, self.phase, self.parameters, self.epochs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Exported:
    """The rows of a sweep, in the order of its file and by epoch."""

    name: str
    rows: pd.DataFrame

    def __len__(self) -> int:
        """How many trials there are."""
        return int(self.rows["trial_id"].nunique())

    def __iter__(self) -> Iterator[Run]:
        """A run for each trial."""
        last = stats.with_labels(stats.states(self.rows))
        last, hyperparameters = stats.with_hyperparameters(last)
        choices = [*stats.varying(last, _NAMING), *hyperparameters]
        names = {row["trial_id"]: configuration_name(row, choices) for row in last.to_dict("records")}
        rows = self.rows[[*PARAMETERS, "hyperparameters", "status", "epoch", *METRICS]].itertuples(index=False)
        for trial_id, of_trial in groupby(rows, key=attrgetter("trial_id")):
            yield _run(list(of_trial), names[trial_id])


def gather(store: Store) -> Exported:
    """The rows of the sweep that ran last in the folder. Raises `UserError` where there are none."""
    rows, outline = store.rows(), store.outline()
    order = {trial_id: i for i, trial_id in enumerate(outline.ids)}
    if rows.empty:
        raise UserError(f"{store.folder}: no trial has begun yet")
    rows = rows.assign(order=rows["trial_id"].map(order)).sort_values(["order", "epoch"], ignore_index=True)
    return Exported(outline.name, rows.drop(columns="order"))


def configuration_name(row: Any, choices: list[str]) -> str:
    """What tells a configuration from the others, in characters that a file name may have."""
    shown = {c.removeprefix(stats.HYPERPARAMETER): row[c] for c in choices if row[c] is not None and row[c] == row[c]}
    words = [f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in shown.items()]
    return re.sub(r"[^A-Za-z0-9._=+-]+", "-", "_".join([row["optimizer"], *words]))[:_NAME_LENGTH]


def _run(rows: list[Any], name: str) -> Run:
    first = rows[0]
    known = {parameter: getattr(first, parameter) for parameter in PARAMETERS}
    parameters = {parameter: value for parameter, value in known.items() if not pd.isna(value)}
    for key, value in json.loads(first.hyperparameters).items():
        parameters[key if key not in parameters else stats.HYPERPARAMETER + key] = value
    measured = SCORES if first.status == "diverged" else ()  # even NaN; elsewhere a NaN was not measured
    epochs = {}
    for row in rows:
        found = {metric: float(getattr(row, metric)) for metric in METRICS}
        metrics = {metric: value for metric, value in found.items() if metric in measured or not math.isnan(value)}
        epochs[int(row.epoch)] = (metrics.get("train_seconds", 0.0), metrics)
    return Run(
        name=f"{name}_seed={first.seed}_{first.trial_id[:_SHORT_ID]}",
        configuration=f"{name}_{first.configuration_id[:_SHORT_ID]}",
        status=first.status,
        phase=first.phase,
        parameters=parameters,
        epochs=epochs,
    )


@dataclass(frozen=True)
class Destination:
    """An export in progress: `runs` yields each run when it is written; `where` they are, and what shows them there."""

    runs: Iterator[Run]
    where: str
    hint: str = ""


def _module(name: str) -> Any:
    """An optional package's module. Raises `UserError` with the line that installs it."""
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ImportError as error:
        why = "" if error.name == package else f" ({error})"
        missing = f"needs the package {package}{why}: pip install 'optbench[{package}]'"
        raise ArgumentError("to", package, missing) from None


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise UserError(f"{path}: cannot be written")
    return path


def _began(exported: Exported) -> float:
    """A start time such that the seconds of training end now: rows do not say when they were measured."""
    return time.time() - float(exported.rows["train_seconds"].fillna(0).max())


# ---------------------------------------------------------------- csv


def csv(exported: Exported, path: Path | None) -> None:
    """All rows as one file, columns as in the store; to stdout without a path. An old file is replaced."""
    if path is None:
        exported.rows.to_csv(sys.stdout, index=False, lineterminator="\n")
        return
    try:
        exported.rows.to_csv(path, index=False, lineterminator="\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


# ---------------------------------------------------------------- TensorBoard


def tensorboard(exported: Exported, output: Path | None) -> Destination:
    """A folder for each run below `output`, or runs/<sweep>: the metrics by epoch, and the parameters as hparams.

    Wall time advances by the seconds of training, so that the axis "relative" shows these.
    """
    folder = output or Path("runs") / exported.name
    return Destination(_tensorboard(exported, folder), str(folder), f"tensorboard --logdir {folder}")


def _tensorboard(exported: Exported, folder: Path) -> Iterator[Run]:
    writer = _module("tensorboard.summary.writer.record_writer")  # without the threads of the others
    protos = {name: _module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary")}
    event, summary = protos["event"].Event, protos["summary"].Summary
    hparams = _module("tensorboard.plugins.hparams.summary_v2")
    plugin = _module("tensorboard.plugins.hparams.plugin_data_pb2")
    metadata = _module("tensorboard.plugins.hparams.metadata")
    statuses = _module("tensorboard.plugins.hparams.api_pb2")
    old = {path: path.parent.name.rpartition("_")[2] for path in _folder(folder).glob(f"*/{_EVENTS}")}
    began, written = _began(exported), {}
    for run in exported:
        values = {
            key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for key, value in (run.parameters | {"status": run.status}).items()
            if key not in ("trial_id", "configuration_id")  # the name has it, and columns are many
        }
        end = began + max(seconds for seconds, _ in run.epochs.values())
        outcome = statuses.STATUS_FAILURE if run.status == "failed" else statuses.STATUS_SUCCESS
        ended = plugin.HParamsPluginData(session_end_info=plugin.SessionEndInfo(status=outcome, end_time_secs=end))
        ending = summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(ended),
            tensor=metadata.NULL_TENSOR,
        )
        events = [
            event(wall_time=began, file_version="brain.Event:2"),
            event(wall_time=began, summary=hparams.hparams_pb(values, run.name, began)),
        ]
        for epoch, (seconds, metrics) in run.epochs.items():
            scalars = [summary.Value(tag=tag, simple_value=metrics[tag]) for tag in _SCALARS if tag in metrics]
            events.append(event(wall_time=began + seconds, step=epoch, summary=summary(value=scalars)))
        events.append(event(wall_time=end, summary=summary(value=[ending])))
        path = _folder(folder / run.name) / _EVENTS
        with path.open("wb") as stream:
            records = writer.RecordWriter(stream)
            for one in events:
                records.write(one.SerializeToString())
        written[path] = run.trial_id[:_SHORT_ID]
        yield run
    ids = set(written.values())
    for path in (path for path, short_id in old.items() if path not in written and short_id in ids):
        path.unlink()  # the sweep has another axis than before, and its runs have other names
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


# ---------------------------------------------------------------- Weights & Biases


def wandb(exported: Exported, output: Path | None) -> Destination:
    """A run for each trial in wandb/ below `output`, $WANDB_DIR or the current folder; offline without WANDB_MODE."""
    folder = output or Path(os.environ.get("WANDB_DIR", "."))
    mode = os.environ.get("WANDB_MODE", "offline")
    hint = f"wandb sync {folder / 'wandb'}/offline-run-*" if mode in _OFFLINE else ""
    return Destination(_wandb(exported, folder, mode), str(folder / "wandb"), hint)


def _wandb(exported: Exported, folder: Path, mode: str) -> Iterator[Run]:
    if mode not in (*_OFFLINE, "online", "shared"):
        raise UserError(f"WANDB_MODE={mode}: set it to offline or online, or unset it")
    if mode in _OFFLINE:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when wandb is imported
    package = _module("wandb")
    # What wandb would record of this machine and this process says nothing about where and how the trials trained.
    settings = {"console": "off", "silent": True, "disable_git": True, "disable_code": True}
    settings |= {"disable_job_creation": True, "x_disable_meta": True, "x_disable_stats": True}
    settings |= {"x_disable_machine_info": True, "x_save_requirements": False}
    known = {key: value for key, value in settings.items() if key in package.Settings.model_fields}
    old: dict[str, list[Path]] = {}
    for path in (path for place in _WANDB_PLACES for path in (_folder(folder) / place).glob("offline-run-*-*")):
        old.setdefault(path.name.split("-", 3)[3], []).append(path)
    try:
        for run in exported:
            run_id = f"{exported.name[:_ID_LENGTH]}-{run.trial_id}"
            for path in old.get(run_id, ()):
                shutil.rmtree(path)
            logged = package.init(
                dir=str(folder),
                mode=mode,
                id=run_id,
                project=exported.name,
                name=run.name,
                group=run.configuration,
                job_type=run.phase,
                tags=[run.status],
                config=run.parameters | {"status": run.status},
                reinit="create_new",
                settings=package.Settings(**known),
            )
            for epoch, (_, metrics) in run.epochs.items():
                logged.log({"epoch": epoch, **metrics}, step=epoch)
            logged.finish(exit_code=int(run.status == "failed"))
            yield run
    except package.Error as error:
        raise UserError(f"wandb: {error}") from None
    finally:
        package.teardown()


# ---------------------------------------------------------------- MLflow

_TRIAL, _DIGEST = "optbench.trial_id", "optbench.digest"
_MLFLOW_STATUS = {"failed": "FAILED", "running": "RUNNING"}  # diverged and stopped trials are finished


def mlflow(exported: Exported, output: Path | None) -> Destination:
    """A run for each trial in the experiment of the sweep's name; a run that would not change stays.

    Without `output` it writes to MLFLOW_TRACKING_URI, or to the current folder: in mlflow.db where sqlalchemy is
    installed, as it is with all of MLflow, else as files in mlruns.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "") if output is None else ""
    if uri:
        return Destination(_mlflow(exported, uri), uri)
    folder = (output or Path()).absolute()
    if importlib.util.find_spec("sqlalchemy"):
        path, uri, allow = folder / "mlflow.db", f"sqlite:///{folder / 'mlflow.db'}", ""
    else:
        path, uri, allow = folder / "mlruns", (folder / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE=true "
    return Destination(_mlflow(exported, uri, folder), str(path), f"{allow}mlflow ui --backend-store-uri {uri}")


def _mlflow(exported: Exported, uri: str, folder: Path | None = None) -> Iterator[Run]:
    if folder:
        _folder(folder)
    # Read when mlflow is imported: otherwise it reports its use to its makers, and refuses files as a store.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    tracking, entities = _module("mlflow.tracking"), _module("mlflow.entities")
    raised = _module("mlflow.exceptions").MlflowException
    try:
        client = tracking.MlflowClient(uri)
        experiment = _experiment(client, exported.name)
        old = _old_runs(client, experiment)
        began = _began(exported)
        for run in exported:
            earlier = old.get(run.trial_id)
            if earlier and earlier.data.tags.get(_DIGEST) == run.digest:
                yield run
                continue
            if earlier:
                client.delete_run(earlier.info.run_id)
            times = {epoch: round(1000 * (began + seconds)) for epoch, (seconds, _) in run.epochs.items()}
            metrics = [
                entities.Metric(name, value, times[epoch], epoch)
                for epoch, (_, found) in run.epochs.items()
                for name, value in found.items()
            ]
            values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in run.parameters.items()}
            run_id = client.create_run(experiment, round(1000 * began), {_TRIAL: run.trial_id}, run.name).info.run_id
            tags = {"status": run.status, "phase": run.phase, "configuration": run.configuration}
            tags |= {"mlflow.source.name": "optbench", "mlflow.source.type": "LOCAL"}
            tags[_DIGEST] = run.digest  # the last thing that is written: a run without it was interrupted
            params = [entities.Param(key, value) for key, value in values.items()]
            for i in range(0, len(metrics), _METRICS_AT_ONCE):
                is_last = i + _METRICS_AT_ONCE >= len(metrics)
                client.log_batch(
                    run_id,
                    metrics=metrics[i : i + _METRICS_AT_ONCE],
                    params=params if i == 0 else (),
                    tags=[entities.RunTag(key, value) for key, value in tags.items()] if is_last else (),
                )
            client.set_terminated(run_id, _MLFLOW_STATUS.get(run.status, "FINISHED"), max(times.values()))
            yield run
    except raised as error:
        raise UserError(f"mlflow: {str(error).splitlines()[0]}") from None


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage != "active":
        raise UserError(f"mlflow: the experiment {name} was deleted there; restore it, or give the sweep another name")
    return str(found.experiment_id)


def _old_runs(client: Any, experiment: str) -> dict[str, Any]:
    """The runs of the experiment by trial id."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found |= {run.data.tags.get(_TRIAL, ""): run for run in page}
        token = page.token
        if not token:
            return found


TOOLS: dict[str, Callable[[Exported, Path | None], Destination]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
