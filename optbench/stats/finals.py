"""Rows → one row for each trial: the score that a trial ends with, and what tells it from others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from optbench.data.info import DATASETS
from optbench.scores import Score
from optbench.sweep.axes import COMPARED
from optbench.wording import count

SCORES = (*map(str, Score), "gap")
HYPERPARAMETER = "hyperparameter."
_NULLABLE = [axis.name for axis in COMPARED.values() if axis.default is None]


def with_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Axes as they group and sort: `dropout` as text, two different rates being "0.1 + 0.25", and null as "none"."""
    conv, rates = pd.factorize(rows["dropout_conv"], use_na_sentinel=False)
    linear, others = pd.factorize(rows["dropout_linear"], use_na_sentinel=False)
    codes, pairs = pd.factorize(conv * len(others) + linear)
    both = zip(rates[pairs // len(others)], others[pairs % len(others)], strict=True)
    labels, places = np.unique([f"{a:g}" if a == b else f"{a:g} + {b:g}" for a, b in both], return_inverse=True)
    nullable = {name: rows[name].astype(object).where(rows[name].notna(), "none") for name in _NULLABLE if name in rows}
    return rows.assign(dropout=pd.Categorical.from_codes(places[codes], labels.tolist()), **nullable)


def with_hyperparameters(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A column for each hyperparameter that varies within an optimizer, and their names; `lr` first if it does.

    The names begin with `HYPERPARAMETER`, except lr: an optimizer from elsewhere may name an argument like a column.
    """
    parsed = {text: json.loads(text) for text in rows["hyperparameters"].unique()}
    seen: dict[str, dict[str, set[Any]]] = {}  # hyperparameter → optimizer → its values
    for optimizer, text in rows[["optimizer", "hyperparameters"]].drop_duplicates().itertuples(index=False):
        for name, value in parsed[text].items():
            seen.setdefault(name, {}).setdefault(optimizer, set()).add(_label(value))
    varying = [name for name, values in seen.items() if any(len(found) > 1 for found in values.values())]
    texts = rows["hyperparameters"].astype(object)
    columns = {
        HYPERPARAMETER + name: texts.map({t: _label(v[name]) for t, v in parsed.items() if name in v})
        for name in varying
    }
    lr = ["lr"] if (rows.groupby("optimizer", observed=True)["lr"].nunique() > 1).any() else []
    return rows.assign(**columns), [*lr, *columns]


def _label(value: Any) -> Any:
    """Pairs, booleans and null as the sweep file writes them, numbers as they are."""
    return json.dumps(value) if isinstance(value, (list, dict, bool)) or value is None else value


def varying(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns, of these, that hold more than one value."""
    return [name for name in columns if rows[name].nunique(dropna=False) > 1]


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of each trial, by trial id, in any order of storage; texts that are categories become plain ones."""
    last = rows.loc[rows.groupby("trial_id", observed=True)["epoch"].idxmax()]
    return last.astype(dict.fromkeys(last.select_dtypes("category"), object))


def final(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each trial that needs no more training, its last, with two more columns.

    Such a trial is finished, diverged or stopped; only a finished one was trained for all its epochs. `gap` is train −
    val accuracy, NaN where no images validate. `lost` says that the training brought nothing: it diverged, or ended
    with a network that guesses.
    """
    last = _last(rows)
    last = last[last["status"].isin(["finished", "diverged", "stopped"])]
    lost = (last["status"] == "diverged") | ((last["status"] == "finished") & _guesses(last))
    return last.assign(gap=last["train_accuracy"] - last["val_accuracy"], lost=lost)


_BY_LUCK = 0.001  # the probability with which a network that guesses is taken for one that has learned


def _guesses(finals: pd.DataFrame) -> pd.Series:
    """Whose validation accuracy is not above what guessing reaches with probability 0.999 on so many images.

    Where no images validate, whose training accuracy is not.
    """
    from scipy.stats import binom

    is_validated = images_of(finals, "val") > 0
    images = images_of(finals, "val").where(is_validated, images_of(finals, "train_eval"))
    accuracy = finals["val_accuracy"].where(is_validated, finals["train_accuracy"])
    return accuracy.le(binom.ppf(1 - _BY_LUCK, images, chance(finals)) / images)


def trained_epochs(finished: pd.DataFrame) -> pd.Series:
    """How many epochs finished trials have trained; of the last one only a part where their sweep asks for steps."""
    whole = images_of(finished, "train") // finished["batch_size"]
    return (finished["steps"] / whole).fillna(finished["epochs"])


def images_of(rows: pd.DataFrame, split: str) -> pd.Series:
    """How many images the split, train, train_eval, val or test, of each row's data has."""
    return _of_data(rows, f"{split}_images", {name: getattr(info, split) for name, info in DATASETS.items()})


def chance(rows: pd.DataFrame) -> pd.Series:
    """The accuracy of guessing on each row's data: one in so many classes."""
    return 1 / _of_data(rows, "classes", {name: info.classes for name, info in DATASETS.items()})


def _of_data(rows: pd.DataFrame, column: str, named: Mapping[str, int]) -> pd.Series:
    """A column about the data, which rows of older versions do not have: they are of a data set with a name."""
    known = rows["dataset"].astype(object).map(named).astype(float)
    return rows[column].astype(float).fillna(known) if column in rows else known


def with_worst(finals: pd.DataFrame, score: Score) -> pd.Series:
    """The score of each trial, where a lost one has the worst: that of guessing, or of the largest loss there is."""
    values = finals[score].astype(float)
    worst = values.max() if score.is_loss else chance(finals)
    return values.mask(finals["lost"], worst)


def states(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each trial, its last, whose `status` is finished, diverged, stopped, failed or running."""
    return _last(rows)


def budgets_in_words(budgets: Mapping[str, int]) -> str:
    """How many configurations each optimizer was given, briefly where many have the same number."""
    if len(set(budgets.values())) == 1:
        return f"{count(next(iter(budgets.values())), 'configuration')} of each optimizer"
    by_size: dict[int, list[str]] = {}
    for label, n in sorted(budgets.items(), key=lambda item: -item[1]):
        by_size.setdefault(n, []).append(label)
    return "; ".join(f"{count(n, 'configuration')} of {', '.join(labels)}" for n, labels in by_size.items())
