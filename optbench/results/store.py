"""Rows in and out of parquet: one flat folder per sweep, one part per stack, one row per trial and epoch.

results/<sweep>/part-<id>.parquet       rows; `pandas.read_parquet("results/<sweep>")` works at any moment
results/<sweep>/_optbench/              everything else; pandas skips names that begin with an underscore
results/<sweep>/_optbench/timing/       rows of trials that trained once more, alone, to measure their seconds
results/<sweep>/_optbench/pretrained/   rows of the trials that trained networks for others to begin with, and in
                                        their own _optbench/weights/ these networks (`training.pretrained`)
results/<sweep>/_optbench/correct/      which images each finished trial classified correctly (`correct`)

Many parts are merged into few when a phase ends (`parts.merge`).
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from filelock import FileLock, Timeout

from optbench.errors import UserError
from optbench.results import parts
from optbench.results.correct import CorrectImages
from optbench.scores import Score
from optbench.sweep.axes import AXES
from optbench.training import pretrained

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = 3

_text, _real = pa.string(), pa.float64()


def _of_axes(is_resolved: bool) -> list[tuple[str, pa.DataType, str]]:
    """The columns of the axes, of those that the device resolves or of the others."""
    axes = [axis for axis in AXES.values() if axis.is_resolved == is_resolved]
    return [(name, pa.type_for_alias(kind), says) for axis in axes for name, kind, says, *_ in axis.columns]


# Name, type, and what the column says. A test compares the README's table of columns with this one.
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("sweep", _text, "name of the sweep"),
    (
        "phase",
        _text,
        "tune: configurations are selected by it; confirm: a fresh seed of a selected one; "
        "default: an optimizer at its defaults; timing: retrained alone; pretrain: a network for others to begin with",
    ),
    ("trial_id", _text, "hash of the resolved trial"),
    ("configuration_id", _text, "hash of the resolved trial without its seed"),
    *_of_axes(is_resolved=False),
    ("classes", pa.int32(), "classes of the data; null in rows of older versions, as are the next four"),
    ("train_images", pa.int32(), "images that are trained on"),
    ("val_images", pa.int32(), "images of the validation set"),
    ("test_images", pa.int32(), "images of the test set"),
    ("train_eval_images", pa.int32(), "images of the train-eval slice, the first of the training set"),
    ("epoch", pa.int32(), "epochs trained; 0 is before training"),
    ("step", pa.int64(), "updates made"),
    ("status", _text, "finished, running, diverged, stopped or failed; the same in all rows of a trial"),
    ("scheduled_lr", _real, "learning rate of the epoch's last step"),
    ("train_loss", _real, "mean of the loss on the train-eval slice, dropout off"),
    ("train_accuracy", _real, "share of the train-eval slice classified correctly, 0 to 1"),
    ("val_loss", _real, "the same on the validation set; null where there is none"),
    ("val_accuracy", _real, "the same on the validation set; null where there is none"),
    ("test_loss", _real, "the same on the test set"),
    ("test_accuracy", _real, "the same on the test set"),
    ("train_seconds", _real, "seconds of training so far, evaluation excluded, of the whole stack"),
    (
        "state_per_parameter",
        _real,
        "numbers that the optimizer keeps between steps, per parameter of the network; null at epoch 0",
    ),
    ("gradients_per_step", _real, "gradients evaluated per update so far, 1 for most optimizers; null at epoch 0"),
    ("peak_memory_bytes", pa.int64(), "most GPU memory allocated while it trained; null unless it trained alone"),
    ("stack", _text, "id of the stack"),
    ("stack_size", pa.int32(), "trials that trained together and share the seconds"),
    ("workers", pa.int32(), "processes that trained at the same time on this machine"),
    ("device", _text, "cpu, or the name of the GPU"),
    ("cpu", _text, "model of the CPU; null in rows of older versions"),
    *_of_axes(is_resolved=True),
    ("convolution", _text, "how convolutions, or modules from elsewhere, were computed; null for other networks"),
    ("error", _text, "why the trial failed; null otherwise"),
    ("optbench_version", _text, "version of optbench"),
    ("torch_version", _text, "version of torch"),
    ("python_version", _text, "version of Python; null in rows of older versions"),
    ("os", _text, "operating system and architecture; null in rows of older versions"),
)
# Since the parts of this schema version that were written first.
_ADDED = (
    *("cpu", "python_version", "os", "state_per_parameter", "gradients_per_step", "peak_memory_bytes"),
    *("classes", "train_images", "val_images", "test_images", "train_eval_images"),
)
# The values in parts that are older than a column; the axes that are in all ids existed from the beginning.
_DEFAULTS = {name: {parts.DEFAULT_KEY: json.dumps(None)} for name in _ADDED} | {
    column.name: {parts.DEFAULT_KEY: json.dumps(column.of(axis.default))}
    for axis in AXES.values()
    if axis.has_default and not (axis.is_always_hashed or axis.is_resolved)
    for column in axis.columns
}
SCHEMA = pa.schema(
    [pa.field(name, kind, metadata=_DEFAULTS.get(name)) for name, kind, _ in COLUMNS],
    metadata={parts.VERSION_KEY: str(SCHEMA_VERSION)},
)

# The fields of an outline that are tuples; JSON has lists.
_LISTS = ("trial_ids", "confirm_ids", "default_ids", "pretrain_ids", "searched", "searched_schedules", "races")

# A part is rewritten as epochs finish, but not more often than this, and for only a small share of the time.
_SECONDS_BETWEEN_WRITES = 1.0
_SHARE_OF_WRITING = 0.05

_PATIENCE = 0.5  # seconds to wait for the lock: `is_locked`, in another process, holds it for a moment
_METRIC = Score.val_accuracy  # selects where a folder does not say which metric does


@dataclass(frozen=True)
class Outline:
    """What the folder says about its sweep besides rows.

    Which trials belong to it, in the order of the file, which confirm its selected configurations, which have an
    optimizer at its defaults, of which some may be among the others, and which pretrain networks for all these; why an
    optimizer has no defaults, by label; how many trials each optimizer has in all phases, and how many configurations
    were tuned; which hyperparameters and which schedules' parameters were searched; the halving that stopped trials,
    and a digest of the trials of each race; the sizes of each dataset's splits, and how many parameters each network
    has (both empty where an earlier version wrote the folder; a version with a single dataset left out its name); a
    digest of each of the user's own data and networks, by name; the `trials.NUMERICS` that is in the ids (versions that
    did not say so had 1).
    """

    name: str
    metric: Score
    trial_ids: tuple[str, ...]
    optimizers: dict[str, int]
    budgets: dict[str, int] = field(default_factory=dict)
    confirm_ids: tuple[str, ...] = ()
    default_ids: tuple[str, ...] = ()
    pretrain_ids: tuple[str, ...] = ()
    without_defaults: dict[str, str] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    searched_schedules: tuple[str, ...] = ()
    halving: dict[str, int] | None = None
    races: tuple[str, ...] = ()
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    networks: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    numerics: int = 1

    @property
    def ids(self) -> tuple[str, ...]:
        """All trials of the sweep, in its order."""
        return tuple(dict.fromkeys((*self.trial_ids, *self.confirm_ids, *self.default_ids)))

    @property
    def phases(self) -> dict[str, str]:
        """The phase of each trial, by id: of the phases that it belongs to the first."""
        by_phase = {"default": self.default_ids, "confirm": self.confirm_ids, "tune": self.trial_ids}
        return {trial_id: phase for phase, ids in by_phase.items() for trial_id in ids}


class Store:
    """The results of one sweep, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = folder / "_optbench"

    # ------------------------------------------------------------ writing

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one run at a time may write to the folder. Raises `UserError` when another one does."""
        # The thread that ends a run need not be the one that began it.
        lock = FileLock(self.meta / "lock", timeout=_PATIENCE, thread_local=False)
        try:
            self.meta.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise UserError(f"another run is writing to {self.folder}") from None
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a run is writing to the folder now."""
        lock = FileLock(self.meta / "lock", timeout=0)
        try:
            lock.acquire()
        except (Timeout, OSError):
            return True
        lock.release()
        return False

    def begin(self, outline: Outline, sweep_yaml: str, stacks: Mapping[str, Collection[str]]) -> None:
        """Record the sweep and the trial ids of each stack that will train, by stack id.

        Deletes old rows of these trials, and those of trials that were interrupted: they all train again. The rest can
        be read at any moment, even before the first epoch is done. A trial that confirmed in another sweep of this
        folder may tune in this one, and the other way round.
        """
        self._recover()
        self.write_meta("sweep.yaml", sweep_yaml)
        self.write_meta("outline.json", json.dumps(vars(outline), indent=1))
        planned = frozenset().union(*stacks.values())
        self.correct.forget(planned)
        pretrained.forget(self.weights, planned)
        paths, phases = self.parts(), outline.phases
        for path, trials in zip(paths, parts.trials(paths, SCHEMA, ["status", "phase"]), strict=True):
            self._tidy(path, trials, planned, phases)
        if stacks and not self.parts():
            self.replace(next(iter(stacks)), [])

    def _tidy(self, path: Path, trials: pa.Table, planned: Collection[str], phases: Mapping[str, str]) -> None:
        """Remove the rows of trials that will train from a part, and give the others the phase they have now."""
        old, kept = {}, set()
        for trial in trials.to_pylist():
            old[trial["trial_id"]] = trial["phase"]
            if trial["trial_id"] not in planned and trial["status"] != "running":
                kept.add(trial["trial_id"])
        new = old | {i: phases[i] for i in old if i in phases}
        if not kept:
            path.unlink()
        elif len(kept) < len(old) or new != old:
            table = parts.read([path], SCHEMA, trial_ids=kept)
            phase = pa.array([new[i] for i in table.column("trial_id").to_pylist()], pa.string())
            self._replace(path, table.set_column(SCHEMA.get_field_index("phase"), "phase", phase))

    def write_meta(self, name: str, text: str) -> Path:
        """Write a file beside the rows, atomically."""
        self.meta.mkdir(parents=True, exist_ok=True)
        path, temporary = self.meta / name, self.meta / f".{name}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
        return path

    def replace(self, stack_id: str, rows: list[dict[str, Any]]) -> None:
        """Write the part of a stack in one step: a reader sees the old or the new one, never half of it."""
        self._replace(self.folder / f"part-{stack_id}.parquet", pa.Table.from_pylist(rows, SCHEMA))

    def _replace(self, path: Path, table: pa.Table) -> None:
        parts.write(table, SCHEMA, path, self.meta / f".{path.stem}.tmp")

    def compact(self) -> tuple[int, int]:
        """Merge the parts into few and return how many there were, and how many there are; call it when `locked`.

        No row changes. It may be stopped at any moment, and `rows` may be read meanwhile; only pandas may see rows both
        in their old and in their new part, for a moment or, after a crash, until the next run.
        """
        try:
            self.correct.compact()
            return parts.merge(self.folder, self.meta, SCHEMA)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be compacted: {error.strerror or error}") from None

    def _recover(self) -> None:
        try:
            parts.recover(self.folder, self.meta)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    # ------------------------------------------------------------ reading

    def parts(self) -> list[Path]:
        """The files that hold the rows now, by name."""
        return parts.listed(self.folder, self.meta)

    def statuses(self) -> dict[str, str]:
        """The status of every trial that has rows."""
        table = self._read(["trial_id", "status"], last=True)
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True)) if table else {}

    def outline(self) -> Outline:
        """The sweep that ran last in this folder; where the folder does not say, as much of it as the rows show."""
        path = self.meta / "outline.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data |= {name: tuple(data.get(name, ())) for name in _LISTS} | {"metric": Score(data["metric"])}
            if "train" in data.get("splits", {}):
                data["splits"] = {"": data["splits"]}
            return Outline(**data)
        except (FileNotFoundError, NotADirectoryError):
            return self._outline_of_rows()
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: damaged: {error}; the next run of the sweep replaces it") from None

    def _outline_of_rows(self) -> Outline:
        table = self._read(["trial_id", "configuration_id", "optimizer", "phase"], last=True)
        trials = table.to_pylist() if table else []
        of = {phase: [t for t in trials if t["phase"] == phase] for phase in ("tune", "confirm", "default")}
        return Outline(
            name=self.folder.name,
            metric=_METRIC,
            trial_ids=tuple(trial["trial_id"] for trial in of["tune"]),
            optimizers=Counter(trial["optimizer"] for found in of.values() for trial in found),
            budgets=Counter(label for label, _ in {(t["optimizer"], t["configuration_id"]): None for t in of["tune"]}),
            confirm_ids=tuple(trial["trial_id"] for trial in of["confirm"]),
            default_ids=tuple(trial["trial_id"] for trial in of["default"]),
        )

    def rows(
        self, columns: Sequence[str] | None = None, trial_ids: Collection[str] | None = None, last: bool = False
    ) -> DataFrame:
        """The rows of the sweep that ran last as a data frame, or some columns of them, or the last row of each trial.

        `trial_ids` asks for other trials instead, which may be there from earlier sweeps. Texts are categoricals, with
        categories in alphabetical order: they sort and group as texts do, but group them with `observed=True`.
        Raises `UserError` for no results, a foreign file or another schema version.
        """
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder of results")
        table = self._read(columns, self.outline().ids if trial_ids is None else trial_ids, last)
        if table is None:
            sweeps = ", ".join(sorted(str(path.parent.parent) for path in self.folder.glob("*/_optbench/outline.json")))
            raise UserError(f"{self.folder}: holds no results" + (f"; name one of {sweeps}" if sweeps else ""))
        return _to_pandas(table)

    @property
    def timing(self) -> Store:
        """The rows of trials that trained once more, alone, to measure their seconds."""
        return Store(self.meta / "timing")

    @property
    def pretrained(self) -> Store:
        """The rows of trials that trained networks for others to begin with, and these networks."""
        return Store(self.meta / "pretrained")

    @property
    def weights(self) -> Path:
        """The folder of the networks that these trials have left."""
        return self.meta / "weights"

    def pretraining(self, columns: Sequence[str] | None = None) -> DataFrame:
        """The last row of each trial that pretrained a network for the sweep that ran last; empty if none did."""
        table = self.pretrained._read(columns, self.outline().pretrain_ids, last=True)
        return _to_pandas(parts.read([], SCHEMA, columns) if table is None else table)

    @property
    def correct(self) -> CorrectImages:
        """Which images the finished trials classified correctly."""
        return CorrectImages(self.meta / "correct")

    def timed(self, columns: Sequence[str] | None = None, last: bool = False) -> DataFrame:
        """The rows, as `rows` gives them, of trials whose seconds are their own: they trained alone on the machine.

        They are finished or diverged, and each is there once: from `timing`, else from the sweep itself if it happened
        to train alone there. The column `device` says where. Empty if there are none.
        """
        again = self.timing._alone()
        first = self._alone() - again
        found = [store._read(columns, ids, last) for store, ids in ((self.timing, again), (self, first)) if ids]
        empty = parts.read([], SCHEMA, columns)
        return _to_pandas(pa.concat_tables([empty, *(table for table in found if table is not None)]))

    def _alone(self) -> set[str]:
        """Ids of the trials that trained to their end, diverged or not, and alone on the machine."""
        table = self._read(["trial_id", "status", "stack_size", "workers"], last=True)
        if table is None:
            return set()
        trials = table.to_pandas()
        ended = trials["status"].isin(["finished", "diverged"])
        return set(trials["trial_id"][ended & (trials["stack_size"] == 1) & (trials["workers"] == 1)])

    def _read(
        self, columns: Sequence[str] | None = None, trial_ids: Collection[str] | None = None, last: bool = False
    ) -> pa.Table | None:
        return parts.read_folder(self.folder, self.meta, SCHEMA, columns, trial_ids, last)


def _to_pandas(table: pa.Table) -> DataFrame:
    frame: DataFrame = table.unify_dictionaries().to_pandas()
    for name in frame.select_dtypes("category"):
        values = frame[name].cat
        if not values.categories.is_monotonic_increasing:
            frame[name] = values.reorder_categories(values.categories.sort_values())
    return frame


def newest(output: Path) -> Path:
    """The folder of the sweep that ran last in `output`. Raises `UserError` when there is none."""
    found = {path.parent.parent: path.stat().st_mtime for path in output.glob("*/_optbench/outline.json")}
    if not found:
        raise UserError(f"{output}: holds no results; name a folder of results, or run a sweep first")
    return max(found, key=lambda folder: found[folder])


class Part:
    """The rows of one stack on their way to disk."""

    def __init__(self, store: Store, stack_id: str, columns: dict[str, dict[str, Any]]) -> None:
        """`columns` holds for each trial id what is the same in all its rows."""
        self._store, self._stack_id, self._columns = store, stack_id, columns
        self._rows: list[dict[str, Any]] = []
        self._status = dict.fromkeys(columns, "running")
        self._errors: dict[str, str] = {}
        self._next_write = 0.0  # on the monotonic clock

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to train."""
        return "running" not in self._status.values()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append an epoch of the trials that still train; epoch 0 starts the part over."""
        if rows[0]["epoch"] == 0:
            self._rows = []
            self._status = dict.fromkeys(self._columns, "running")
        self._rows += [
            self._columns[row["trial_id"]] | {k: v for k, v in row.items() if k != "weights"} for row in rows
        ]
        self._keep_correct(rows)
        self._keep_weights(rows)
        self._status |= {row["trial_id"]: row["status"] for row in rows}
        self._errors |= {row["trial_id"]: row["error"] for row in rows if row.get("error")}
        if rows[0]["epoch"] == 0 or self.is_settled or time.monotonic() >= self._next_write:
            started = time.monotonic()
            self._write()
            took = time.monotonic() - started
            self._next_write = started + max(_SECONDS_BETWEEN_WRITES, took / _SHARE_OF_WRITING)

    def _keep_correct(self, rows: list[dict[str, Any]]) -> None:
        """Write which images were right, which is known of trials that finish; before their rows say that they did."""
        ended = [self._columns[row["trial_id"]] | row for row in rows if row["status"] == "finished"]
        if ended and "test_correct" in ended[0]:
            self._store.correct.replace(self._stack_id, ended)

    def _keep_weights(self, rows: list[dict[str, Any]]) -> None:
        """Write the networks of trials that finish, where these are kept; before their rows say that they did."""
        for row in rows:
            if row["status"] == "finished" and "weights" in row:
                pretrained.write(self._store.weights, row["trial_id"], row["weights"])

    def stop(self, trial_ids: Collection[str]) -> None:
        """These trials stop training."""
        self._status |= dict.fromkeys(trial_ids, "stopped")
        self._write()

    def hand_on(self, stack_id: str) -> None:
        """The trials begin again in other parts, the first of which is that of this stack."""
        self._store.replace(stack_id, [])  # a reader always finds a part
        (self._store.folder / f"part-{self._stack_id}.parquet").unlink(missing_ok=True)
        self._store.correct.remove(self._stack_id)

    def fail(self, error: str) -> None:
        """Mark every trial that is not settled as failed; one that never began gets a row that says so."""
        begun = {row["trial_id"] for row in self._rows}
        self._rows += [columns | {"epoch": 0, "step": 0} for i, columns in self._columns.items() if i not in begun]
        failed = [trial_id for trial_id, status in self._status.items() if status == "running"]
        self._status |= dict.fromkeys(failed, "failed")
        self._errors |= dict.fromkeys(failed, error)
        self._write()

    def _write(self) -> None:
        for row in self._rows:
            row["status"], row["error"] = self._status[row["trial_id"]], self._errors.get(row["trial_id"])
        self._store.replace(self._stack_id, self._rows)
