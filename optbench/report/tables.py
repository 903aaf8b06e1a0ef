"""Which tables a sweep has: one for each axis that it varies, in the form of the tables people know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from optbench import stats
from optbench.errors import UserError
from optbench.store import Outline, Store


@dataclass(frozen=True)
class Column:
    """A column as it is shown: `name` in the data, and how its values are written.

    kind: "text", "prose" (text that may fold between words), "count", "percent" (a share, shown × 100), "points" (a
    difference of shares, likewise), "seconds", or "pair" (two shares in one cell, `<name> train_accuracy` and
    `<name> val_accuracy`). The interval from `<name>_low` to `<name>_high`, where the data have one, is shown with it.
    """

    name: str
    heading: str
    kind: str = "text"

    @property
    def is_text(self) -> bool:
        """Whether its cells are words, which stand on the left, and not numbers."""
        return self.kind in ("text", "prose")


@dataclass(frozen=True)
class Table:
    """A table: `data` holds plain numbers, `columns` say which are shown and how, the first `keys` name a row."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    data: pd.DataFrame
    keys: int = 1


@dataclass(frozen=True)
class Report:
    """The tables of a sweep, the line above them that counts its trials, and what holds for all of them.

    `findings` says in sentences what the numbers say: the most important first.
    """

    sweep: str
    summary: str
    findings: tuple[str, ...]
    tables: tuple[Table, ...]
    note: str


_AXES = {
    "optimizer": ("Optimizers", "optimizer"),
    "model": ("Model accuracy comparison", "model"),
    "activation": ("Activation functions", "activation"),
    "loss": ("Loss functions", "loss"),
    "precision": ("Precision", "precision"),
    "schedule": ("Learning-rate schedules", "schedule"),
    "batch_size": ("Batch sizes and training time", "batch size"),
    "dropout": ("Dropout rates", "dropout"),
    "lr": ("Learning rates", "lr"),
}
_MAX_CURVES = 10  # more columns than that, nobody compares
_TRAIN = Column("train_accuracy", "train accuracy %", "percent")
_VAL = Column("val_accuracy", "validation accuracy %", "percent")
_TEST = Column("test_accuracy", "test accuracy %", "percent")
_GAP = Column("gap", "train − validation", "points")
_SECONDS = Column("seconds_per_epoch", "seconds per epoch", "seconds")
_SCORES = {"batch_size": (_TEST, _VAL, _SECONDS), "dropout": (_TRAIN, _VAL, _GAP)}


def build(store: Store) -> Report:
    """The report of a folder of results. Raises `UserError` when nothing in it can be shown."""
    rows, outline = store.rows(), store.outline()
    if outline is not None:
        rows = rows[rows["trial_id"].isin([*outline.trial_ids, *outline.confirm_ids])]
    metric = outline.metric if outline else "val_accuracy"
    name = outline.name if outline else store.folder.name
    summary = count(rows, outline, _under_way(store))
    rows = stats.with_dropout_labels(rows)
    searched = outline.searched if outline else ()
    finals, hyperparameters = stats.with_hyperparameters(stats.final(rows))
    if (finals["status"] == "stopped").all():
        raise UserError(f"{store.folder}: no trial has finished yet ({summary})")
    if "schedule" in searched:  # each draw would be a schedule of its own
        names = finals["schedule"].str.partition("(")[0]
        drawn = names.isin(outline.searched_schedules if outline else ())
        finals = finals.assign(drawn_schedule=finals["schedule"], schedule=finals["schedule"].where(~drawn, names))
    tuning, confirming = finals[finals["phase"] == "tune"], finals[finals["phase"] == "confirm"]
    varying = stats.varying(tuning, stats.AXES)
    within = [a for a in varying if a not in ("optimizer", *(["schedule"] if "schedule" in searched else []))]
    within += [*hyperparameters, *(["drawn_schedule"] if "schedule" in searched else [])]
    optimizers = _axis(tuning, "optimizer", [], within, metric, confirming if len(confirming) else None)
    if outline:
        optimizers = _with_all(optimizers, outline.optimizers)
    unconfirmed = optimizers.data[(optimizers.data["n"] == 0) & (optimizers.data["configuration"] != "")]["optimizer"]
    if len(confirming) and len(unconfirmed):
        optimizers = replace(optimizers, caption=f"Not confirmed yet: {', '.join(unconfirmed)}.")
    tables = [optimizers]
    keys = ["optimizer"] if "optimizer" in varying else []
    tables += [_axis(tuning, axis, keys, within, metric) for axis in varying if axis != "optimizer"]
    listed = [name for name in hyperparameters if name.removeprefix(stats.HYPERPARAMETER) not in searched]
    tables += [_axis(tuning, axis, ["optimizer"], within, metric) for axis in listed]
    scored = "confirm" if len(confirming) else "tune"
    tables.append(_epochs(rows[rows["phase"] == scored], optimizers.data))
    if outline and len(set(outline.budgets.values())) > 1:
        unequal = f"The tuning budgets differ: {stats.budgets_in_words(outline.budgets)}."
        tables = [replace(table, caption=f"{table.caption} {unequal}".strip()) for table in tables]
    return Report(name, summary, (), tuple(tables), _note(metric, outline, confirming))


def _note(metric: str, outline: Outline | None, confirming: pd.DataFrame) -> str:
    """What holds for all tables."""
    selection = f"Each row shows its best configuration by mean {metric} over the seeds, after the last epoch."
    if len(confirming):
        selection += (
            " In the first and the last table it is scored on fresh seeds, which selected nothing; elsewhere the same "
            "seeds select and score."
        )
    else:
        selection += " The same seeds select and score."
    if outline and outline.budgets and len(set(outline.budgets.values())) == 1:
        selection += f" Tuning budget: {stats.budgets_in_words(outline.budgets)}."
    return (
        f"{selection} n: seeds behind the scores; ±: 95 % interval of the mean (Student's t; none for n = 1); "
        "diverged: trials whose loss became infinite or NaN, of all trials of the row that did not fail."
    )


def _under_way(store: Store) -> str:
    """What to call trials that are neither finished nor failed: a run trains them, or none does any more."""
    return "running" if store.is_locked() else "interrupted"


def count(rows: pd.DataFrame, outline: Outline | None, under_way: str) -> str:
    """How many trials there are in which state, in words."""
    states = stats.states(rows)["status"].value_counts().to_dict()
    total = sum(outline.optimizers.values()) if outline else sum(states.values())
    states["missing"] = total - sum(states.values())
    words = {
        "finished": "finished",
        "diverged": "diverged",
        "stopped": "stopped early",
        "failed": "failed",
        "running": under_way,
        "missing": "missing",
    }
    shown = [f"{states[state]} {word}" for state, word in words.items() if states.get(state)]
    return f"{total} trial{'s' * (total != 1)}: {', '.join(shown) or 'none'}"


def status(store: Store) -> Table:
    """How many trials of each optimizer are in which state; works while the sweep runs."""
    rows, outline = store.rows(), store.outline()
    if outline is None:
        raise UserError(f"{store.folder}: no sweep has run here")
    rows = rows[rows["trial_id"].isin([*outline.trial_ids, *outline.confirm_ids])]
    states = ["finished", "diverged", *(["stopped"] if outline.halving else []), "failed", "running"]
    counts = stats.states(rows).groupby("optimizer")["status"].value_counts().unstack(fill_value=0)
    data = pd.DataFrame({"optimizer": list(outline.optimizers), "trials": list(outline.optimizers.values())})
    for state in states:
        found = counts[state].to_dict() if state in counts else {}
        data[state] = [int(found.get(label, 0)) for label in data["optimizer"]]
    data["missing"] = data["trials"] - data[states].sum(axis=1)
    done = int(data[[state for state in states if state not in ("failed", "running")]].to_numpy().sum())
    columns = [Column("optimizer", "optimizer"), *(Column(c, c, "count") for c in ("trials", *states, "missing"))]
    columns = [replace(c, heading=_under_way(store)) if c.name == "running" else c for c in columns]
    caption = f"{done}/{int(data['trials'].sum())} trials done in {store.folder}."
    return Table(f"Status of {outline.name}", caption, tuple(columns), data)


def _axis(
    finals: pd.DataFrame,
    axis: str,
    keys: Sequence[str],
    within: Sequence[str],
    metric: str,
    confirming: pd.DataFrame | None = None,
) -> Table:
    """The table of one axis; `keys` are the columns that group it further, `within` what a configuration chooses."""
    by = [*keys, axis]
    if axis not in stats.AXES:  # a hyperparameter that some optimizers do not have
        optimizers = finals.groupby("optimizer")[axis].nunique()
        finals = finals[finals["optimizer"].isin(optimizers[optimizers > 1].index)]
    data = stats.compare(finals, by, metric, confirming)
    if axis != "optimizer":
        data = _in_order(data, by)
    choices = [name for name in within if name not in by]
    configurations = finals.drop_duplicates("configuration_id").set_index("configuration_id")
    data["configuration"] = [
        _configuration(configurations.loc[i], choices) if i else "" for i in data["configuration_id"]
    ]
    data["diverged_of"] = [f"{k}/{n}" for k, n in zip(data["diverged"], data["trials"], strict=True)]
    plain = axis.removeprefix(stats.HYPERPARAMETER)
    if plain not in data:
        data = data.rename(columns={axis: plain})
        axis = plain
    title, heading = _AXES.get(axis, (f"Hyperparameter {plain}", plain))
    columns = [Column(key, key) for key in keys] + [Column(axis, heading)]
    columns += [
        *_SCORES.get(axis, (_TEST, _VAL)),
        Column("n", "n", "count"),
        Column("diverged_of", "diverged", "count"),
    ]
    if choices:
        columns.append(Column("configuration", "best configuration", "prose"))
    caption = ""
    if axis == "batch_size":
        caption = "Seconds are measured on trials that ran alone on the machine"
        if not data["seconds_per_epoch"].notna().any():
            caption += (
                ", and here none did; 'optbench run SWEEP --workers 1 --stack-size 1 --output FOLDER' trains them so"
            )
        caption += "."
    return Table(title, caption, tuple(columns), data.drop(columns=["val_loss"]), keys=len(by))


def _with_all(table: Table, optimizers: Iterable[str]) -> Table:
    """The table with a row for those optimizers, too, none of whose trials could be trained or has been yet."""
    lost = [label for label in optimizers if label not in set(table.data["optimizer"])]
    if not lost:
        return table
    empty = pd.DataFrame(
        {"optimizer": lost, "n": 0, "trials": 0, "diverged": 0, "diverged_of": "0/0", "configuration": ""}
    )
    return replace(table, data=pd.concat([table.data, empty], ignore_index=True))


def _in_order(data: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Groups in the order of their best row, values within a group in ascending order."""
    ranks = {name: {value: i for i, value in enumerate(data[name].unique())} for name in by[:-1]}

    def key(column: pd.Series) -> pd.Series:
        if column.name in ranks:
            return column.map(ranks[column.name])
        if column.name == "dropout":
            return pd.to_numeric(column, errors="coerce")
        if column.dtype == object:  # words beside numbers: optimizers from elsewhere share names, not meanings
            ordered = sorted(column.unique(), key=lambda value: (isinstance(value, str), value))
            return column.map({value: i for i, value in enumerate(ordered)})
        return column

    return data.sort_values(list(by), key=key, kind="stable")


def _configuration(row: pd.Series, choices: Sequence[str]) -> str:
    shown = {name: row[name] for name in choices if not _missing(row[name])}
    plain = {name.removeprefix("drawn_").removeprefix(stats.HYPERPARAMETER): value for name, value in shown.items()}
    return ", ".join(f"{name}={_number(value)}" for name, value in plain.items())


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _epochs(rows: pd.DataFrame, best: pd.DataFrame) -> Table:
    """Accuracy by epoch of each optimizer's best configuration: a row per epoch, a column for each of the best ones."""
    total, best = len(best), best.head(_MAX_CURVES)
    curves = stats.by_epoch(rows, best["configuration_id"].tolist())
    data = pd.DataFrame({"epoch": sorted(curves["epoch"].unique())})
    columns = [Column("epoch", "epoch", "count")]
    for optimizer in best["optimizer"]:
        curve = curves[curves["optimizer"] == optimizer].set_index("epoch")
        if curve.empty:  # every seed diverged
            continue
        for split in ("train_accuracy", "val_accuracy"):
            data[f"{optimizer} {split}"] = data["epoch"].map(curve[split])
        columns.append(Column(optimizer, optimizer, "pair"))
    caption = "Training / validation accuracy in %, mean over the seeds; epoch 0 is before training."
    if total > len(best):
        caption += f" The {len(best)} best of {total} optimizers."
    return Table("Training and validation accuracy", caption, tuple(columns), data)
