"""Rows → numbers: pure functions on data frames, without I/O. Columns are those of `store.COLUMNS`.

Accuracies are shares between 0 and 1. "Final" means the last epoch of a trial that was trained to its end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

AXES = ("optimizer", "model", "activation", "loss", "schedule", "batch_size", "dropout", "precision")
SCORES = ("train_accuracy", "val_accuracy", "test_accuracy", "gap")
HYPERPARAMETER = "hyperparameter."


def with_dropout_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """`dropout` as text, so that trials with two different rates ("0.1 + 0.25") group and sort beside the others."""
    pairs = rows[["dropout_conv", "dropout_linear"]].drop_duplicates()
    labels = {(a, b): f"{a:g}" if a == b else f"{a:g} + {b:g}" for a, b in pairs.itertuples(index=False)}
    keys = zip(rows["dropout_conv"], rows["dropout_linear"], strict=True)
    return rows.assign(dropout=pd.Series([labels[key] for key in keys], index=rows.index, dtype=object))


def with_hyperparameters(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A column for each hyperparameter that varies within an optimizer, and their names; `lr` first if it does.

    The names begin with `HYPERPARAMETER`, but for lr: an optimizer from elsewhere may call its arguments like a column.
    """
    parsed = {text: json.loads(text) for text in rows["hyperparameters"].unique()}
    seen: dict[str, dict[str, set[Any]]] = {}  # hyperparameter → optimizer → its values
    for optimizer, text in rows[["optimizer", "hyperparameters"]].drop_duplicates().itertuples(index=False):
        for name, value in parsed[text].items():
            seen.setdefault(name, {}).setdefault(optimizer, set()).add(_label(value))
    varying = [name for name, values in seen.items() if any(len(found) > 1 for found in values.values())]
    columns = {
        HYPERPARAMETER + name: rows["hyperparameters"].map({t: _label(v[name]) for t, v in parsed.items() if name in v})
        for name in varying
    }
    lr = ["lr"] if (rows.groupby("optimizer")["lr"].nunique() > 1).any() else []
    return rows.assign(**columns), [*lr, *columns]


def _label(value: Any) -> Any:
    """Pairs, booleans and null as the sweep file writes them, numbers as they are."""
    return json.dumps(value) if isinstance(value, (list, dict, bool)) or value is None else value


def varying(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns that hold more than one value."""
    return [name for name in columns if rows[name].nunique(dropna=False) > 1]


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each trial."""
    return rows.loc[rows.groupby("trial_id", sort=False)["epoch"].idxmax()]


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each trial that needs no more training, its last, with `gap` = train − val accuracy.

    Such a trial is finished, diverged or stopped; only a finished one was trained for all its epochs.
    """
    last = _last(rows[rows["status"].isin(["finished", "diverged", "stopped"])])
    return last.assign(gap=last["train_accuracy"] - last["val_accuracy"])


def states(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each trial, its last, whose `status` is finished, diverged, stopped, failed or running."""
    return _last(rows)


def budgets_in_words(budgets: Mapping[str, int]) -> str:
    """How many configurations each optimizer was given, shortly where many have the same."""
    if len(set(budgets.values())) == 1:
        n = next(iter(budgets.values()))
        return f"{n} configuration{'s' * (n != 1)} of each optimizer"
    by_size: dict[int, list[str]] = {}
    for label, n in sorted(budgets.items(), key=lambda item: -item[1]):
        by_size.setdefault(n, []).append(label)
    return "; ".join(f"{n} configurations of {', '.join(labels)}" for n, labels in by_size.items())


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % confidence interval, t · s / √n with n − 1 degrees of freedom (Student, 1908).

    NaN for what cannot be said: the mean of nothing, the width from fewer than two values.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def select(finals: pd.DataFrame, by: Sequence[str], metric: str) -> pd.Series:
    """The best configuration of each group: the highest mean `metric` over its seeds (the lowest for a loss).

    Configurations that always diverged come last; before them those with fewer seeds than others, so that in half a
    sweep no lucky seed wins against a mean of many; then those with a diverged seed. Stopped ones lost already. Returns
    configuration ids indexed by group.
    """
    sign = -1.0 if metric.endswith("loss") else 1.0
    trained = finals[finals["status"] != "stopped"]
    scores = trained.assign(score=sign * trained[metric], lost=trained["status"] == "diverged")
    table = scores.groupby([*by, "configuration_id"], sort=False).agg(
        score=("score", "mean"), lost=("lost", "mean"), seeds=("score", "size")
    )
    table["hopeless"] = table["lost"] == 1
    ranked = table.reset_index().sort_values(
        ["hopeless", "seeds", "lost", "score", "configuration_id"],
        ascending=[True, False, True, False, True],
        na_position="last",
    )
    return ranked.groupby(list(by), sort=False)["configuration_id"].first()


def compare(
    finals: pd.DataFrame, by: Sequence[str], metric: str, confirming: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row for each group: its best configuration's scores, each with the half width `…_interval`.

    `finals` select the configuration; it is scored by the same trials, or by those of `confirming`, on other seeds.
    `n` counts the seeds behind the scores, `trials` and `diverged` all trials of the group. `seconds_per_epoch` is
    measured on trials that ran alone and NaN where there are none. Best group first; groups without any trial that was
    trained to its end come last.
    """
    selected = select(finals, by, metric)
    chosen = {key if isinstance(key, tuple) else (key,): configuration for key, configuration in selected.items()}
    result = []
    for key, group in finals.groupby(list(by), sort=False):
        best = chosen.get(key, "")
        scoring = group
        if confirming is not None:
            scoring = confirming[confirming["configuration_id"] == best]
            group = pd.concat([group, scoring])
        usable = scoring[(scoring["configuration_id"] == best) & (scoring["status"] == "finished")]
        alone = usable[(usable["stack_size"] == 1) & (usable["workers"] == 1)]
        row = dict(zip(by, key, strict=True))
        for score in SCORES:
            row[score], row[f"{score}_interval"] = interval(usable[score].tolist())
        row["val_loss"] = interval(usable["val_loss"].tolist())[0]
        row["seconds_per_epoch"], row["seconds_per_epoch_interval"] = interval(
            (alone["train_seconds"] / alone["epochs"]).tolist()
        )
        row["n"], row["trials"] = len(usable), len(group)
        row["diverged"] = int((group["status"] == "diverged").sum())
        row["configuration_id"] = best
        result.append(row)
    return pd.DataFrame(result).sort_values(
        metric, ascending=metric.endswith("loss"), na_position="last", kind="stable"
    )


def by_epoch(rows: pd.DataFrame, configurations: Sequence[str]) -> pd.DataFrame:
    """Mean train and validation accuracy of these configurations after each epoch, over their finished trials."""
    usable = rows[rows["configuration_id"].isin(list(configurations)) & (rows["status"] == "finished")]
    scores = ["train_accuracy", "val_accuracy"]
    table = usable.groupby(["optimizer", "epoch"], sort=False)[scores].agg(["mean", "count"])
    table.columns = pd.Index(["train_accuracy", "n", "val_accuracy", "_"])
    return table.drop(columns="_").reset_index()
